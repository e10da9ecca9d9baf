// mc_vec.h: vectors of VL floats for one instruction set. The including file sets
// VL and one of MC_AVX512, MC_AVX2 or neither (any machine, 16-byte vectors that the
// compiler maps to SSE2 or NEON). Sums are written with fma(), which is a fused
// multiply-add where the set has one; the order of operations is that of the source.
#include <math.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#include "mc.h"

#define INLINE static inline __attribute__((always_inline))
typedef float vf __attribute__((vector_size(VL * 4)));
typedef int32_t vi __attribute__((vector_size(VL * 4)));
typedef uint32_t vu __attribute__((vector_size(VL * 4)));
typedef uint16_t vh __attribute__((vector_size(VL * 2)));

INLINE vf vset(float x) { return x - (vf){0}; }
INLINE vi viset(int32_t x) { return x - (vi){0}; }
INLINE vf vload(const void *p) { vf v; memcpy(&v, p, sizeof v); return v; }
INLINE void vstore(void *p, vf v) { memcpy(p, &v, sizeof v); }
INLINE vf vselect(vi mask, vf a, vf b) { return (vf)((mask & (vi)a) | (~mask & (vi)b)); }
// The larger and the smaller, b where either is a NaN, as the instructions have it.
#if defined(MC_AVX512)
INLINE vf vmax(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE vf vmin(vf a, vf b) { return (vf)_mm512_min_ps((__m512)a, (__m512)b); }
#elif defined(MC_AVX2)
INLINE vf vmax(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE vf vmin(vf a, vf b) { return (vf)_mm256_min_ps((__m256)a, (__m256)b); }
#else
INLINE vf vmax(vf a, vf b) { return vselect(a > b, a, b); }
INLINE vf vmin(vf a, vf b) { return vselect(a < b, a, b); }
#endif
INLINE vf vabs(vf a) { return (vf)((vi)a & 0x7fffffff); }
INLINE vi vsteps(void) { vi v; for (int i = 0; i < VL; i++) v[i] = i; return v; }

#if defined(MC_AVX512)
INLINE vf fma_(vf a, vf b, vf c) { return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
INLINE vf vbits(vu half) { return (vf)(half << 16); }
INLINE vf vload_bf16(const void *p) { return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16); }
INLINE vf vsqrt(vf a) { return (vf)_mm512_sqrt_ps((__m512)a); }
#elif defined(MC_AVX2)
INLINE vf fma_(vf a, vf b, vf c) { return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
INLINE vf vload_bf16(const void *p) { return (vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16); }
#else
INLINE vf fma_(vf a, vf b, vf c) { return a * b + c; }
INLINE vf vload_bf16(const void *p) { vh h; memcpy(&h, p, sizeof h); return (vf)(__builtin_convertvector(h, vu) << 16); }
#endif

// bf16 from float, to nearest, ties to even; a NaN becomes a quiet NaN.
INLINE vh vround_bf16(vf v) {
#ifdef MC_DOT_BF16
	// The instruction flushes denormals to zero and is otherwise the same.
	__m256bh h = _mm512_cvtneps_pbh((__m512)v);
	vh fast;
	memcpy(&fast, &h, sizeof fast);
	return fast;
#else
	vu u = (vu)v;
	vu r = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
	vu nan = (vu)(v != v);
	r = (r & ~nan) | (((u >> 16) | 0x40) & nan);
	return __builtin_convertvector(r, vh);
#endif
}
INLINE void vstore_bf16(void *p, vf v) { vh h = vround_bf16(v); memcpy(p, &h, sizeof h); }

INLINE float round_bf16(float f) {
	uint32_t u;
	memcpy(&u, &f, 4);
	if (f != f) return f;
	u = (u + 0x7fff + ((u >> 16) & 1)) & 0xffff0000u;
	memcpy(&f, &u, 4);
	return f;
}
INLINE float from_bf16(uint16_t h) { uint32_t u = (uint32_t)h << 16; float f; memcpy(&f, &u, 4); return f; }
INLINE float from_f16(uint16_t h) {
	uint32_t sign = (uint32_t)(h & 0x8000) << 16, e = (h >> 10) & 31, m = h & 0x3ff, u;
	float f;
	if (e == 31) u = sign | 0x7f800000 | m << 13;
	else if (e) u = sign | (e + 112) << 23 | m << 13;
	else { f = (float)m * 0x1p-24f; memcpy(&u, &f, 4); u |= sign; }
	memcpy(&f, &u, 4);
	return f;
}

// Sums and maxima over lanes go in halves, a fixed order: lane i meets lane i + VL/2, and so on.
#if defined(MC_AVX512) || defined(MC_AVX2)
INLINE __m128 half_of(vf v, int max) {
#if defined(MC_AVX512)
	__m256 h = _mm512_extractf32x8_ps((__m512)v, 1), l = _mm512_castps512_ps256((__m512)v);
	l = max ? _mm256_max_ps(l, h) : _mm256_add_ps(l, h);
#else
	__m256 l = (__m256)v;
#endif
	__m128 q = _mm256_extractf128_ps(l, 1), p = _mm256_castps256_ps128(l);
	return max ? _mm_max_ps(p, q) : _mm_add_ps(p, q);
}
INLINE float vsum(vf v) {
	__m128 p = half_of(v, 0);
	p = _mm_add_ps(p, _mm_movehl_ps(p, p));
	return _mm_cvtss_f32(_mm_add_ss(p, _mm_movehdup_ps(p)));
}
INLINE float vmaximum(vf v) {
	__m128 p = half_of(v, 1);
	p = _mm_max_ps(p, _mm_movehl_ps(p, p));
	return _mm_cvtss_f32(_mm_max_ss(p, _mm_movehdup_ps(p)));
}
#else
INLINE float vsum(vf v) {
	float a[VL];
	vstore(a, v);
	for (int w = VL / 2; w > 0; w /= 2) for (int i = 0; i < w; i++) a[i] += a[i + w];
	return a[0];
}
INLINE float vmaximum(vf v) {
	float a[VL];
	vstore(a, v);
	for (int w = VL / 2; w > 0; w /= 2) for (int i = 0; i < w; i++) a[i] = a[i] > a[i + w] ? a[i] : a[i + w];
	return a[0];
}
#endif

// Fetches a line into the cache. As asm, since gcc 12 keeps accumulators in memory in loops
// with its own.
INLINE void fetch_line(const void *p) {
#if defined(__x86_64__)
	__asm__ volatile("prefetcht0 (%0)" : : "r"(p));
#else
	__builtin_prefetch(p);
#endif
}

INLINE int64_t size_of(int64_t dt) { return dt == MC_F32 || dt == MC_I32 ? 4 : dt == MC_U8 ? 1 : 2; }
INLINE char *row_of(const mc_tensor *t, int64_t row) { return (char *)t->p + row * t->stride * size_of(t->dt); }

// Elements i.. of a row of floats or bf16; left of them exist, the others are 0.
INLINE vf vget(const void *row, int64_t dt, int64_t i, int64_t left) {
	if (left >= VL) return dt == MC_F32 ? vload((const float *)row + i) : vload_bf16((const uint16_t *)row + i);
	float f[VL] = {0};
	for (int j = 0; j < left; j++) f[j] = dt == MC_F32 ? ((const float *)row)[i + j] : from_bf16(((const uint16_t *)row)[i + j]);
	return vload(f);
}
INLINE void vput(void *row, int64_t dt, int64_t i, int64_t left, vf v) {
	if (left >= VL) {
		if (dt == MC_F32) vstore((float *)row + i, v);
		else vstore_bf16((uint16_t *)row + i, v);
		return;
	}
	if (dt == MC_F32) memcpy((float *)row + i, &v, left * 4);
	else { vh h = vround_bf16(v); memcpy((uint16_t *)row + i, &h, left * 2); }
}

// exp(x) with a relative error below 2e-7 for -87 <= x <= 88; smaller x give about
// 1e-38, larger ones infinity. x = n ln2 + r, |r| <= ln2/2, Taylor series to r^7.
INLINE vf vexp(vf x) {
	vi over = x > 88.7f;
	x = vmin(vmax(x, vset(-87.0f)), vset(88.7f));
	vf magic = vset(12582912.0f); // 1.5 * 2^23: adding it rounds to an integer
	vf shifted = fma_(x, vset(1.44269504f), magic);
	vf n = shifted - magic;
	vf r = fma_(n, vset(-0.693359375f), x);
	r = fma_(n, vset(2.12194440e-4f), r);
	vf p = vset(1.0f / 5040);
	p = fma_(p, r, vset(1.0f / 720));
	p = fma_(p, r, vset(1.0f / 120));
	p = fma_(p, r, vset(1.0f / 24));
	p = fma_(p, r, vset(1.0f / 6));
	p = fma_(p, r, vset(0.5f));
	p = fma_(p, r, vset(1.0f));
	p = fma_(p, r, vset(1.0f));
	vi e = (vi)shifted - (vi)magic; // n as an integer; in two halves, as 2^128 has no float
	vi half = e >> 1;
	p = p * (vf)((half + 127) << 23) * (vf)((e - half + 127) << 23);
	return vselect(over, vset(INFINITY), p);
}

// exp(x) for x <= 0, as vexp.
INLINE vf vexp_negative(vf x) {
#if defined(MC_AVX512)
	__m512 v = _mm512_max_ps((__m512)x, _mm512_set1_ps(-87.0f));
	__m512 n = _mm512_roundscale_ps(_mm512_mul_ps(v, _mm512_set1_ps(1.44269504f)), 8);
	vf r = fma_((vf)n, vset(-0.693359375f), (vf)v);
	r = fma_((vf)n, vset(2.12194440e-4f), r);
	vf p = fma_(vset(1.0f / 720), r, vset(1.0f / 120));
	p = fma_(p, r, vset(1.0f / 24));
	p = fma_(p, r, vset(1.0f / 6));
	p = fma_(p, r, vset(0.5f));
	p = fma_(p, r, vset(1.0f));
	p = fma_(p, r, vset(1.0f));
	return (vf)_mm512_scalef_ps((__m512)p, n);
#else
	return vexp(x);
#endif
}

// erf(x) with an absolute error below 2e-7: x P(x^2) up to 1, 1 - exp(-Q(x)) up to 4,
// where it is 1 to within 2e-8. P and Q are Chebyshev fits of our own.
INLINE vf verf(vf x) {
	vf z = vmin(vabs(x), vset(4.0f)), s = z * z;
	vf p = vset(7.882497448e-5f);
	p = fma_(p, s, vset(-8.018855005e-4f));
	p = fma_(p, s, vset(5.189312156e-3f));
	p = fma_(p, s, vset(-2.685432881e-2f));
	p = fma_(p, s, vset(1.128359735e-1f));
	p = fma_(p, s, vset(-3.761262596e-1f));
	p = fma_(p, s, vset(1.1283791065f));
	p = p * z;
	vf q = vset(-1.614061603e-6f);
	q = fma_(q, z, vset(4.559062290e-5f));
	q = fma_(q, z, vset(-5.927695310e-4f));
	q = fma_(q, z, vset(4.740222357e-3f));
	q = fma_(q, z, vset(-2.636471763e-2f));
	q = fma_(q, z, vset(1.0997824371e-1f));
	q = fma_(q, z, vset(6.319370866e-1f));
	q = fma_(q, z, vset(1.1301666498f));
	q = fma_(q, z, vset(-3.032129607e-4f));
	vf far = 1.0f - vexp(-q);
	vf r = vselect(z < 1.0f, p, far);
	return (vf)((vi)r | ((vi)x & (int32_t)0x80000000));
}

enum { ACT_NONE, ACT_GELU, ACT_QUICK_GELU, ACT_SILU }; // as kernels.Act
INLINE vf vact(int act, vf x) {
	switch (act) {
	case ACT_GELU: return 0.5f * x * (1.0f + verf(x * 0.70710678f));
	case ACT_QUICK_GELU: return x / (1.0f + vexp(-1.702f * x));
	case ACT_SILU: return x / (1.0f + vexp(-x));
	}
	return x;
}

#define CEIL(a, b) (((a) + (b) - 1) / (b))
INLINE int64_t imin(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t imax(int64_t a, int64_t b) { return a > b ? a : b; }
INLINE void bad(mc_ctx *x, const mc_cmd *c, int64_t index, int64_t value, int64_t limit) {
	int32_t none = 0;
	if (__atomic_compare_exchange_n(&x->err->code, &none, 1, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
		x->err->op = c->op; x->err->index = index; x->err->value = value; x->err->limit = limit;
	}
}
