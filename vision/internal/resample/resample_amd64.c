// The two passes of the bicubic filter with AVX2. Pixels and 22-bit weights are
// multiplied by pmaddwd, two taps at a time: a weight is split into hi·2^8 + lo, both of
// which fit in 16 bits, and the two sums are joined at the end. All of it is exact
// integer arithmetic: the result equals the plain one bit for bit.

#include "resample_amd64.h"

#include <immintrin.h>
#include <string.h>

#define AVX2 __attribute__((target("avx2")))
#define INLINE static inline __attribute__((always_inline))

enum { PRECISION = 22, SPLIT = 8 };

int mc_resample_level(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") ? 1 : 0;
}

// join gives the clipped-to-16-bit results of eight sums.
AVX2 INLINE __m256i join(__m256i hi, __m256i lo) {
    __m256i s = _mm256_add_epi32(_mm256_slli_epi32(hi, SPLIT), lo);
    return _mm256_srai_epi32(s, PRECISION);
}

// pixel2 filters one pixel of two rows: lanes r g b and one unused, row 0 in the low half.
AVX2 INLINE __m256i pixel2(const uint8_t *s0, const uint8_t *s1, const int32_t *w, size_t pairs) {
    // Bytes r0 g0 b0 r1 g1 b1 of two neighbours become 16-bit pairs r0 r1, g0 g1, b0 b1.
    const __m256i spread = _mm256_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1,
                                            0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1);
    __m256i hi = _mm256_setzero_si256(), lo = _mm256_set1_epi32(1 << (PRECISION - 1));
    for (size_t t = 0; t < pairs; t++) {
        __m128i a = _mm_loadl_epi64((const __m128i *)(s0 + 6 * t));
        __m128i b = _mm_loadl_epi64((const __m128i *)(s1 + 6 * t));
        __m256i p = _mm256_shuffle_epi8(_mm256_inserti128_si256(_mm256_castsi128_si256(a), b, 1), spread);
        hi = _mm256_add_epi32(hi, _mm256_madd_epi16(p, _mm256_set1_epi32(w[2 * t])));
        lo = _mm256_add_epi32(lo, _mm256_madd_epi16(p, _mm256_set1_epi32(w[2 * t + 1])));
    }
    return join(hi, lo);
}

AVX2 INLINE void rows2(uint8_t *d0, uint8_t *d1, const uint8_t *s0, const uint8_t *s1, const int32_t *first,
                       const int32_t *w, size_t pairs, size_t out) {
    // r g b x four times becomes twelve bytes and four that the next store overwrites.
    const __m256i squeeze = _mm256_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1,
                                             0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
    size_t x = 0;
    for (; x + 4 <= out; x += 4, w += 8 * pairs) {
        __m256i p0 = pixel2(s0 + 3 * (size_t)first[x], s1 + 3 * (size_t)first[x], w, pairs);
        __m256i p1 = pixel2(s0 + 3 * (size_t)first[x + 1], s1 + 3 * (size_t)first[x + 1], w + 2 * pairs, pairs);
        __m256i p2 = pixel2(s0 + 3 * (size_t)first[x + 2], s1 + 3 * (size_t)first[x + 2], w + 4 * pairs, pairs);
        __m256i p3 = pixel2(s0 + 3 * (size_t)first[x + 3], s1 + 3 * (size_t)first[x + 3], w + 6 * pairs, pairs);
        __m256i q = _mm256_packus_epi16(_mm256_packs_epi32(p0, p1), _mm256_packs_epi32(p2, p3));
        q = _mm256_shuffle_epi8(q, squeeze);
        _mm_storeu_si128((__m128i *)(d0 + 3 * x), _mm256_castsi256_si128(q));
        _mm_storeu_si128((__m128i *)(d1 + 3 * x), _mm256_extracti128_si256(q, 1));
    }
    for (; x < out; x++, w += 2 * pairs) {
        __m256i p = pixel2(s0 + 3 * (size_t)first[x], s1 + 3 * (size_t)first[x], w, pairs);
        p = _mm256_packus_epi16(_mm256_packs_epi32(p, p), p);
        int32_t a = _mm256_extract_epi32(p, 0), b = _mm256_extract_epi32(p, 4);
        memcpy(d0 + 3 * x, &a, 3);
        memcpy(d1 + 3 * x, &b, 3);
    }
}

AVX2 void mc_resample_h(int level, uint8_t *dst0, uint8_t *dst1, const uint8_t *src0, const uint8_t *src1,
                        const int32_t *first, const int32_t *weights, size_t taps, size_t out) {
    (void)level;
    if (taps == 4)
        rows2(dst0, dst1, src0, src1, first, weights, 2, out);
    else
        rows2(dst0, dst1, src0, src1, first, weights, taps / 2, out);
}

