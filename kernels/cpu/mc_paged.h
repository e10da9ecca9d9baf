// mc_paged.h: attention over the paged cache, with a shared prefix read once.
//
// A task is a kv head of a sequence and a tile of its rows. Sequences whose block tables
// begin alike (forks of one image) form a group: the leader's task takes the rows of all
// of them through the shared chunks together, then each through the rest of its own.
// A row meets the same chunks in the same order either way, and rows of a product do not
// touch each other, so the bits are those of sequences that share nothing.
//
// PagedAttention: t = out, q, starts, lens, tables; n = B, Hq, Hkv, D, layer, table
// width, MaxRows, MaxLen, rows of q; f = scale; obj = cache. With B > 1, phase 0 forms
// the groups in shared scratch.
typedef struct {
	int32_t leader; // of the group; of itself when alone
	int32_t next;   // member after this one, -1 at the end
	int32_t rows;   // of the group, in a leader
	int32_t shared; // tokens, a multiple of CHUNK, in a leader
} paged_member;

static int64_t paged_tiles(const mc_cmd *c) {
	const mc_kv *kv = c->obj;
	return CEIL(c->n[6] * (c->n[1] / c->n[2]), attn_rows(attn_kind(kv->dt, kv->d)));
}

static void paged_plan(const mc_cmd *c, int phase, mc_plan *out) {
	const mc_kv *kv = c->obj;
	int grouping = c->n[0] > 1;
	out->local_bytes = attn_local(kv->dp);
	out->shared_bytes = grouping ? c->n[0] * sizeof(paged_member) : 0;
	if (phase == 0 && grouping) {
		out->tasks = 1;
		out->ns = (double)c->n[0] * 10;
	} else if (phase == grouping) {
		out->tasks = c->n[0] * c->n[2] * paged_tiles(c);
		out->ns = (double)c->n[8] * c->n[1] * c->n[7] * kv->d * 4 / 100;
	}
}

// Whether a sequence's rows and tokens are within the operands.
static int paged_valid(const mc_cmd *c, int64_t b) {
	const int32_t *starts = c->t[2].p, *lens = c->t[3].p;
	int64_t lo = starts[b], n = starts[b + 1] - lo;
	return !(lo < 0 || n < 0 || lo + n > c->n[8] || n > c->n[6] || lens[b] > c->n[7] || lens[b] < n);
}

// Tokens in whole chunks that all rows of both sequences see in the same blocks.
static int64_t paged_common(const mc_cmd *c, int64_t a, int64_t b, int64_t most) {
	const int32_t *ta = (const int32_t *)row_of(&c->t[4], a), *tb = (const int32_t *)row_of(&c->t[4], b);
	int64_t n = 0;
	while (n + CHUNK <= most && !memcmp(ta + n / MC_BLOCK, tb + n / MC_BLOCK, CHUNK_PAGES * 4)) n += CHUNK;
	return n;
}

// Forms groups among sequences whose rows fit a tile several times. A sequence joins the
// first leader with which it shares at least half of what the group shares.
static void paged_group(const mc_cmd *c, paged_member *m) {
	const mc_kv *kv = c->obj;
	const int32_t *starts = c->t[2].p, *lens = c->t[3].p;
	int64_t G = c->n[1] / c->n[2], limit = attn_rows(attn_kind(kv->dt, kv->d));
	for (int64_t b = 0; b < c->n[0]; b++) {
		int64_t rows = (starts[b + 1] - starts[b]) * G, whole = lens[b] - (starts[b + 1] - starts[b]) + 1;
		m[b] = (paged_member){(int32_t)b, -1, (int32_t)rows, (int32_t)(whole / CHUNK * CHUNK)};
		if (!paged_valid(c, b) || rows <= 0 || rows > limit / 2 || whole < CHUNK) { m[b].shared = 0; continue; }
		for (int64_t l = 0; l < b; l++) {
			if (m[l].leader != l || !m[l].shared || m[l].rows + rows > limit) continue;
			int64_t common = paged_common(c, l, b, imin(m[l].shared, m[b].shared));
			if (!common || (m[l].next >= 0 && 2 * common < m[l].shared)) continue;
			int64_t last = l;
			while (m[last].next >= 0) last = m[last].next;
			m[last].next = (int32_t)b;
			m[b].leader = (int32_t)l;
			m[l].rows += (int32_t)rows;
			m[l].shared = (int32_t)common;
			break;
		}
	}
}

static void paged_zero(const mc_cmd *c, int64_t b, int64_t kvh, int64_t G) {
	const int32_t *starts = c->t[2].p;
	for (int64_t t = imax(starts[b], 0); t < imin(starts[b + 1], c->n[8]); t++)
		memset(row_of(&c->t[0], t) + kvh * G * c->n[3] * size_of(c->t[0].dt), 0, G * c->n[3] * size_of(c->t[0].dt));
}

// Slots after the last token may hold anything, and 0 * infinity is not 0: the values of
// the last page go to tail with zeros behind the tokens.
static void paged_tail(const mc_kv *kv, int kind, attn_pages *a, int64_t len, char *tail) {
	int64_t at = len % MC_BLOCK;
	a->tail_page = len / MC_BLOCK;
	a->tail = tail;
	memcpy(tail, a->base + a->table[a->tail_page] * a->stride + a->k_bytes, kv->dp * MC_BLOCK * size_of(kv->dt));
	for (int64_t p = 0; p < kv->dp / 32; p++) {
		if (kind == KF) { memset(tail + p * 4096 + at * 128, 0, (MC_BLOCK - at) * 128); continue; }
		uint16_t *v = (uint16_t *)(tail + p * 2048);
		if (at % 2) for (int j = 0; j < 32; j++) v[at / 2 * 64 + 2 * j + 1] = 0;
		memset(v + CEIL(at, 2) * 64, 0, (16 - CEIL(at, 2)) * 128);
	}
}

