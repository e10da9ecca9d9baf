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

// Where a tile of rows finds its pages: page i at base + index * stride, with the index
// from table (NULL: i). tail replaces the values of page tail_page.
typedef struct {
	const char *base;
	int64_t stride, k_bytes;
	const int32_t *table;
	const char *tail;
	int64_t tail_page, d, dp, dt;
	float scale;
} attn_pages;

INLINE int attn_kind(int64_t dt, int64_t d) { return dt == MC_F32 ? KF : fast_bf16(d); }

// Rows of one tile, at most ATTN_ROWS.
#ifdef MC_TILE
enum { ATTN_ROWS = 32 };
INLINE int64_t attn_rows(int kind) { return kind == KT ? ATTN_ROWS : MAX_ROWS; }
#else
enum { ATTN_ROWS = MAX_ROWS };
INLINE int64_t attn_rows(int kind) { return MAX_ROWS; }
#endif

// A tile of rows on its way through its tokens: Q staged [R][ldq], running maxima m and
// sums l, O [R][dp] undivided, S scores of a chunk [R][CHUNK].
typedef struct {
	int kind, R;
	size_t ldq;
	char *Q;
	float *S, *O;
	float m[ATTN_ROWS], l[ATTN_ROWS];
	int64_t seen[ATTN_ROWS]; // tokens that a row may see
} attn_tile;

// Scratch of a tile: scores, sums, staged queries, a tail page of values.
static int64_t attn_local(int64_t dp) { return ATTN_ROWS * (CHUNK + dp + dp + 64) * 4 + dp * MC_BLOCK * 4; }
static char *attn_tail(char *local, int64_t dp) { return local + ATTN_ROWS * (CHUNK + dp + dp + 64) * 4; }

static void attn_begin(attn_tile *t, int kind, int R, int64_t d, int64_t dp, char *local) {
	t->kind = kind, t->R = R, t->ldq = d + 32;
	t->S = (float *)local, t->O = t->S + ATTN_ROWS * CHUNK, t->Q = (char *)(t->O + ATTN_ROWS * dp);
	for (int i = 0; i < R; i++) t->m[i] = -3e38f, t->l[i] = 0;
	memset(t->O, 0, R * dp * 4);
}

// Scores S of the pages k[] of a chunk, to_values[] the distance to what comes next.
static void attn_scores(const attn_tile *t, int i0, int R, int64_t d, const char *const *k, const int64_t *to_values, int pages) {
	const char *Q = t->Q + i0 * t->ldq * kind_size(t->kind);
	float *S = t->S + i0 * CHUNK;
	for (int g = 0; g < pages;) {
#ifdef MC_TILE
		if (t->kind == KT) {
			if (R > 16 || g + 1 == pages) {
				tile_block(R > 16, rows_of(Q, t->ldq * 2), k[g], d / 32, S + g * 32, CHUNK, 0, (tile_ahead){.weights = k[g] + to_values[g], .lines = 32});
				g++;
				continue;
			}
			tile_strip(rows_of(Q, t->ldq * 2), k + g, to_values + g, 1, d / 32, S + g * 32, CHUNK, 0);
			g += 2;
			continue;
		}
#endif
		int NP = pages - g >= 4 && micro4[t->kind][R] ? 4 : pages - g >= 2 && micro2[t->kind][R] ? 2 : 1;
		micro_fn fn = NP == 4 ? micro4[t->kind][R] : NP == 2 ? micro2[t->kind][R] : micro1[t->kind][R];
		fn(Q, t->ldq, k + g, to_values + g, 1, d / kind_step(t->kind), S + g * 32, CHUNK, 0);
		g += NP;
	}
}

// Adds the chunk's probabilities, which lie in S, times the values of the pages v[].
static void attn_values(const attn_tile *t, int i0, int R, const attn_pages *a, const char *const *v, const int64_t *to_next, int pages) {
	int kind = t->kind;
	int64_t v_bytes = kind == KF ? 4096 : 2048;
	float *S = t->S + i0 * CHUNK, *O = t->O + i0 * a->dp;
#ifdef MC_TILE
	for (int64_t p = 0; kind == KT && p < a->dp / 32; p += R > 16 ? 1 : 2) {
		const char *W[2 * CHUNK_PAGES];
		int64_t ahead[2 * CHUNK_PAGES];
		int second = R <= 16 && p + 1 < a->dp / 32;
		for (int g = 0; g < pages; g++) {
			W[2 * g] = v[g] + p * v_bytes, W[2 * g + 1] = W[2 * g] + second * v_bytes;
			ahead[2 * g] = ahead[2 * g + 1] = to_next[g];
		}
		if (R > 16) tile_pieces(1, rows_of(S, CHUNK * 4), W, ahead, pages, O + p * 32, a->dp);
		else if (second) tile_strip(rows_of(S, CHUNK * 4), W, ahead, pages, 1, O + p * 32, a->dp, 1);
		else tile_pieces(0, rows_of(S, CHUNK * 4), W, ahead, pages, O + p * 32, a->dp);
	}
	if (kind == KT) return;
#endif
	product(kind, R, (int)(a->dp / 32), S, kind == KD ? 2 * CHUNK : CHUNK, v, to_next, v_bytes, pages, MC_BLOCK / kind_step(kind), O, a->dp, 1);
}

