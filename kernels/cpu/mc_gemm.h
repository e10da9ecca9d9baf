// mc_gemm.h: products of rows with packed panels.
//
// The micro-kernel multiplies R rows with NP panels of 32 outputs. Every output
// has one accumulator that runs through k in ascending order, whatever R, NP and
// the blocking are: that is what makes results independent of the batch. Several
// panels at once hide the latency of few rows; several rows at once share the
// loads of the panel.
//
// Kinds: KF f32 panel [K][32] times f32 rows; KB bf16 panel [K/2][32][2] widened,
// times f32 rows (even k, then odd k); KD the same panel with the bf16 dot product
// of the instruction set, times bf16 rows; KT the same with tiles (mc_tile.h), whole steps
// of 32 inputs.
enum { KF, KB, KD, KT };

#if VL == 16
#define MAX_ROWS 12
#else
#define MAX_ROWS 4
#endif

// C[R][NP*32] (+)= X[R][..] * panels; the panels come in nseg pieces W[s*NP+p] of
// groups k-groups each (one k for KF, two for the others), X advancing through them.
// While piece i is read, the bytes ahead[i] further on are fetched into the cache; with more
// than 6 rows 0 means that the piece is in L2, where fetching only costs.
INLINE void micro(int kind, int R, int NP, const void *X, size_t ldx, const char *const *W, const int64_t *ahead, int nseg, int64_t groups, float *C, size_t ldc, int acc) {
	for (int col = 0; col < 32; col += 2 * VL) {
		vf c[R][NP][2];
#pragma GCC unroll 16
		for (int i = 0; i < R; i++)
#pragma GCC unroll 4
			for (int p = 0; p < NP; p++) {
				float *at = C + i * ldc + p * 32 + col;
				c[i][p][0] = acc ? vload(at) : vset(0);
				c[i][p][1] = acc ? vload(at + VL) : vset(0);
			}
		const char *x = X;
		for (int s = 0; s < nseg; s++) {
			const char *w[NP];
			int64_t next[NP];
#pragma GCC unroll 4
			for (int p = 0; p < NP; p++) w[p] = W[s * NP + p] + col * 4, next[p] = ahead[s * NP + p];
			for (int64_t g = 0; g < groups; g++) {
#pragma GCC unroll 4
				for (int p = 0; p < NP; p++) {
					if (col == 0 && (R <= 6 || next[p])) {
						fetch_line(w[p] + next[p]);
						fetch_line(w[p] + next[p] + 64);
					}
					if (kind == KF) {
						vf w0 = vload(w[p]), w1 = vload(w[p] + VL * 4);
#pragma GCC unroll 16
						for (int i = 0; i < R; i++) {
							vf a = vset(((const float *)x)[i * ldx]);
							c[i][p][0] = fma_(a, w0, c[i][p][0]);
							c[i][p][1] = fma_(a, w1, c[i][p][1]);
						}
					} else if (kind == KB) {
						vu u0, u1;
						memcpy(&u0, w[p], sizeof u0);
						memcpy(&u1, w[p] + VL * 4, sizeof u1);
						vf e0 = (vf)(u0 << 16), e1 = (vf)(u1 << 16), o0 = (vf)(u0 & 0xffff0000u), o1 = (vf)(u1 & 0xffff0000u);
#pragma GCC unroll 16
						for (int i = 0; i < R; i++) {
							vf a = vset(((const float *)x)[i * ldx]), b = vset(((const float *)x)[i * ldx + 1]);
							c[i][p][0] = fma_(b, o0, fma_(a, e0, c[i][p][0]));
							c[i][p][1] = fma_(b, o1, fma_(a, e1, c[i][p][1]));
						}
					}
#if defined(MC_DOT_BF16) && !defined(MC_TILE)
					else {
						__m512bh w0 = (__m512bh)_mm512_loadu_si512(w[p]), w1 = (__m512bh)_mm512_loadu_si512(w[p] + 64);
#pragma GCC unroll 16
						for (int i = 0; i < R; i++) {
							int32_t pair;
							memcpy(&pair, (const uint16_t *)x + i * ldx, 4);
							__m512bh a = (__m512bh)_mm512_set1_epi32(pair);
							c[i][p][0] = (vf)_mm512_dpbf16_ps((__m512)c[i][p][0], w0, a);
							c[i][p][1] = (vf)_mm512_dpbf16_ps((__m512)c[i][p][1], w1, a);
						}
					}
#endif
					w[p] += 128;
				}
				x += kind == KF ? 4 : kind == KB ? 8 : 4;
			}
		}
#pragma GCC unroll 16
		for (int i = 0; i < R; i++)
#pragma GCC unroll 4
			for (int p = 0; p < NP; p++) {
				float *at = C + i * ldc + p * 32 + col;
				vstore(at, c[i][p][0]);
				vstore(at + VL, c[i][p][1]);
			}
	}
}