// Stages R rows of sequence b from row r0 on behind the tile's first i0.
static void paged_stage(const mc_cmd *c, attn_tile *t, int i0, int R, int64_t b, int64_t r0, int64_t kvh) {
	const int32_t *starts = c->t[2].p, *lens = c->t[3].p;
	int64_t G = c->n[1] / c->n[2], D = c->n[3], lo = starts[b], n = starts[b + 1] - lo;
	for (int i = 0; i < R; i++) {
		int64_t row = (r0 + i) / G, h = kvh * G + (r0 + i) % G;
		t->seen[i0 + i] = lens[b] - n + 1 + row;
		stage_row(t->kind, t->Q + (i0 + i) * t->ldq * kind_size(t->kind), row_of(&c->t[1], lo + row) + h * D * size_of(c->t[1].dt), c->t[1].dt, D, t->ldq);
	}
}

// Takes rows i0..i0+R of a tile, which are rows r0.. of sequence b, from a token to their
// last and writes them.
static void paged_finish(const mc_cmd *c, attn_tile *t, int i0, int R, int64_t b, int64_t r0, int64_t kvh, int64_t from, mc_ctx *x) {
	const mc_kv *kv = c->obj;
	const int32_t *starts = c->t[2].p, *table = (const int32_t *)row_of(&c->t[4], b);
	int64_t G = c->n[1] / c->n[2], len = ((const int32_t *)c->t[3].p)[b], most = 0;
	for (int i = i0; i < i0 + R; i++) most = imax(most, t->seen[i]);
	for (int64_t i = from / MC_BLOCK; i < CEIL(most, MC_BLOCK); i++)
		if (table[i] < 0 || table[i] >= kv->blocks) { bad(x, c, b, table[i], kv->blocks); return; }
	attn_pages a = {page_of(kv, c->n[4], 0, kvh), kv->heads * kv->page_bytes, kv->k_bytes, table, NULL, -1, kv->d, kv->dp, kv->dt, c->f[0]};
	if (CEIL(most, MC_BLOCK) == CEIL(len, MC_BLOCK) && len % MC_BLOCK) paged_tail(kv, t->kind, &a, len, attn_tail(x->local, kv->dp));
	attn_shape(t->kind, R);
	attend(t, i0, R, &a, from, most);
	for (int i = i0; i < i0 + R; i++) divide(&c->t[0], starts[b] + (r0 + i - i0) / G, kvh * G + (r0 + i - i0) % G, kv->d, t->O + i * kv->dp, t->l[i]);
}

// All rows of a group.
static void paged_group_run(const mc_cmd *c, const paged_member *m, int64_t leader, int64_t kvh, mc_ctx *x) {
	const mc_kv *kv = c->obj;
	const int32_t *starts = c->t[2].p, *table = (const int32_t *)row_of(&c->t[4], leader);
	int64_t G = c->n[1] / c->n[2], shared = m[leader].shared;
	attn_tile t;
	attn_begin(&t, attn_kind(kv->dt, kv->d), m[leader].rows, kv->d, kv->dp, x->local);
	int at = 0;
	for (int64_t b = leader; b >= 0; b = m[b].next) {
		int R = (int)((starts[b + 1] - starts[b]) * G);
		paged_stage(c, &t, at, R, b, 0, kvh);
		at += R;
	}
	for (int64_t i = 0; i < shared / MC_BLOCK; i++)
		if (table[i] < 0 || table[i] >= kv->blocks) { bad(x, c, leader, table[i], kv->blocks); return; }
	attn_pages a = {page_of(kv, c->n[4], 0, kvh), kv->heads * kv->page_bytes, kv->k_bytes, table, NULL, -1, kv->d, kv->dp, kv->dt, c->f[0]};
	attn_shape(t.kind, t.R);
	attend(&t, 0, t.R, &a, 0, shared);
	at = 0;
	for (int64_t b = leader; b >= 0; b = m[b].next) {
		int R = (int)((starts[b + 1] - starts[b]) * G);
		paged_finish(c, &t, at, R, b, 0, kvh, shared, x);
		at += R;
	}
	attn_end(t.kind);
}

static void paged_run(const mc_cmd *c, int phase, int64_t task, mc_ctx *x) {
	const mc_kv *kv = c->obj;
	paged_member *m = c->n[0] > 1 ? (paged_member *)x->shared : NULL;
	if (m && phase == 0) { paged_group(c, m); return; }
	int kind = attn_kind(kv->dt, kv->d);
	const int32_t *starts = c->t[2].p, *lens = c->t[3].p;
	int64_t G = c->n[1] / c->n[2], tiles = paged_tiles(c);
	int64_t tile = tiles - 1 - task % tiles, kvh = task / tiles % c->n[2], b = task / tiles / c->n[2]; // the longest first
	int64_t n = starts[b + 1] - starts[b], r0 = tile * attn_rows(kind);
	if (lens[b] <= 0) { if (tile == 0) paged_zero(c, b, kvh, G); return; }
	if (!paged_valid(c, b)) {
		if (tile == 0) bad(x, c, b, lens[b], c->n[7]);
		return;
	}
	if (r0 >= n * G || (m && m[b].leader != b)) return;
	if (m && m[b].next >= 0) { paged_group_run(c, m, b, kvh, x); return; }
	attn_tile t;
	attn_begin(&t, kind, (int)imin(attn_rows(kind), n * G - r0), kv->d, kv->dp, x->local);
	paged_stage(c, &t, 0, t.R, b, r0, kvh);
	paged_finish(c, &t, 0, t.R, b, r0, kvh, 0, x);
	attn_end(kind);
}
