// mc_attn.h: the key/value cache and attention.
//
// A page holds 32 tokens of one head. Its keys are a panel with tokens as outputs,
// its values panels with head dimensions as outputs, so the micro-kernel of the
// linear layers computes scores and weighted sums. Rows that share a kv head (the
// query heads of its group, and neighbouring tokens) form one tile.
//
// A row runs through its tokens in chunks of 256 with a running maximum (online
// softmax). Chunks begin at multiples of 256 of the absolute position and tokens
// that a row may not see count as exact zeros, so a row's result does not depend
// on the rows beside it or on how a prompt was cut.
enum { CHUNK = 256, CHUNK_PAGES = CHUNK / MC_BLOCK };

INLINE char *page_of(const mc_kv *kv, int64_t layer, int64_t block, int64_t head) {
	return kv->data + ((layer * kv->blocks + block) * kv->heads + head) * kv->page_bytes;
}

// Writes one token of one head into its page.
static void put_token(const mc_kv *kv, char *page, int64_t at, const char *k, const char *v, int64_t dt, int64_t vdt) {
	float key[VL], value[VL];
	char *vp = page + kv->k_bytes;
	for (int64_t j = 0; j < kv->d; j += VL) {
		int64_t n = imin(VL, kv->d - j);
		vstore(key, vget(k, dt, j, n));
		vstore(value, vget(v, vdt, j, n));
		if (kv->dt == MC_F32) {
			for (int64_t i = 0; i < n; i++) {
				int64_t d = j + i;
				((float *)page)[d * 32 + at] = key[i];
				((float *)vp)[d / 32 * 1024 + at * 32 + d % 32] = value[i];
			}
			continue;
		}
		uint16_t kh[VL], vhalf[VL];
		vstore_bf16(kh, vload(key));
		vstore_bf16(vhalf, vload(value));
		for (int64_t i = 0; i < n; i++) {
			int64_t d = j + i;
			((uint16_t *)page)[d / 2 * 64 + at * 2 + d % 2] = kh[i];
			((uint16_t *)vp)[d / 32 * 1024 + at / 2 * 64 + d % 32 * 2 + at % 2] = vhalf[i];
		}
	}
}

// Writes n tokens of one head, from row lo of two tensors on, into a fresh page; the
// other tokens become zero. As put_token n times, but with whole lines.
static void put_block(const mc_kv *kv, char *page, const mc_tensor *k, const mc_tensor *v, int64_t lo, int64_t n, int64_t head, uint32_t *rows) {
	if (kv->dt == MC_F32 || n == 1) {
		memset(page, 0, kv->page_bytes);
		for (int64_t t = 0; t < n; t++)
			put_token(kv, page, t, row_of(k, lo + t) + head * kv->d * size_of(k->dt), row_of(v, lo + t) + head * kv->d * size_of(v->dt), k->dt, v->dt);
		return;
	}
	int64_t D = kv->d, ld = kv->dp / 2; // row length in pairs
	for (int part = 0; part < 2; part++) {
		const mc_tensor *x = part ? v : k;
		memset(rows, 0, MC_BLOCK * ld * 4);
		for (int64_t t = 0; t < n; t++) {
			const char *s = row_of(x, lo + t) + head * D * size_of(x->dt);
			for (int64_t j = 0; j < D; j += VL) vput(rows + t * ld, MC_BF16, j, D - j, vget(s, x->dt, j, D - j));
		}
		if (part == 0) {
			for (int64_t j = 0; j < D / 2; j++) for (int t = 0; t < MC_BLOCK; t++) ((uint32_t *)page)[j * 32 + t] = rows[t * ld + j];
			continue;
		}
		uint32_t *out = (uint32_t *)(page + kv->k_bytes);
		for (int64_t p = 0; p < kv->dp / 32; p++)
			for (int t = 0; t < MC_BLOCK; t += 2) {
				const uint16_t *even = (const uint16_t *)(rows + t * ld) + p * 32, *odd = (const uint16_t *)(rows + (t + 1) * ld) + p * 32;
				for (int d = 0; d < 32; d++) *out++ = even[d] | (uint32_t)odd[d] << 16;
			}
	}
}

