// mc_amx.h: linear layers of bf16 panels with tiles. Up to 4 rows go through fused
// multiply-adds in the order of the tiles, which read memory faster; up to 16 in strips of
// two panels, up to 32 in blocks over all of K: weights stream from memory. More rows go in
// blocks of 32 by 32 over chunks of 512 bytes a row, so that the chunk of a panel stays in
// the first level of cache and the chunks of AMX_SUPER rows in the second.
enum { AMX_CHUNK = 512, AMX_SUPER = 512, AMX_PANELS = 8 };

// More than AMX_ROWS rows are staged as tiles, which are read from their first byte to
// their last: [rows/16][k/32][16][32].
INLINE int64_t amx_staged(const mc_weight *w, int64_t T) { return CEIL(T, 32) * 32 * w->k * 2; }
INLINE tile_rows amx_rows_at(const mc_weight *w, const char *X, int64_t row) { return (tile_rows){X + row * w->k * 2, 64, 1024, w->k * 32}; }

typedef struct { int64_t per, pieces, supers; } amx_cut; // panels of a task, tasks beside and below each other
static amx_cut amx_cut_of(const mc_cmd *c, int threads) {
	const mc_weight *w = c->obj;
	int64_t T = c->n[0], panels = out_panels(c);
	amx_cut t = {.supers = 1};
	if (T > 32) {
		t.per = imin(AMX_PANELS, imax(1, CEIL(panels, 4 * threads)));
		t.supers = CEIL(T, AMX_SUPER);
	} else {
		int64_t pieces = imax(1, imin(panels * w->panel_bytes / (64 << 10), 16 * threads));
		t.per = imin(panels, CEIL(CEIL(panels, pieces), 4) * 4);
	}
	t.pieces = CEIL(panels, t.per);
	return t;
}

static void amx_plan(const mc_cmd *c, int threads, mc_plan *out) {
	const mc_weight *w = c->obj;
	int64_t T = c->n[0];
	amx_cut t = amx_cut_of(c, threads);
	out->tasks = t.pieces * t.supers;
	double flops = 2.0 * T * w->n * w->k / 1000, bytes = (double)w->bytes / 40;
	out->ns = flops > bytes ? flops : bytes;
	out->local_bytes = T > 32 ? CEIL(imin(T, AMX_SUPER), 32) * 32 * t.per * 32 * 4 * (c->n[3] ? 2 : 1) : 32 * 64 * 4;
}

#ifndef MC_TILE_EMULATED
enum { AMX_ROWS = 4 };
// The sums of a tile for R rows of floats that are exact in bf16: in steps of 32 inputs,
// even and odd ones apart. Denormals must be off, as in tiles.
INLINE void amx_micro(int R, int NP, const float *X, int64_t ldx, const char *const *W, int64_t steps, float *C) {
	vf c[R][NP][2];
#pragma GCC unroll 16
	for (int i = 0; i < R * NP * 2; i++) c[i / (NP * 2)][i / 2 % NP][i % 2] = vset(0);
	const char *w[NP];
#pragma GCC unroll 4
	for (int p = 0; p < NP; p++) w[p] = W[p];
	for (int64_t s = 0; s < steps; s++) {
		vf e[R][NP][2], o[R][NP][2];
#pragma GCC unroll 16
		for (int i = 0; i < R * NP * 2; i++) e[i / (NP * 2)][i / 2 % NP][i % 2] = o[i / (NP * 2)][i / 2 % NP][i % 2] = vset(0);
		for (int g = 0; g < 16; g++, X += 2) {
#pragma GCC unroll 4
			for (int p = 0; p < NP; p++, w[p - 1] += 128) {
				fetch_line(w[p] + 2048);
				fetch_line(w[p] + 2112);
				vu u0, u1;
				memcpy(&u0, w[p], sizeof u0);
				memcpy(&u1, w[p] + 64, sizeof u1);
				vf e0 = (vf)(u0 << 16), e1 = (vf)(u1 << 16), o0 = (vf)(u0 & 0xffff0000u), o1 = (vf)(u1 & 0xffff0000u);
#pragma GCC unroll 4
				for (int i = 0; i < R; i++) {
					vf a = vset(X[i * ldx]), b = vset(X[i * ldx + 1]);
					e[i][p][0] = fma_(a, e0, e[i][p][0]);
					e[i][p][1] = fma_(a, e1, e[i][p][1]);
					o[i][p][0] = fma_(b, o0, o[i][p][0]);
					o[i][p][1] = fma_(b, o1, o[i][p][1]);
				}
			}
		}
#pragma GCC unroll 16
		for (int i = 0; i < R * NP * 2; i++) c[i / (NP * 2)][i / 2 % NP][i % 2] += e[i / (NP * 2)][i / 2 % NP][i % 2] + o[i / (NP * 2)][i / 2 % NP][i % 2];
	}
#pragma GCC unroll 16
	for (int i = 0; i < R * NP * 2; i++) vstore(C + i / (NP * 2) * 128 + i % (NP * 2) * VL, c[i / (NP * 2)][i / 2 % NP][i % 2]);
}