typedef void (*micro_fn)(const void *X, size_t ldx, const char *const *W, const int64_t *ahead, int nseg, int64_t groups, float *C, size_t ldc, int acc);
#define MICRO(kind, R, NP) \
	static __attribute__((noinline)) void micro_##kind##_##R##_##NP(const void *X, size_t ldx, const char *const *W, const int64_t *ahead, int nseg, int64_t groups, float *C, size_t ldc, int acc) { \
		micro(kind, R, NP, X, ldx, W, ahead, nseg, groups, C, ldc, acc); }
#if VL == 16
#define MICROS(kind) \
	MICRO(kind, 1, 1) MICRO(kind, 2, 1) MICRO(kind, 3, 1) MICRO(kind, 4, 1) MICRO(kind, 5, 1) MICRO(kind, 6, 1) \
	MICRO(kind, 7, 1) MICRO(kind, 8, 1) MICRO(kind, 9, 1) MICRO(kind, 10, 1) MICRO(kind, 11, 1) MICRO(kind, 12, 1) \
	MICRO(kind, 1, 2) MICRO(kind, 2, 2) MICRO(kind, 3, 2) MICRO(kind, 4, 2) MICRO(kind, 5, 2) MICRO(kind, 6, 2) \
	MICRO(kind, 1, 4) MICRO(kind, 2, 4) MICRO(kind, 3, 4)
#define ROW1(k) {0, micro_##k##_1_1, micro_##k##_2_1, micro_##k##_3_1, micro_##k##_4_1, micro_##k##_5_1, micro_##k##_6_1, \
	micro_##k##_7_1, micro_##k##_8_1, micro_##k##_9_1, micro_##k##_10_1, micro_##k##_11_1, micro_##k##_12_1}
#define ROW2(k) {0, micro_##k##_1_2, micro_##k##_2_2, micro_##k##_3_2, micro_##k##_4_2, micro_##k##_5_2, micro_##k##_6_2}
#define ROW4(k) {0, micro_##k##_1_4, micro_##k##_2_4, micro_##k##_3_4}
#else
#define MICROS(kind) \
	MICRO(kind, 1, 1) MICRO(kind, 2, 1) MICRO(kind, 3, 1) MICRO(kind, 4, 1) MICRO(kind, 1, 2) MICRO(kind, 2, 2) MICRO(kind, 1, 4)
#define ROW1(k) {0, micro_##k##_1_1, micro_##k##_2_1, micro_##k##_3_1, micro_##k##_4_1}
#define ROW2(k) {0, micro_##k##_1_2, micro_##k##_2_2}
#define ROW4(k) {0, micro_##k##_1_4}
#endif
MICROS(KF)
MICROS(KB)
#if defined(MC_DOT_BF16) && !defined(MC_TILE)
MICROS(KD)
#define KINDS(row) {row(KF), row(KB), row(KD)}
INLINE int fast_bf16(int64_t k) { return KD; }
#else
#define KINDS(row) {row(KF), row(KB)}
#ifdef MC_TILE
INLINE int fast_bf16(int64_t k) { return k % 32 ? KB : KT; }
#else
INLINE int fast_bf16(int64_t k) { return KB; }
#endif
#endif
static const micro_fn micro1[3][MAX_ROWS + 1] = KINDS(ROW1), micro2[3][MAX_ROWS + 1] = KINDS(ROW2), micro4[3][MAX_ROWS + 1] = KINDS(ROW4);

// Bytes of one element of a staged row, and inputs of one k-group.
INLINE int64_t kind_size(int kind) { return kind >= KD ? 2 : 4; }
INLINE int64_t kind_step(int kind) { return kind == KF ? 1 : 2; }

// Weights stream from their first byte to their last: fetch 2 KiB ahead.
static const int64_t streaming[4] = {2048, 2048, 2048, 2048}, resident[1] = {0};