// KVStore: t = k, v, slots; n = T, layer; obj = cache. A task is a head.
static void kv_store(const mc_cmd *c, int64_t head, mc_ctx *x) {
	const mc_kv *kv = c->obj;
	const int32_t *slots = c->t[2].p;
	for (int64_t t = 0; t < c->n[0]; t++) {
		if (slots[t] < 0) continue;
		if (slots[t] >= kv->blocks * MC_BLOCK) { bad(x, c, t, slots[t], kv->blocks * MC_BLOCK); continue; }
		put_token(kv, page_of(kv, c->n[1], slots[t] / MC_BLOCK, head), slots[t] % MC_BLOCK,
			row_of(&c->t[0], t) + head * kv->d * size_of(c->t[0].dt), row_of(&c->t[1], t) + head * kv->d * size_of(c->t[1].dt), c->t[0].dt, c->t[1].dt);
	}
}

// KVCopy: extra = pairs of int32; n = pairs; obj = cache. A task is a layer.
static void kv_copy(const mc_cmd *c, int64_t layer) {
	const mc_kv *kv = c->obj;
	const int32_t *pairs = c->extra;
	for (int64_t i = 0; i < c->n[0]; i++)
		memcpy(page_of(kv, layer, pairs[2 * i + 1], 0), page_of(kv, layer, pairs[2 * i], 0), kv->heads * kv->page_bytes);
}

// Scores to probabilities: seen tokens of n (a multiple of 32) count. Updates the
// running maximum and sum and returns the factor for what was summed before.
static float soften(float *S, int64_t n, int64_t seen, float scale, float *m, float *l, int half) {
	vi steps = vsteps();
	vf mx = vset(-3e38f);
	int64_t full = imax(0, imin(n, seen)) / VL * VL, t = 0;
	for (; t < full; t += VL) mx = vmax(vload(S + t), mx);
	if (t < seen && t < n) mx = vmax(vselect(steps < (int32_t)(seen - t), vload(S + t), vset(-3e38f)), mx);
	float top = vmaximum(mx) * scale, old = *m;
	if (top < old || seen <= 0) top = old;
	vf sum = vset(0), shift = vset(-top), factor = vset(scale);
	for (t = 0; t < n; t += VL) {
		vf e = vset(0);
		if (t < full) e = vexp_negative(fma_(vload(S + t), factor, shift));
		else if (t < seen) e = (vf)((vi)vexp_negative(fma_(vload(S + t), factor, shift)) & (steps < (int32_t)(seen - t)));
		sum = sum + e;
		if (half) vstore_bf16((uint16_t *)S + t, e); // in place: 2 bytes behind the 4 read
		else vstore(S + t, e);
	}
	float f = 1.0f;
	if (old != top) { float e[VL]; vstore(e, vexp_negative(vset(old - top))); f = e[0]; }
	*m = top;
	*l = *l * f + vsum(sum);
	return f;
}

// One tile of rows: Q staged [R][ldq], seen[i] tokens of row i. Pages of chunk c
// begin at base + index * stride with index from table (NULL: 0, 1, ...). tail
// replaces the values of page tail_page. Leaves R rows of [dp] in O, undivided, and
// their sums in l.
typedef struct {
	const char *base;
	int64_t stride, k_bytes;
	const int32_t *table;
	const char *tail;
	int64_t tail_page, d, dp, dt;
	float scale;
} attn_pages;