typedef void (*amx_micro_fn)(const float *X, int64_t ldx, const char *const *W, int64_t steps, float *C);
#define AMX_MICRO(R, NP) \
	static __attribute__((noinline)) void amx_micro_##R##_##NP(const float *X, int64_t ldx, const char *const *W, int64_t steps, float *C) { amx_micro(R, NP, X, ldx, W, steps, C); }
AMX_MICRO(1, 1) AMX_MICRO(1, 2) AMX_MICRO(1, 4) AMX_MICRO(2, 1) AMX_MICRO(2, 2) AMX_MICRO(3, 1) AMX_MICRO(4, 1)
static const amx_micro_fn amx_micros[AMX_ROWS + 1][3] = {{0}, {amx_micro_1_1, amx_micro_1_2, amx_micro_1_4}, {amx_micro_2_1, amx_micro_2_2}, {amx_micro_3_1}, {amx_micro_4_1}};

// At most 4 rows. X are floats, rounded to bf16.
static void amx_few(const mc_cmd *c, int64_t p0, int64_t p1, const float *X, int64_t ldx, float *sums) {
	const mc_weight *w = c->obj;
	int R = (int)c->n[0], glu = c->n[3] != 0;
	const amx_micro_fn *micros = amx_micros[R];
	int most = micros[2] ? 4 : micros[1] ? 2 : 1; // panels at once
	for (int64_t p = p0; p < p1; p += glu ? 2 : 4) {
		int n = (int)imin(glu ? 2 : 4, p1 - p), np = glu ? 2 * n : n;
		const char *W[4];
		for (int i = 0; i < np; i++) W[i] = w->data + (i < n ? p + i : p + i - n + w->n / 64) * w->panel_bytes;
		for (int i = 0; i < np;) {
			int NP = most == 4 && np - i >= 4 ? 4 : most >= 2 && np - i >= 2 ? 2 : 1;
			micros[NP / 2](X, ldx, W + i, w->k / 32, sums + i * 32);
			i += NP;
		}
		if (glu) epilogue_glu(c, 0, R, p * 32, n * 32, sums, sums + n * 32, 128);
		else epilogue(c, 0, R, p * 32, imin(n * 32, w->n - p * 32), sums, 128);
	}
}

// Rows of X for amx_few: rounded to bf16 and widened again.
static void amx_stage_few(float *dst, const char *x, int64_t dt, int64_t k) {
	for (int64_t j = 0; j < k; j += VL) vstore(dst + j, (vf)(__builtin_convertvector(vround_bf16(vget(x, dt, j, k - j)), vu) << 16));
}

// Denormals count as zero in all that a linear layer computes, as in the tiles' sums.
static unsigned denormals_off(void) { unsigned old = _mm_getcsr(); _mm_setcsr(old | 0x8040); return old; }
static void denormals_back(unsigned old) { _mm_setcsr(old); }
#else
enum { AMX_ROWS = 0 };
static void amx_few(const mc_cmd *c, int64_t p0, int64_t p1, const float *X, int64_t ldx, float *sums) {}
static void amx_stage_few(float *dst, const char *x, int64_t dt, int64_t k) {}
static unsigned denormals_off(void) { return 0; }
static void denormals_back(unsigned old) {}
#endif

// Writes row t among the staged tiles.
static void amx_stage(const mc_weight *w, char *X, int64_t t, const char *x, int64_t dt) {
	char *dst = X + t / 16 * w->k * 32 + t % 16 * 64;
	for (int64_t j = 0; j < w->k; j += 32, dst += 1024) stage_row(KT, dst, x + j * size_of(dt), dt, 32, 32);
}

// At most 16 rows; a strip is two panels, or with glu the two halves of an output.
static void amx_strips(const mc_cmd *c, int64_t p0, int64_t p1, const char *X, float *sums) {
	const mc_weight *w = c->obj;
	int R = (int)c->n[0], glu = c->n[3] != 0;
	int64_t half = w->n / 64 * w->panel_bytes, ahead[2] = {2048, 2048};
	for (int64_t p = p0; p < p1; p += glu ? 1 : 2) {
		const char *at = w->data + p * w->panel_bytes, *W[2] = {at, glu ? at + half : p + 1 < p1 ? at + w->panel_bytes : at};
		tile_strip(amx_rows_at(w, X, 0), W, ahead, 1, w->k / 32, sums, 64, 0);
		if (glu) epilogue_glu(c, 0, R, p * 32, 32, sums, sums + 32, 64);
		else epilogue(c, 0, R, p * 32, imin(imin(64, (p1 - p) * 32), w->n - p * 32), sums, 64);
	}
}