// The product of R rows with np adjacent panels (of any number) of nseg <= 8 pieces.
// at(s,p) of the pieces: base[s] + p * stride; ahead[s] is the distance to fetch.
static void product(int kind, int R, int np, const void *X, size_t ldx, const char *const *base, const int64_t *ahead, int64_t stride, int nseg, int64_t groups, float *C, size_t ldc, int acc) {
	const char *W[4 * 8];
	int64_t next[4 * 8];
	for (int p = 0; p < np;) {
		int NP = np - p >= 4 && micro4[kind][R] ? 4 : np - p >= 2 && micro2[kind][R] ? 2 : 1;
		micro_fn fn = NP == 4 ? micro4[kind][R] : NP == 2 ? micro2[kind][R] : micro1[kind][R];
		for (int s = 0; s < nseg; s++) for (int q = 0; q < NP; q++) W[s * NP + q] = base[s] + (p + q) * stride, next[s * NP + q] = ahead[s];
		fn(X, ldx, W, next, nseg, groups, C + p * 32, ldc, acc);
		p += NP;
	}
}

// Linear: t = out, x, bias, residual, scale (p NULL: none); n = T, N, K, glu; obj = weight.
// With glu, output f is silu of the sum of row f times the sum of row F+f, N = 2F: a
// task works on panels of both halves.
// Phase 0 stages the rows of X in shared scratch, in the type of the product, with
// a row length that is no multiple of 4096 bytes. Phase 1 multiplies. Of few rows there is
// one phase: every thread stages them for itself, which costs less than to wait for them.
static int linear_kind(const mc_weight *w) {
	return w->layout == MC_W_F32 ? KF : w->exact ? KB : fast_bf16(w->k);
}
static int64_t staged_row(const mc_weight *w, int kind) {
	return CEIL(w->k, 32) * 32 + 64 / kind_size(kind); // elements
}

// Blocks of the large product: rows that stay in L2, panels of one task, k of one pass.
enum { SUPER_BYTES = 400 << 10, K_PASS_BYTES = 4096, GROUP_PANELS = 8 };
static int64_t k_pass(int kind) { return K_PASS_BYTES / kind_size(kind); }
static int64_t super_rows(const mc_weight *w, int kind) {
	int64_t bytes = imin(w->k, k_pass(kind)) * kind_size(kind);
	return imax(1, imin(SUPER_BYTES / bytes / MAX_ROWS, 32)) * MAX_ROWS;
}

// Whether every thread stages the rows for itself, behind its sums in local scratch.
enum { STAGE_ALONE = 12288, SUMS_BYTES = MAX_ROWS * 128 * 4 };
INLINE int stage_alone(int64_t T, int64_t k) { return T <= MAX_ROWS && T * k <= STAGE_ALONE; }

static int64_t task_panels(const mc_weight *w, int64_t T, int64_t panels, int threads) {
	if (T > MAX_ROWS) return imin(GROUP_PANELS, imax(1, CEIL(panels, 2 * threads)));
	// Few rows: pieces of at least 64 KiB, in fours; at least two a thread if there is enough.
	int64_t pieces = imax(1, imin(panels * w->panel_bytes / (64 << 10), 16 * threads));
	return imin(panels, CEIL(CEIL(panels, pieces), 4) * 4);
}

// Panels of outputs; with glu, of one half.
static int64_t out_panels(const mc_cmd *c) {
	const mc_weight *w = c->obj;
	return c->n[3] ? w->n / 64 : CEIL(w->n, 32);
}

static void stage_row(int kind, char *dst, const char *x, int64_t dt, int64_t k, int64_t padded) {
	if (kind >= KD) {
		if (dt == MC_BF16) memcpy(dst, x, k * 2);
		else {
			int64_t j = 0;
#ifdef MC_DOT_BF16
			for (; j + 32 <= k; j += 32)
				_mm512_storeu_si512((uint16_t *)dst + j, (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps((const float *)x + j + 16), _mm512_loadu_ps((const float *)x + j)));
#endif
			for (; j < k; j += VL) vput(dst, MC_BF16, j, k - j, vget(x, dt, j, k - j));
		}
		memset(dst + k * 2, 0, (padded - k) * 2);
		return;
	}
	for (int64_t j = 0; j < k; j += VL) vstore((float *)dst + j, vget(x, dt, j, k - j));
	int64_t done = CEIL(k, VL) * VL;
	if (done < padded) memset((float *)dst + done, 0, (padded - done) * 4);
}

