// mc_quant.h: products with quantised panels.
//
// Weights are unsigned codes u with a scale and a zero point z a group (z = 128 or 8
// unless the source has its own), rows of X signed codes a with a scale a group of
// at most 128 inputs. One group contributes (sum(u*a) - z*sum(a)) * scale_w * scale_a:
// the integer sum is exact, and the groups are added in ascending order in float32.
//
// A staged row is K codes, padded to 64 and 64 more, then K/agroup scales, then as
// many sums.
#if VL == 16
#define MAX_QROWS 12
#else
#define MAX_QROWS 2
#endif

// Adds, for each of VL outputs, the dot product of its 4 unsigned codes with 4 signed ones.
INLINE vi dot4(vi acc, vu w, const int8_t *quad) {
	int32_t a;
	memcpy(&a, quad, 4);
#if defined(MC_DOT_BF16)
	// As asm, since gcc 12 copies and spills the accumulators of the intrinsic.
	__asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(w), "v"(viset(a)));
	return acc;
#elif defined(MC_AVX512)
	__m512i v = _mm512_set1_epi32(a), u = (__m512i)w;
	__m512i even = _mm512_madd_epi16(_mm512_and_si512(u, _mm512_set1_epi16(255)), _mm512_srai_epi16(_mm512_slli_epi16(v, 8), 8));
	__m512i odd = _mm512_madd_epi16(_mm512_srli_epi16(u, 8), _mm512_srai_epi16(v, 8));
	return acc + (vi)_mm512_add_epi32(even, odd);
#elif defined(MC_AVX2)
	__m256i v = _mm256_set1_epi32(a), u = (__m256i)w;
	__m256i even = _mm256_madd_epi16(_mm256_and_si256(u, _mm256_set1_epi16(255)), _mm256_srai_epi16(_mm256_slli_epi16(v, 8), 8));
	__m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(u, 8), _mm256_srai_epi16(v, 8));
	return acc + (vi)_mm256_add_epi32(even, odd);
#else
	return acc + (vi)(w & 255) * quad[0] + (vi)(w >> 8 & 255) * quad[1] + (vi)(w >> 16 & 255) * quad[2] + (vi)(w >> 24) * quad[3];
#endif
}

// Operands of one product: R rows from x on, NP panels, groups activation groups.
typedef struct {
	const int8_t *x;
	const float *scale, *sum; // of the first row and group
	size_t ldx;               // bytes from row to row, of all three
	const char *W[4];
	const float *S[4], *Z[4]; // scales and zero points of the first group; Z NULL: zero
	float zero;
	int64_t groups, steps;    // groups; 128-byte steps of a group
	int64_t repeat, phase;    // activation groups a weight scale, and how many of them are past
	int stream;               // the panels come from memory: fetch ahead
} q_args;