// 17 to 32 rows.
static void amx_blocks(const mc_cmd *c, int64_t p0, int64_t p1, const char *X, float *sums) {
	const mc_weight *w = c->obj;
	int R = (int)c->n[0];
	int64_t half = w->n / 64 * w->panel_bytes;
	for (int64_t p = p0; p < p1; p++) {
		const char *at = w->data + p * w->panel_bytes;
		tile_block(1, amx_rows_at(w, X, 0), at, w->k / 32, sums, 32, 0, (tile_ahead){.weights = at + 2048, .lines = 32});
		if (c->n[3]) {
			tile_block(1, amx_rows_at(w, X, 0), at + half, w->k / 32, sums + 32 * 32, 32, 0, (tile_ahead){.weights = at + half + 2048, .lines = 32});
			epilogue_glu(c, 0, R, p * 32, 32, sums, sums + 32 * 32, 32);
		} else epilogue(c, 0, R, p * 32, imin(32, w->n - p * 32), sums, 32);
	}
}

// What the block of rows from row on, of steps, asks for: weights, and at the last chunk
// the output of the next block.
static tile_ahead amx_ahead(const mc_cmd *c, const char *weights, int64_t lines, int last, int64_t p, int64_t row, int64_t r1, int64_t steps) {
	tile_ahead f = {.weights = weights, .lines = (int)lines, .stride = c->t[0].stride * size_of(c->t[0].dt)};
	if (!last || row + 64 > r1) return f; // rows past the last one are not ours
	f.out = row_of(&c->t[0], row + 32) + p * 32 * size_of(c->t[0].dt);
	f.rows = (int)CEIL(32, steps);
	return f;
}

// Rows r0..r1 by panels p0..p1, chunk by chunk of k; sums are [panel][rows][32], the
// halves of glu side by side. While a chunk of a panel is used the next one is fetched.
static void amx_many(const mc_cmd *c, int64_t p0, int64_t p1, int64_t r0, int64_t r1, const char *X, float *sums) {
	const mc_weight *w = c->obj;
	int glu = c->n[3] != 0, width = glu ? 2 : 1;
	int64_t half = w->n / 64 * w->panel_bytes, bytes = w->k * 2, blocks = CEIL(r1 - r0, 32), lines = CEIL(32, blocks);
	for (int64_t k = 0; k < bytes; k += AMX_CHUNK) {
		int64_t steps = imin(AMX_CHUNK, bytes - k) / 64;
		int last = k + AMX_CHUNK >= bytes;
		for (int64_t p = p0; p < p1; p++)
			for (int h = 0; h < width; h++) {
				const char *at = w->data + p * w->panel_bytes + k * 32 + h * half, *next = p + 1 < p1 ? at + w->panel_bytes : w->data + p0 * w->panel_bytes + (k + AMX_CHUNK) * 32 + h * half;
				float *s = sums + ((p - p0) * width + h) * blocks * 1024;
				for (int64_t b = 0; b < blocks; b++, s += 1024) {
					tile_block(1, amx_rows_at(w, X + k * 16, r0 + b * 32), at, steps, s, 32, k > 0, amx_ahead(c, next + b * steps * lines * 64, lines, last && h == width - 1, p, r0 + b * 32, r1, steps));
					if (!last || h < width - 1) continue;
					int R = (int)imin(32, r1 - r0 - b * 32);
					if (glu) epilogue_glu(c, r0 + b * 32, R, p * 32, 32, s - blocks * 1024, s, 32);
					else epilogue(c, r0 + b * 32, R, p * 32, imin(32, w->n - p * 32), s, 32);
				}
			}
	}
}

static void amx_run(const mc_cmd *c, int64_t task, int threads, const char *X, float *sums) {
	const mc_weight *w = c->obj;
	int64_t T = c->n[0];
	amx_cut t = amx_cut_of(c, threads);
	int64_t p0 = task % t.pieces * t.per, p1 = imin(out_panels(c), p0 + t.per), r0 = task / t.pieces * AMX_SUPER;
	unsigned old = denormals_off();
	if (T <= AMX_ROWS) {
		amx_few(c, p0, p1, (const float *)X, w->k, sums);
		denormals_back(old);
		return;
	}
	if (T <= 16) {
		tile_begin((int)T, 0);
		amx_strips(c, p0, p1, X, sums);
	} else if (T <= 32) {
		tile_begin(16, (int)T - 16);
		amx_blocks(c, p0, p1, X, sums);
	} else {
		tile_begin(16, 16);
		amx_many(c, p0, p1, r0, imin(T, r0 + AMX_SUPER), X, sums);
	}
	tile_end();
	denormals_back(old);
}