// Bias, function, residual and rounding of R rows by cols columns of sums.
static void epilogue(const mc_cmd *c, int64_t row, int R, int64_t col, int64_t cols, const float *sums, size_t ld) {
	const float *bias = c->t[2].p, *scale = c->t[4].p;
	for (int i = 0; i < R; i++) {
		char *o = row_of(&c->t[0], row + i);
		const char *res = c->t[3].p ? row_of(&c->t[3], row + i) : NULL;
		for (int64_t j = 0; j < cols; j += VL) {
			int64_t left = cols - j;
			vf v = vload(sums + i * ld + j);
			if (bias) v = v + vget(bias, MC_F32, col + j, left);
			v = vact(c->act, v);
			if (scale) v = v * vget(scale, MC_F32, col + j, left);
			if (res) v = v + vget(res, c->t[3].dt, col + j, left);
			vput(o, c->t[0].dt, col + j, left, v);
		}
	}
}

// silu(gate) * up for R rows by cols columns of sums.
static void epilogue_glu(const mc_cmd *c, int64_t row, int R, int64_t col, int64_t cols, const float *gate, const float *up, size_t ld) {
	for (int i = 0; i < R; i++) {
		char *o = row_of(&c->t[0], row + i);
		for (int64_t j = 0; j < cols; j += VL) vput(o, c->t[0].dt, col + j, cols - j, vact(ACT_SILU, vload(gate + i * ld + j)) * vload(up + i * ld + j));
	}
}

#ifdef MC_TILE
#include "mc_amx.h"
#endif
#include "mc_quant.h"

static void linear_plan(const mc_cmd *c, int phase, int threads, mc_plan *out) {
	const mc_weight *w = c->obj;
	if (is_quant(w)) { q_plan(c, phase, threads, out); return; }
	int kind = linear_kind(w);
	int64_t T = c->n[0], panels = out_panels(c), row = staged_row(w, kind) * kind_size(kind);
	int alone = kind != KT && stage_alone(T, w->k);
#ifdef MC_TILE
	if (kind == KT && phase == 1) { amx_plan(c, threads, out); return; }
#endif
	if (!alone) out->shared_bytes = T * row;
#ifdef MC_TILE
	if (kind == KT) out->shared_bytes = imax(out->shared_bytes, amx_staged(w, T)) * (T <= AMX_ROWS ? 2 : 1);
#endif
	if (phase == 0 && !alone) {
		out->tasks = CEIL(T, 8);
		out->ns = (double)T * w->k * 0.05;
	} else if (phase == !alone) {
		int64_t per = task_panels(w, T, panels, threads);
		out->tasks = CEIL(panels, per) * (T <= MAX_ROWS ? 1 : CEIL(T, super_rows(w, kind)));
		double flops = 2.0 * T * w->n * w->k / (VL == 16 ? 100 : 20), bytes = (double)w->bytes / 40;
		out->ns = flops > bytes ? flops : bytes;
		out->local_bytes = T <= MAX_ROWS ? SUMS_BYTES + (alone ? T * row : 0) : super_rows(w, kind) * per * 32 * 4 * (c->n[3] ? 2 : 1);
	}
}

static void linear_few(const mc_cmd *c, int kind, int64_t p0, int64_t p1, const char *X, size_t ldx, float *sums) {
	const mc_weight *w = c->obj;
	int R = (int)c->n[0];
	int64_t groups = CEIL(w->k, kind_step(kind)), half = w->n / 64 * w->panel_bytes;
	for (int64_t p = p0; c->n[3] && p < p1;) {
		const char *g = w->data + p * w->panel_bytes, *W[4] = {g, g + half};
		int np = 1;
		if (p + 1 < p1 && micro4[kind][R]) {
			np = 2;
			W[1] = g + w->panel_bytes, W[2] = g + half, W[3] = W[1] + half;
			micro4[kind][R](X, ldx, W, streaming, 1, groups, sums, 128, 0);
		} else if (micro2[kind][R]) {
			micro2[kind][R](X, ldx, W, streaming, 1, groups, sums, 128, 0);
		} else {
			micro1[kind][R](X, ldx, W, streaming, 1, groups, sums, 128, 0);
			micro1[kind][R](X, ldx, W + 1, streaming, 1, groups, sums + 32, 128, 0);
		}
		epilogue_glu(c, 0, R, p * 32, np * 32, sums, sums + np * 32, 128);
		p += np;
	}
	if (c->n[3]) return;
	for (int64_t p = p0; p < p1; p += 4) {
		int np = (int)imin(4, p1 - p);
		const char *base = w->data + p * w->panel_bytes;
		product(kind, R, np, X, ldx, &base, streaming, w->panel_bytes, 1, groups, sums, 128, 0);
		epilogue(c, 0, R, p * 32, imin(np * 32, w->n - p * 32), sums, 128);
	}
}