// The sums of up to Q_KEPT rows and panels stay in registers; those of more lie in C from
// group to group. A zero point that all groups share is taken off in integers, exactly.
enum { Q_KEPT = 6 };
INLINE void micro_q(int bits, int R, int NP, int zeros, const q_args *a, float *C, size_t ldc, int acc) {
	const int kept = R * NP <= Q_KEPT;
	for (int col = 0; col < 32; col += 2 * VL) {
		vf f[R][NP][2];
		vi d[R][NP][2];
#pragma GCC unroll 16
		for (int i = 0; i < R; i++)
#pragma GCC unroll 4
			for (int p = 0; p < NP; p++) {
				float *at = C + i * ldc + p * 32 + col;
				f[i][p][0] = acc ? vload(at) : vset(0);
				f[i][p][1] = acc ? vload(at + VL) : vset(0);
				if (!kept && !acc) vstore(at, vset(0)), vstore(at + VL, vset(0));
			}
		const int8_t *x = a->x;
		const char *w[NP];
#pragma GCC unroll 4
		for (int p = 0; p < NP; p++) w[p] = a->W[p] + col * 4;
		int64_t s = col, past = a->phase;
		for (int64_t g = 0; g < a->groups; g++) {
#pragma GCC unroll 16
			for (int i = 0; i < R; i++) {
				float sum = *(const float *)((const char *)(a->sum + g) + i * a->ldx);
				vi start = zeros ? viset(0) : viset((int32_t)(-a->zero * sum));
#pragma GCC unroll 4
				for (int p = 0; p < NP; p++) d[i][p][0] = d[i][p][1] = start;
			}
			for (int64_t q = 0; q < a->steps; q++) {
#pragma GCC unroll 4
				for (int p = 0; p < NP; p++) {
					vu u0, u1;
					memcpy(&u0, w[p], sizeof u0);
					memcpy(&u1, w[p] + VL * 4, sizeof u1);
					if (col == 0 && a->stream) {
						fetch_line(w[p] + 2048);
						fetch_line(w[p] + 2112);
					}
					vu l0 = bits == 8 ? u0 : u0 & 0x0f0f0f0fu, l1 = bits == 8 ? u1 : u1 & 0x0f0f0f0fu;
#pragma GCC unroll 16
					for (int i = 0; i < R; i++) {
						d[i][p][0] = dot4(d[i][p][0], l0, x + i * a->ldx);
						d[i][p][1] = dot4(d[i][p][1], l1, x + i * a->ldx);
					}
					if (bits == 4) {
						vu h0 = u0 >> 4 & 0x0f0f0f0fu, h1 = u1 >> 4 & 0x0f0f0f0fu;
#pragma GCC unroll 16
						for (int i = 0; i < R; i++) {
							d[i][p][0] = dot4(d[i][p][0], h0, x + i * a->ldx + 4);
							d[i][p][1] = dot4(d[i][p][1], h1, x + i * a->ldx + 4);
						}
					}
					w[p] += 128;
				}
				x += bits == 8 ? 4 : 8;
			}
#pragma GCC unroll 4
			for (int p = 0; p < NP; p++) {
				vf s0 = vload(a->S[p] + s), s1 = vload(a->S[p] + s + VL);
				vf z0 = zeros ? vload(a->Z[p] + s) : vset(0), z1 = zeros ? vload(a->Z[p] + s + VL) : vset(0);
#pragma GCC unroll 16
				for (int i = 0; i < R; i++) {
					float sa = *(const float *)((const char *)(a->scale + g) + i * a->ldx);
					vf v0 = __builtin_convertvector(d[i][p][0], vf), v1 = __builtin_convertvector(d[i][p][1], vf);
					if (zeros) {
						float sum = *(const float *)((const char *)(a->sum + g) + i * a->ldx);
						v0 = fma_(z0, vset(-sum), v0);
						v1 = fma_(z1, vset(-sum), v1);
					}
					if (kept) {
						f[i][p][0] = fma_(v0, s0 * sa, f[i][p][0]);
						f[i][p][1] = fma_(v1, s1 * sa, f[i][p][1]);
						continue;
					}
					float *at = C + i * ldc + p * 32 + col;
					vstore(at, fma_(v0, s0 * sa, vload(at)));
					vstore(at + VL, fma_(v1, s1 * sa, vload(at + VL)));
				}
			}
			if (++past == a->repeat) { past = 0; s += 32; }
		}
#pragma GCC unroll 16
		for (int i = 0; i < R && kept; i++)
#pragma GCC unroll 4
			for (int p = 0; p < NP; p++) {
				float *at = C + i * ldc + p * 32 + col;
				vstore(at, f[i][p][0]);
				vstore(at + VL, f[i][p][1]);
			}
	}
}

typedef void (*micro_q_fn)(const q_args *a, float *C, size_t ldc, int acc);
#define MICRO_Q(bits, R, NP) \
	static __attribute__((noinline)) void micro_q##bits##_##R##_##NP(const q_args *a, float *C, size_t ldc, int acc) { \
		if (a->Z[0]) micro_q(bits, R, NP, 1, a, C, ldc, acc); else micro_q(bits, R, NP, 0, a, C, ldc, acc); }
#if VL == 16
#define MICROS_Q(b) MICRO_Q(b, 1, 1) MICRO_Q(b, 2, 1) MICRO_Q(b, 3, 1) MICRO_Q(b, 4, 1) MICRO_Q(b, 5, 1) MICRO_Q(b, 6, 1) \
	MICRO_Q(b, 7, 1) MICRO_Q(b, 8, 1) MICRO_Q(b, 9, 1) MICRO_Q(b, 10, 1) MICRO_Q(b, 11, 1) MICRO_Q(b, 12, 1) \
	MICRO_Q(b, 1, 2) MICRO_Q(b, 2, 2) MICRO_Q(b, 3, 2) MICRO_Q(b, 1, 4)
#define QROW1(b) {0, micro_q##b##_1_1, micro_q##b##_2_1, micro_q##b##_3_1, micro_q##b##_4_1, micro_q##b##_5_1, micro_q##b##_6_1, \
	micro_q##b##_7_1, micro_q##b##_8_1, micro_q##b##_9_1, micro_q##b##_10_1, micro_q##b##_11_1, micro_q##b##_12_1}