static void attend(int kind, int R, const char *Q, size_t ldq, const attn_pages *a, const int64_t *seen, float *S, float *O, float *l) {
	float m[MAX_ROWS];
	int64_t most = 0;
	for (int i = 0; i < R; i++) { m[i] = -3e38f; l[i] = 0; most = imax(most, seen[i]); }
	memset(O, 0, R * a->dp * 4);
	int64_t groups_k = a->d / kind_step(kind), groups_v = MC_BLOCK / kind_step(kind), v_bytes = kind == KF ? 4096 : 2048;
	for (int64_t t = 0; t < most; t += CHUNK) {
		int pages = (int)CEIL(imin(CHUNK, most - t), MC_BLOCK);
		const char *k[CHUNK_PAGES], *v[CHUNK_PAGES];
		int64_t to_values[CHUNK_PAGES], to_next[CHUNK_PAGES]; // fetched while keys, while values are read
		for (int g = 0; g < pages; g++) {
			int64_t i = t / MC_BLOCK + g;
			k[g] = a->base + (a->table ? a->table[i] : i) * a->stride;
			v[g] = i == a->tail_page ? a->tail : k[g] + a->k_bytes;
			to_values[g] = v[g] - k[g];
			int64_t later = imin(i + CHUNK_PAGES, (most - 1) / MC_BLOCK);
			to_next[g] = a->base + (a->table ? a->table[later] : later) * a->stride - v[g];
		}
		for (int g = 0; g < pages;) {
			int NP = pages - g >= 4 && micro4[kind][R] ? 4 : pages - g >= 2 && micro2[kind][R] ? 2 : 1;
			micro_fn fn = NP == 4 ? micro4[kind][R] : NP == 2 ? micro2[kind][R] : micro1[kind][R];
			fn(Q, ldq, k + g, to_values + g, 1, groups_k, S + g * 32, CHUNK, 0);
			g += NP;
		}
		for (int i = 0; i < R; i++) {
			float f = soften(S + i * CHUNK, pages * MC_BLOCK, seen[i] - t, a->scale, &m[i], &l[i], kind == KD);
			if (f != 1.0f) for (int64_t j = 0; j < a->dp; j += VL) vstore(O + i * a->dp + j, vload(O + i * a->dp + j) * f);
		}
		product(kind, R, (int)(a->dp / 32), S, kind == KD ? 2 * CHUNK : CHUNK, v, to_next, v_bytes, pages, groups_v, O, a->dp, 1);
	}
}

INLINE int attn_kind(int64_t dt) { return dt == MC_F32 ? KF : FAST_BF16; }
// Scratch of one tile: scores, sums, staged queries, a tail page of values.
static int64_t attn_local(int64_t dp) { return MAX_ROWS * (CHUNK + dp + dp + 64) * 4 + dp * MC_BLOCK * 4; }

static void divide(const mc_tensor *out, int64_t row, int64_t head, int64_t d, const float *O, float l) {
	char *o = row_of(out, row) + head * d * size_of(out->dt);
	float r = 1.0f / l;
	for (int64_t j = 0; j < d; j += VL) vput(o, out->dt, j, d - j, vload(O + j) * r);
}

// PagedAttention: t = out, q, starts, lens, tables; n = B, Hq, Hkv, D, layer, table
// width, MaxRows, MaxLen, rows of q; f = scale; obj = cache. A task is a kv head of a
// sequence and a tile of its rows.
static void paged_plan(const mc_cmd *c, mc_plan *out) {
	const mc_kv *kv = c->obj;
	int64_t G = c->n[1] / c->n[2], tiles = CEIL(c->n[6] * G, MAX_ROWS);
	out->tasks = c->n[0] * c->n[2] * tiles;
	out->ns = (double)c->n[8] * c->n[1] * c->n[7] * kv->d * 4 / 100;
	out->local_bytes = attn_local(kv->dp);
}

static void paged_zero(const mc_cmd *c, int64_t lo, int64_t hi, int64_t kvh, int64_t G) {
	for (int64_t t = imax(lo, 0); t < imin(hi, c->n[8]); t++)
		memset(row_of(&c->t[0], t) + kvh * G * c->n[3] * size_of(c->t[0].dt), 0, G * c->n[3] * size_of(c->t[0].dt));
}