// source says where the rows of a vertical filter are.
struct source {
    const uint8_t *rows;
    size_t stride, ring, start;
};

INLINE const uint8_t *row(const struct source *s, size_t k) {
    size_t slot = s->start + k;
    return s->rows + (slot >= s->ring ? slot - s->ring : slot) * s->stride;
}

// column32 filters 32 bytes at offset at of the rows.
AVX2 INLINE __m256i column32(const struct source *s, size_t at, const int32_t *w, size_t pairs) {
    const __m256i zero = _mm256_setzero_si256(), half = _mm256_set1_epi32(1 << (PRECISION - 1));
    __m256i h0 = zero, h1 = zero, h2 = zero, h3 = zero, l0 = half, l1 = half, l2 = half, l3 = half;
    for (size_t t = 0; t < pairs; t++) {
        __m256i a = _mm256_loadu_si256((const __m256i *)(row(s, 2 * t) + at));
        __m256i b = _mm256_loadu_si256((const __m256i *)(row(s, 2 * t + 1) + at));
        __m256i low = _mm256_unpacklo_epi8(a, b), high = _mm256_unpackhi_epi8(a, b);
        __m256i p0 = _mm256_unpacklo_epi8(low, zero), p1 = _mm256_unpackhi_epi8(low, zero);
        __m256i p2 = _mm256_unpacklo_epi8(high, zero), p3 = _mm256_unpackhi_epi8(high, zero);
        __m256i wh = _mm256_set1_epi32(w[2 * t]), wl = _mm256_set1_epi32(w[2 * t + 1]);
        h0 = _mm256_add_epi32(h0, _mm256_madd_epi16(p0, wh));
        h1 = _mm256_add_epi32(h1, _mm256_madd_epi16(p1, wh));
        h2 = _mm256_add_epi32(h2, _mm256_madd_epi16(p2, wh));
        h3 = _mm256_add_epi32(h3, _mm256_madd_epi16(p3, wh));
        l0 = _mm256_add_epi32(l0, _mm256_madd_epi16(p0, wl));
        l1 = _mm256_add_epi32(l1, _mm256_madd_epi16(p1, wl));
        l2 = _mm256_add_epi32(l2, _mm256_madd_epi16(p2, wl));
        l3 = _mm256_add_epi32(l3, _mm256_madd_epi16(p3, wl));
    }
    // The packs undo the order of the unpacks within each half.
    return _mm256_packus_epi16(_mm256_packs_epi32(join(h0, l0), join(h1, l1)),
                               _mm256_packs_epi32(join(h2, l2), join(h3, l3)));
}

// column1 filters one byte.
INLINE uint8_t column1(const struct source *s, size_t at, const int32_t *w, size_t pairs) {
    int32_t hi = 0, lo = 1 << (PRECISION - 1);
    for (size_t t = 0; t < pairs; t++) {
        int32_t a = row(s, 2 * t)[at], b = row(s, 2 * t + 1)[at];
        hi += a * (int16_t)(w[2 * t] & 0xffff) + b * (w[2 * t] >> 16);
        lo += a * (int16_t)(w[2 * t + 1] & 0xffff) + b * (w[2 * t + 1] >> 16);
    }
    int32_t v = (hi * (1 << SPLIT) + lo) >> PRECISION;
    return v < 0 ? 0 : v > 255 ? 255 : (uint8_t)v;
}

AVX2 INLINE void segment_v(uint8_t *dst, const struct source *s, size_t from, size_t n, const int32_t *w, size_t pairs) {
    size_t i = 0;
    for (; i + 32 <= n; i += 32)
        _mm256_storeu_si256((__m256i *)(dst + i), column32(s, from + i, w, pairs));
    if (i == n)
        return;
    if (n >= 32) { // the last bytes once more, together with some before them
        _mm256_storeu_si256((__m256i *)(dst + n - 32), column32(s, from + n - 32, w, pairs));
        return;
    }
    for (; i < n; i++)
        dst[i] = column1(s, from + i, w, pairs);
}

AVX2 void mc_resample_v(int level, uint8_t *dst, size_t segment, size_t jump, const uint8_t *rows, size_t stride,
                        size_t ring, size_t start, const int32_t *weights, size_t taps, size_t n) {
    (void)level;
    const struct source s = {rows, stride, ring, start};
    for (size_t at = 0; at < n; at += segment, dst += jump) {
        if (taps == 4)
            segment_v(dst, &s, at, segment, weights, 2);
        else
            segment_v(dst, &s, at, segment, weights, taps / 2);
    }
}