#define QROW2(b) {0, micro_q##b##_1_2, micro_q##b##_2_2, micro_q##b##_3_2}
#define QROW4(b) {0, micro_q##b##_1_4}
#else
#define MICROS_Q(b) MICRO_Q(b, 1, 1) MICRO_Q(b, 2, 1) MICRO_Q(b, 1, 2)
#define QROW1(b) {0, micro_q##b##_1_1, micro_q##b##_2_1}
#define QROW2(b) {0, micro_q##b##_1_2}
#define QROW4(b) {0}
#endif
MICROS_Q(8)
MICROS_Q(4)
static const micro_q_fn q_micro1[2][MAX_QROWS + 1] = {QROW1(8), QROW1(4)}, q_micro2[2][MAX_QROWS + 1] = {QROW2(8), QROW2(4)}, q_micro4[2][MAX_QROWS + 1] = {QROW4(8), QROW4(4)};

INLINE int64_t q_codes(const mc_weight *w) { return CEIL(w->k, 64) * 64 + 64; } // bytes of codes of a staged row
INLINE int64_t q_row_bytes(const mc_weight *w) { return CEIL(q_codes(w) + 8 * (w->k / w->agroup), 64) * 64; }

// Writes the first left of VL codes.
INLINE void put_codes(int8_t *dst, vi q, int64_t left) {
#if defined(MC_AVX512)
	if (left >= VL) { _mm_storeu_si128((__m128i *)dst, _mm512_cvtepi32_epi8((__m512i)q)); return; }
#endif
	for (int i = 0; i < VL && i < left; i++) dst[i] = (int8_t)q[i];
}

// Rounds a row to signed codes. A group with a NaN or an infinity gets a NaN scale.
static void q_stage_row(const mc_weight *w, char *dst, const char *x, int64_t dt) {
	int8_t *codes = (int8_t *)dst;
	float *scale = (float *)(dst + q_codes(w)), *sum = scale + w->k / w->agroup;
	vf magic = vset(12582912.0f); // adding it rounds to the nearest integer
	for (int64_t g = 0; g < w->k / w->agroup; g++) {
		int64_t lo = g * w->agroup, n = w->agroup;
		vf top = vset(0), poison = vset(0);
		for (int64_t j = 0; j < n; j += VL) {
			vf v = vget(x, dt, lo + j, n - j);
			top = vmax(vabs(v), top);
			poison = fma_(v, vset(0), poison);
		}
		float largest = vmaximum(top), inverse = largest > 0 ? 127.0f / largest : 0;
		vi total = viset(0);
		for (int64_t j = 0; j < n; j += VL) {
			vf v = fma_(vget(x, dt, lo + j, n - j), vset(inverse), magic);
			vi q = (vi)v - (vi)magic;
			total = total + q;
			put_codes(codes + lo + j, q, n - j);
		}
		int32_t all = 0;
		for (int i = 0; i < VL; i++) all += total[i];
		scale[g] = largest / 127.0f + vsum(poison);
		sum[g] = (float)all;
	}
}

// Sums of R rows by np <= 4 panels, whose first bytes are at panel[]. Groups g0..g1.
static void q_product(const mc_weight *w, int R, int np, int stream, const char *rows, size_t ldx, const int64_t *panel, int64_t g0, int64_t g1, float *C, size_t ldc, int acc) {
	int four = w->layout == MC_W_Q4;
	int64_t groups = w->k / w->group, per_step = four ? 8 : 4, repeat = w->group / w->agroup;
	for (int p = 0; p < np;) {
		int NP = np - p >= 4 && q_micro4[four][R] ? 4 : np - p >= 2 && q_micro2[four][R] ? 2 : 1;
		micro_q_fn fn = NP == 4 ? q_micro4[four][R] : NP == 2 ? q_micro2[four][R] : q_micro1[four][R];
		q_args a = {.x = (const int8_t *)rows + g0 * w->agroup, .ldx = ldx, .zero = four ? 8 : 128, .groups = g1 - g0, .steps = w->agroup / per_step, .repeat = repeat, .phase = g0 % repeat, .stream = stream};
		a.scale = (const float *)(rows + q_codes(w)) + g0;
		a.sum = a.scale + w->k / w->agroup;
		for (int q = 0; q < NP; q++) {
			int64_t i = panel[p + q], at = (i * groups + g0 / repeat) * 32;
			a.W[q] = w->data + i * w->panel_bytes + g0 * w->agroup / per_step * 128;
			a.S[q] = w->scales + at;
			a.Z[q] = w->zeros ? w->zeros + at : NULL;
		}
		fn(&a, C + p * 32, ldc, acc);
		p += NP;
	}
}

static int is_quant(const mc_weight *w) { return w->layout == MC_W_Q8 || w->layout == MC_W_Q4; }