static void paged_run(const mc_cmd *c, int64_t task, mc_ctx *x) {
	const mc_kv *kv = c->obj;
	int64_t Hkv = c->n[2], G = c->n[1] / Hkv, D = c->n[3], tiles = CEIL(c->n[6] * G, MAX_ROWS);
	int64_t tile = tiles - 1 - task % tiles, kvh = task / tiles % Hkv, b = task / tiles / Hkv; // the longest first
	const int32_t *starts = c->t[2].p, *lens = c->t[3].p;
	const int32_t *table = (const int32_t *)row_of(&c->t[4], b);
	int64_t lo = starts[b], n = starts[b + 1] - lo, len = lens[b], r0 = tile * MAX_ROWS;
	if (len <= 0) { if (tile == 0) paged_zero(c, lo, starts[b + 1], kvh, G); return; }
	if (lo < 0 || n < 0 || lo + n > c->n[8] || n > c->n[6] || len > c->n[7] || len < n) {
		if (tile == 0) bad(x, c, b, len, c->n[7]);
		return;
	}
	if (r0 >= n * G) return;
	int R = (int)imin(MAX_ROWS, n * G - r0), kind = attn_kind(kv->dt);
	size_t ldq = D + 32;
	float *S = (float *)x->local, *O = S + MAX_ROWS * CHUNK, l[MAX_ROWS];
	char *Q = (char *)(O + MAX_ROWS * kv->dp), *tail = Q + MAX_ROWS * (kv->dp + 64) * 4;
	int64_t seen[MAX_ROWS], most = 0;
	for (int i = 0; i < R; i++) {
		int64_t t = (r0 + i) / G, h = kvh * G + (r0 + i) % G;
		seen[i] = len - n + 1 + t;
		most = imax(most, seen[i]);
		stage_row(kind, Q + i * ldq * kind_size(kind), row_of(&c->t[1], lo + t) + h * D * size_of(c->t[1].dt), c->t[1].dt, D, ldq);
	}
	for (int64_t i = 0; i < CEIL(most, MC_BLOCK); i++)
		if (table[i] < 0 || table[i] >= kv->blocks) { bad(x, c, b, table[i], kv->blocks); return; }
	attn_pages a = {page_of(kv, c->n[4], 0, kvh), kv->heads * kv->page_bytes, kv->k_bytes, table, NULL, -1, D, kv->dp, kv->dt, c->f[0]};
	if (CEIL(most, MC_BLOCK) == CEIL(len, MC_BLOCK) && len % MC_BLOCK) {
		// Slots after the last token may hold anything, and 0 * infinity is not 0.
		a.tail_page = len / MC_BLOCK;
		a.tail = tail;
		int64_t at = len % MC_BLOCK, size = size_of(kv->dt);
		memcpy(tail, a.base + table[a.tail_page] * a.stride + a.k_bytes, kv->dp * MC_BLOCK * size);
		for (int64_t p = 0; p < kv->dp / 32; p++) {
			if (kind == KF) { memset(tail + p * 4096 + at * 128, 0, (MC_BLOCK - at) * 128); continue; }
			uint16_t *v = (uint16_t *)(tail + p * 2048);
			if (at % 2) for (int j = 0; j < 32; j++) v[at / 2 * 64 + 2 * j + 1] = 0;
			memset(v + CEIL(at, 2) * 64, 0, (16 - CEIL(at, 2)) * 128);
		}
	}
	attend(kind, R, Q, ldq, &a, seen, S, O, l);
	for (int i = 0; i < R; i++) divide(&c->t[0], lo + (r0 + i) / G, kvh * G + (r0 + i) % G, D, O + i * kv->dp, l[i]);
}