// Rows i0..i0+R of a tile through tokens from..to, from a multiple of CHUNK.
static void attend(attn_tile *t, int i0, int R, const attn_pages *a, int64_t from, int64_t to) {
	for (int64_t at = from; at < to; at += CHUNK) {
		int pages = (int)CEIL(imin(CHUNK, to - at), MC_BLOCK);
		const char *k[CHUNK_PAGES], *v[CHUNK_PAGES];
		int64_t to_values[CHUNK_PAGES], to_next[CHUNK_PAGES]; // fetched while keys, while values are read
		for (int g = 0; g < pages; g++) {
			int64_t i = at / MC_BLOCK + g;
			k[g] = a->base + (a->table ? a->table[i] : i) * a->stride;
			v[g] = i == a->tail_page ? a->tail : k[g] + a->k_bytes;
			to_values[g] = v[g] - k[g];
			int64_t later = imin(i + CHUNK_PAGES, (to - 1) / MC_BLOCK);
			to_next[g] = a->base + (a->table ? a->table[later] : later) * a->stride - v[g];
		}
		attn_scores(t, i0, R, a->d, k, to_values, pages);
		for (int i = i0; i < i0 + R; i++) {
			float f = soften(t->S + i * CHUNK, pages * MC_BLOCK, t->seen[i] - at, a->scale, &t->m[i], &t->l[i], t->kind >= KD);
			if (f != 1.0f) for (int64_t j = 0; j < a->dp; j += VL) vstore(t->O + i * a->dp + j, vload(t->O + i * a->dp + j) * f);
		}
		attn_values(t, i0, R, a, v, to_next, pages);
	}
}

// The shape of tiles for rows of a tile; nothing where there are none.
INLINE void attn_shape(int kind, int R) {
#ifdef MC_TILE
	if (kind == KT) tile_begin(R > 16 ? 16 : R, R > 16 ? R - 16 : 0);
#endif
}
INLINE void attn_end(int kind) {
#ifdef MC_TILE
	if (kind == KT) tile_end();
#endif
}

static void divide(const mc_tensor *out, int64_t row, int64_t head, int64_t d, const float *O, float l) {
	char *o = row_of(out, row) + head * d * size_of(out->dt);
	float r = 1.0f / l;
	for (int64_t j = 0; j < d; j += VL) vput(o, out->dt, j, d - j, vload(O + j) * r);
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
		out->tasks = H * segments * CEIL(rows, SEGMENT_TILES * attn_rows(attn_kind(s.kv.dt, c->n[2])));
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
	int64_t H = c->n[1], D = c->n[2], kind = attn_kind(L.kv.dt, D), span = SEGMENT_TILES * attn_rows(kind), pieces = CEIL(c->n[4], span);
	int64_t piece = task % pieces, h = task / pieces % H, s = task / pieces / H;
	const int32_t *starts = c->t[4].p;
	if (segment_bad(c, s, x)) return;
	int64_t lo = starts[s], n = starts[s + 1] - lo;
	attn_pages a = {x->shared + (h * L.pages + lo / MC_BLOCK + s) * L.kv.page_bytes, L.kv.page_bytes, L.kv.k_bytes, NULL, NULL, -1, D, L.kv.dp, L.kv.dt, c->f[0]};
	attn_tile t;
	for (int64_t r = piece * span; r < imin(n, (piece + 1) * span); r += attn_rows(kind)) {
		attn_begin(&t, kind, (int)imin(attn_rows(kind), n - r), D, L.kv.dp, x->local);
		for (int i = 0; i < t.R; i++) {
			t.seen[i] = n;
			stage_row(kind, t.Q + i * t.ldq * kind_size(kind), row_of(&c->t[1], lo + r + i) + h * D * size_of(c->t[1].dt), c->t[1].dt, D, t.ldq);
		}
		attn_shape(kind, t.R);
		attend(&t, 0, t.R, &a, 0, n);
		attn_end(kind);
		for (int i = 0; i < t.R; i++) divide(&c->t[0], lo + r + i, h, D, t.O + i * L.kv.dp, t.l[i]);
	}
}