// Panels p0..p1 of outputs (of one half with glu) times rows r0..r1. Rows go in tiles
// of MAX_QROWS, k in passes that keep a tile of rows in L1.
static void q_linear(const mc_cmd *c, int64_t p0, int64_t p1, int64_t r0, int64_t r1, const char *X, float *sums) {
	const mc_weight *w = c->obj;
	int glu = c->n[3] != 0;
	int64_t ldx = q_row_bytes(w), all = w->k / w->agroup, half = w->n / 64;
	int64_t pass = r1 - r0 <= MAX_QROWS ? all : imax(1, 2048 / w->agroup);
	size_t ld = 4 * 32;
	int width = glu ? 2 : 4; // panels at once
	for (int64_t p = p0; p < p1; p += width) {
		int n = (int)imin(width, p1 - p), np = glu ? 2 * n : n;
		int64_t panel[4];
		for (int i = 0; i < n; i++) { panel[i] = p + i; if (glu) panel[n + i] = p + i + half; }
		for (int64_t g = 0; g < all; g += pass)
			for (int64_t r = r0; r < r1; r += MAX_QROWS) {
				int R = (int)imin(MAX_QROWS, r1 - r);
				float *s = sums + (r - r0) * ld;
				q_product(w, R, np, r == r0, X + r * ldx, ldx, panel, g, imin(all, g + pass), s, ld, g > 0);
				if (g + pass < all) continue;
				if (glu) epilogue_glu(c, r, R, p * 32, n * 32, s, s + n * 32, ld);
				else epilogue(c, r, R, p * 32, imin(n * 32, w->n - p * 32), s, ld);
			}
	}
}

enum { Q_SUPER_ROWS = 96 }; // rows of one task
INLINE int64_t q_sums_bytes(int64_t T) { return imin(T, Q_SUPER_ROWS) * 128 * 4; }

#ifdef MC_TILE
#include "mc_amx_quant.h"
#endif

// Whether T rows go through tiles.
static int q_tiles(const mc_weight *w, int64_t T) {
#ifdef MC_TILE
	return amx_quant(w, T);
#else
	return 0;
#endif
}

static void q_plan(const mc_cmd *c, int phase, int threads, mc_plan *out) {
	const mc_weight *w = c->obj;
	int64_t T = c->n[0], panels = out_panels(c);
	int alone = !q_tiles(w, T) && stage_alone(T, w->k);
	if (!alone) out->shared_bytes = (T + 31) * q_row_bytes(w); // tiles read past the last row, and drop what they make of it
#ifdef MC_TILE
	if (phase == 1 && amx_quant(w, T)) { amx_q_plan(c, threads, out); return; }
#endif
	if (phase == 0 && !alone) {
		out->tasks = CEIL(T, 8);
		out->ns = (double)T * w->k * 0.15;
	} else if (phase == !alone) {
		out->tasks = CEIL(panels, task_panels(w, T, panels, threads)) * CEIL(T, Q_SUPER_ROWS);
		double ops = 2.0 * T * w->n * w->k / (VL == 16 ? 150 : 20), bytes = (double)w->bytes / 40;
		out->ns = ops > bytes ? ops : bytes;
		out->local_bytes = q_sums_bytes(T) + (alone ? T * q_row_bytes(w) : 0);
	}
}

static void q_run(const mc_cmd *c, int phase, int64_t task, int threads, mc_ctx *x) {
	const mc_weight *w = c->obj;
	int64_t T = c->n[0], ldx = q_row_bytes(w);
	int alone = !q_tiles(w, T) && stage_alone(T, w->k);
	char *X = alone ? x->local + q_sums_bytes(T) : x->shared;
	if (phase == 0 && !alone) {
		for (int64_t t = task * 8; t < imin(T, task * 8 + 8); t++) q_stage_row(w, X + t * ldx, row_of(&c->t[1], t), c->t[1].dt);
		return;
	}
#ifdef MC_TILE
	if (amx_quant(w, T)) { amx_q_run(c, task, threads, X, q_codes(w), ldx, x->local); return; }
#endif
	if (alone && x->staged != c) {
		for (int64_t t = 0; t < T; t++) q_stage_row(w, X + t * ldx, row_of(&c->t[1], t), c->t[1].dt);
		x->staged = c;
	}
	int64_t panels = out_panels(c), per = task_panels(w, T, panels, threads), pieces = CEIL(panels, per);
	int64_t p0 = task % pieces * per, r0 = task / pieces * Q_SUPER_ROWS;
	q_linear(c, p0, imin(panels, p0 + per), r0, imin(T, r0 + Q_SUPER_ROWS), X, (float *)x->local);
}