// SegmentAttention: t = out, q, k, v, starts; n = N, H, D, segments, MaxRows, bf16
// allowed; f = scale. Phase 0 packs keys and values of a (segment, head) into pages in
// shared scratch; segment s begins at page starts[s]/32 + s of its head. Phase 1: a
// task is a head of a segment and some tiles of its rows.
enum { SEGMENT_TILES = 4 };
typedef struct { mc_kv kv; int64_t pages; } segment_layout;
static segment_layout segment_pages(const mc_cmd *c) {
	segment_layout s = {0};
	s.kv.d = c->n[2];
	s.kv.dp = CEIL(c->n[2], 32) * 32;
	s.kv.dt = c->n[5] ? MC_BF16 : MC_F32;
	s.kv.k_bytes = CEIL(c->n[2], 2) * 2 * MC_BLOCK * size_of(s.kv.dt);
	s.kv.page_bytes = s.kv.k_bytes + s.kv.dp * MC_BLOCK * size_of(s.kv.dt);
	s.pages = c->n[0] / MC_BLOCK + c->n[3] + 1;
	return s;
}
static void segment_plan(const mc_cmd *c, int phase, mc_plan *out) {
	segment_layout s = segment_pages(c);
	int64_t N = c->n[0], H = c->n[1], segments = c->n[3], rows = c->n[4];
	out->shared_bytes = s.pages * H * s.kv.page_bytes;
	out->local_bytes = attn_local(s.kv.dp);
	if (phase == 0) {
		out->tasks = H * segments;
		out->ns = (double)N * H * c->n[2];
	} else if (phase == 1) {
		out->tasks = H * segments * CEIL(rows, SEGMENT_TILES * MAX_ROWS);
		out->ns = (double)N * H * rows * c->n[2] * 4 / 100;
	}
}

static int segment_bad(const mc_cmd *c, int64_t s, mc_ctx *x) {
	const int32_t *starts = c->t[4].p;
	int64_t lo = starts[s], hi = starts[s + 1];
	if (lo >= 0 && hi >= lo && hi <= c->n[0] && hi - lo <= c->n[4]) return 0;
	bad(x, c, s, hi - lo, c->n[4]);
	return 1;
}

static void segment_pack(const mc_cmd *c, int64_t task, mc_ctx *x) {
	segment_layout L = segment_pages(c);
	int64_t H = c->n[1], h = task % H, s = task / H;
	const int32_t *starts = c->t[4].p;
	if (segment_bad(c, s, x)) return;
	int64_t lo = starts[s], n = starts[s + 1] - lo;
	char *base = x->shared + (h * L.pages + lo / MC_BLOCK + s) * L.kv.page_bytes;
	for (int64_t t = 0; t < n; t += MC_BLOCK)
		put_block(&L.kv, base + t / MC_BLOCK * L.kv.page_bytes, &c->t[2], &c->t[3], lo + t, imin(MC_BLOCK, n - t), h, (uint32_t *)x->local);
}

static void segment_run(const mc_cmd *c, int64_t task, mc_ctx *x) {
	segment_layout L = segment_pages(c);
	int64_t H = c->n[1], D = c->n[2], pieces = CEIL(c->n[4], SEGMENT_TILES * MAX_ROWS);
	int64_t piece = task % pieces, h = task / pieces % H, s = task / pieces / H;
	const int32_t *starts = c->t[4].p;
	if (segment_bad(c, s, x)) return;
	int64_t lo = starts[s], n = starts[s + 1] - lo;
	int kind = attn_kind(L.kv.dt);
	size_t ldq = D + 32;
	float *S = (float *)x->local, *O = S + MAX_ROWS * CHUNK, l[MAX_ROWS];
	char *Q = (char *)(O + MAX_ROWS * L.kv.dp);
	attn_pages a = {x->shared + (h * L.pages + lo / MC_BLOCK + s) * L.kv.page_bytes, L.kv.page_bytes, L.kv.k_bytes, NULL, NULL, -1, D, L.kv.dp, L.kv.dt, c->f[0]};
	for (int64_t r = piece * SEGMENT_TILES * MAX_ROWS; r < imin(n, (piece + 1) * SEGMENT_TILES * MAX_ROWS); r += MAX_ROWS) {
		int R = (int)imin(MAX_ROWS, n - r);
		int64_t seen[MAX_ROWS];
		for (int i = 0; i < R; i++) {
			seen[i] = n;
			stage_row(kind, Q + i * ldq * kind_size(kind), row_of(&c->t[1], lo + r + i) + h * D * size_of(c->t[1].dt), c->t[1].dt, D, ldq);
		}
		attend(kind, R, Q, ldq, &a, seen, S, O, l);
		for (int i = 0; i < R; i++) divide(&c->t[0], lo + r + i, h, D, O + i * L.kv.dp, l[i]);
	}
}