static void linear_many(const mc_cmd *c, int kind, int64_t p0, int64_t p1, int64_t r0, int64_t r1, const char *X, size_t ldx, float *sums) {
	const mc_weight *w = c->obj;
	int64_t pass = k_pass(kind), step = kind_step(kind), size = kind_size(kind);
	size_t ld = (p1 - p0) * 32;
	int glu = c->n[3] != 0;
	int64_t half = w->n / 64 * w->panel_bytes;
	float *ups = sums + (r1 - r0) * ld;
	for (int64_t k = 0; k < w->k; k += pass) {
		int64_t groups = CEIL(imin(pass, w->k - k), step);
		int last = k + pass >= w->k;
		for (int64_t p = p0; p < p1; p++) {
			const char *panel = w->data + p * w->panel_bytes + k / step * 128;
			for (int64_t r = r0; r < r1; r += MAX_ROWS) {
				int R = (int)imin(MAX_ROWS, r1 - r);
				const int64_t *ahead = r == r0 ? streaming : resident;
				float *s = sums + (r - r0) * ld + (p - p0) * 32;
				micro1[kind][R](X + (r * ldx + k) * size, ldx, &panel, ahead, 1, groups, s, ld, k > 0);
				if (glu) {
					const char *up = panel + half;
					float *u = ups + (r - r0) * ld + (p - p0) * 32;
					micro1[kind][R](X + (r * ldx + k) * size, ldx, &up, ahead, 1, groups, u, ld, k > 0);
					if (last) epilogue_glu(c, r, R, p * 32, 32, s, u, ld);
				} else if (last) epilogue(c, r, R, p * 32, imin(32, w->n - p * 32), s, ld);
			}
		}
	}
}

static void linear_run(const mc_cmd *c, int phase, int64_t task, int threads, mc_ctx *x) {
	const mc_weight *w = c->obj;
	if (is_quant(w)) { q_run(c, phase, task, threads, x); return; }
	int kind = linear_kind(w);
	int64_t T = c->n[0], ldx = staged_row(w, kind), size = kind_size(kind);
	int alone = kind != KT && stage_alone(T, w->k);
	char *X = alone ? x->local + SUMS_BYTES : x->shared;
	if (phase == 0 && !alone) {
#ifdef MC_TILE
		if (kind == KT) {
			for (int64_t t = task * 8; t < imin(T, task * 8 + 8); t++) {
				const char *row = row_of(&c->t[1], t);
				if (T <= AMX_ROWS) amx_stage_few((float *)x->shared + t * w->k, row, c->t[1].dt, w->k);
				else amx_stage(w, x->shared, t, row, c->t[1].dt);
			}
			return;
		}
#endif
		for (int64_t t = task * 8; t < imin(T, task * 8 + 8); t++)
			stage_row(kind, X + t * ldx * size, row_of(&c->t[1], t), c->t[1].dt, w->k, ldx);
		return;
	}
	if (alone && x->staged != c) {
		for (int64_t t = 0; t < T; t++) stage_row(kind, X + t * ldx * size, row_of(&c->t[1], t), c->t[1].dt, w->k, ldx);
		x->staged = c;
	}
#ifdef MC_TILE
	if (kind == KT) { amx_run(c, task, threads, x->shared, (float *)x->local); return; }
#endif
	int64_t panels = out_panels(c), per = task_panels(w, T, panels, threads), pieces = CEIL(panels, per);
	int64_t p0 = task % pieces * per, p1 = imin(panels, p0 + per);
	if (T <= MAX_ROWS) {
		linear_few(c, kind, p0, p1, X, ldx, (float *)x->local);
		return;
	}
	int64_t super = super_rows(w, kind), r0 = task / pieces * super;
	linear_many(c, kind, p0, p1, r0, imin(T, r0 + super), x->shared, ldx, (float *)x->local);
}
