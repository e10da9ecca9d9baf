// Inverse DCT, chroma upsampling and colour conversion with AVX2. The definitions are
// in idct.go and pixels.go; both give the same bytes for all inputs.

#include "jpeg_amd64.h"

#include <immintrin.h>
#include <string.h>

#define AVX2 __attribute__((target("avx2")))
#define INLINE static inline __attribute__((always_inline))

int mc_jpeg_level(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") ? 1 : 0;
}

// The factors of the transform, 2^13 times the constant; names as in idct.go.
enum {
    UNIT = 1 << 13,
    E2X2 = 4433 + 6270, E2X6 = 4433, E3X2 = 4433, E3X6 = 4433 - 15137,
    F0298 = 2446, F0390 = 3196, F0899 = 7373, F1175 = 9633, F1501 = 12299,
    F1961 = 16069, F2053 = 16819, F2562 = 20995, F3072 = 25172,
};

// pair holds the low and the high half of a row of 32-bit sums.
struct pair {
    __m256i lo, hi;
};

// factors repeats a for even and b for odd 16-bit lanes.
AVX2 INLINE __m256i factors(int a, int b) {
    return _mm256_set1_epi32((int32_t)((uint32_t)(uint16_t)b << 16 | (uint16_t)a));
}

// two interleaves a and b, so that a multiply-add gives a·fa + b·fb in 32 bits.
AVX2 INLINE struct pair two(__m256i a, __m256i b) {
    return (struct pair){_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b)};
}

AVX2 INLINE struct pair mul(struct pair p, __m256i f) {
    return (struct pair){_mm256_madd_epi16(p.lo, f), _mm256_madd_epi16(p.hi, f)};
}

AVX2 INLINE struct pair add(struct pair a, struct pair b) {
    return (struct pair){_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)};
}

AVX2 INLINE struct pair sub(struct pair a, struct pair b) {
    return (struct pair){_mm256_sub_epi32(a.lo, b.lo), _mm256_sub_epi32(a.hi, b.hi)};
}

// narrow shifts and saturates to 16 bits.
AVX2 INLINE __m256i narrow(struct pair p, int shift) {
    return _mm256_packs_epi32(_mm256_srai_epi32(p.lo, shift), _mm256_srai_epi32(p.hi, shift));
}

// transform runs the 8-point transform over x[0]…x[7], lane by lane.
AVX2 INLINE void transform(__m256i x[8], int shift) {
    const __m256i round = _mm256_set1_epi32(1 << (shift - 1));
    const struct pair half = {round, round};
    struct pair p04 = two(x[0], x[4]), p26 = two(x[2], x[6]), p75 = two(x[7], x[5]), p31 = two(x[3], x[1]);
    struct pair a = add(mul(p04, factors(UNIT, UNIT)), half), b = add(mul(p04, factors(UNIT, -UNIT)), half);
    struct pair t3 = mul(p26, factors(E2X2, E2X6)), t2 = mul(p26, factors(E3X2, E3X6));
    struct pair o0 = add(mul(p75, factors(F0298 - F0899 - F1961 + F1175, F1175)), mul(p31, factors(F1175 - F1961, F1175 - F0899)));
    struct pair o1 = add(mul(p75, factors(F1175, F2053 - F2562 - F0390 + F1175)), mul(p31, factors(F1175 - F2562, F1175 - F0390)));
    struct pair o2 = add(mul(p75, factors(F1175 - F1961, F1175 - F2562)), mul(p31, factors(F3072 - F2562 - F1961 + F1175, F1175)));
    struct pair o3 = add(mul(p75, factors(F1175 - F0899, F1175 - F0390)), mul(p31, factors(F1175, F1501 - F0899 - F0390 + F1175)));
    struct pair e0 = add(a, t3), e1 = add(b, t2), e2 = sub(b, t2), e3 = sub(a, t3);
    x[0] = narrow(add(e0, o3), shift), x[7] = narrow(sub(e0, o3), shift);
    x[1] = narrow(add(e1, o2), shift), x[6] = narrow(sub(e1, o2), shift);
    x[2] = narrow(add(e2, o1), shift), x[5] = narrow(sub(e2, o1), shift);
    x[3] = narrow(add(e3, o0), shift), x[4] = narrow(sub(e3, o0), shift);
}

// transpose swaps rows and columns of the 8×8 values in each half.
AVX2 INLINE void transpose(__m256i x[8]) {
    __m256i a[8], b[8];
    for (int i = 0; i < 4; i++) {
        a[2 * i] = _mm256_unpacklo_epi16(x[2 * i], x[2 * i + 1]);
        a[2 * i + 1] = _mm256_unpackhi_epi16(x[2 * i], x[2 * i + 1]);
    }
    for (int i = 0; i < 2; i++) {
        b[4 * i] = _mm256_unpacklo_epi32(a[4 * i], a[4 * i + 2]);
        b[4 * i + 1] = _mm256_unpackhi_epi32(a[4 * i], a[4 * i + 2]);
        b[4 * i + 2] = _mm256_unpacklo_epi32(a[4 * i + 1], a[4 * i + 3]);
        b[4 * i + 3] = _mm256_unpackhi_epi32(a[4 * i + 1], a[4 * i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        x[2 * i] = _mm256_unpacklo_epi64(b[i], b[i + 4]);
        x[2 * i + 1] = _mm256_unpackhi_epi64(b[i], b[i + 4]);
    }
}

AVX2 void mc_jpeg_idct(uint8_t *dst, size_t stride, const int16_t *coeffs, const uint16_t *table, size_t blocks) {
    for (size_t i = 0; i < blocks; i += 2) { // a block in each half; the last one twice if odd
        const int16_t *c0 = coeffs + 64 * i, *c1 = i + 1 < blocks ? c0 + 64 : c0;
        __m256i x[8];
        for (int r = 0; r < 8; r++) {
            __m256i c = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(c0 + 8 * r))),
                                                _mm_loadu_si128((const __m128i *)(c1 + 8 * r)), 1);
            __m256i q = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(table + 8 * r)));
            x[r] = _mm256_mullo_epi16(c, q);
        }
        transform(x, 11);
        transpose(x);
        transform(x, 18);
        transpose(x);
        for (int r = 0; r < 8; r += 2) {
            __m256i s = _mm256_packs_epi16(x[r], x[r + 1]);
            s = _mm256_permute4x64_epi64(_mm256_xor_si256(s, _mm256_set1_epi8((char)0x80)), 0xd8);
            __m128i top = _mm256_castsi256_si128(s), bottom = _mm256_extracti128_si256(s, 1);
            uint8_t *d = dst + r * stride + 8 * i;
            if (i + 1 < blocks) {
                _mm_storeu_si128((__m128i *)d, top);
                _mm_storeu_si128((__m128i *)(d + stride), bottom);
            } else {
                _mm_storel_epi64((__m128i *)d, top);
                _mm_storel_epi64((__m128i *)(d + stride), bottom);
            }
        }
    }
}

// spread doubles sums[1]…sums[n]: (3·this + previous + even) >> shift and (3·this + next + odd) >> shift.
AVX2 INLINE void spread(uint8_t *dst, int16_t *sums, size_t n, int even, int odd, int shift) {
    const __m256i be = _mm256_set1_epi16((short)even), bo = _mm256_set1_epi16((short)odd);
    sums[0] = sums[1];
    sums[n + 1] = sums[n];
    for (size_t i = 0; i < n; i += 16) {
        __m256i last = _mm256_loadu_si256((const __m256i *)(sums + i));
        __m256i s = _mm256_loadu_si256((const __m256i *)(sums + i + 1));
        __m256i next = _mm256_loadu_si256((const __m256i *)(sums + i + 2));
        s = _mm256_add_epi16(s, _mm256_slli_epi16(s, 1));
        __m256i e = _mm256_srli_epi16(_mm256_add_epi16(_mm256_add_epi16(s, last), be), shift);
        __m256i o = _mm256_srli_epi16(_mm256_add_epi16(_mm256_add_epi16(s, next), bo), shift);
        _mm256_storeu_si256((__m256i *)(dst + 2 * i), _mm256_or_si256(e, _mm256_slli_epi16(o, 8)));
    }
}

AVX2 INLINE __m256i widen(const uint8_t *p) { return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)p)); }

AVX2 void mc_jpeg_spread_h(uint8_t *dst, const uint8_t *src, int16_t *sums, size_t n) {
    for (size_t i = 0; i < n; i += 16)
        _mm256_storeu_si256((__m256i *)(sums + 1 + i), widen(src + i));
    spread(dst, sums, n, 1, 2, 2);
}

AVX2 void mc_jpeg_spread_hv(uint8_t *dst, const uint8_t *near, const uint8_t *far, int16_t *sums, size_t n) {
    for (size_t i = 0; i < n; i += 16) {
        __m256i a = widen(near + i);
        a = _mm256_add_epi16(_mm256_add_epi16(a, _mm256_slli_epi16(a, 1)), widen(far + i));
        _mm256_storeu_si256((__m256i *)(sums + 1 + i), a);
    }
    spread(dst, sums, n, 8, 7, 4);
}

// scaled is (x·f + 2^15) >> 16 for |2x| < 2^15: the product of 2x loses its low 16 bits,
// then half of the rest is rounded up.
AVX2 INLINE __m256i scaled(__m256i x, int f) {
    __m256i t = _mm256_mulhi_epi16(_mm256_slli_epi16(x, 1), _mm256_set1_epi16((short)f));
    return _mm256_srai_epi16(_mm256_add_epi16(t, _mm256_set1_epi16(1)), 1);
}

AVX2 INLINE __m128i bytes(__m256i v) {
    return _mm_packus_epi16(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
}

// ycc16 converts 16 pixels to 48 bytes.
AVX2 INLINE void ycc16(uint8_t *dst, const uint8_t *ys, const uint8_t *cbs, const uint8_t *crs) {
    const __m256i centre = _mm256_set1_epi16(128), round = _mm256_set1_epi32(1 << 15);
    __m256i y = widen(ys), cb = _mm256_sub_epi16(widen(cbs), centre), cr = _mm256_sub_epi16(widen(crs), centre);
    // Factors beyond 16 bits are split: 91881 = 2^16 + 26345, 116130 = 2·2^16 - 14942,
    // -46802 = -2^16 + 18734.
    __m256i r = _mm256_add_epi16(_mm256_add_epi16(y, cr), scaled(cr, 26345));
    __m256i b = _mm256_add_epi16(_mm256_add_epi16(y, _mm256_slli_epi16(cb, 1)), scaled(cb, -14942));
    struct pair g = mul(two(cb, cr), factors(-22554, 18734));
    g = add(g, (struct pair){round, round});
    __m256i green = _mm256_add_epi16(_mm256_sub_epi16(y, cr), narrow(g, 16));

    __m128i rr = bytes(r), gg = bytes(green), bb = bytes(b);
#define PICK(v, ...) _mm_shuffle_epi8(v, _mm_setr_epi8(__VA_ARGS__))
#define _ -1
    __m128i o0 = _mm_or_si128(PICK(rr, 0, _, _, 1, _, _, 2, _, _, 3, _, _, 4, _, _, 5),
                 _mm_or_si128(PICK(gg, _, 0, _, _, 1, _, _, 2, _, _, 3, _, _, 4, _, _),
                              PICK(bb, _, _, 0, _, _, 1, _, _, 2, _, _, 3, _, _, 4, _)));
    __m128i o1 = _mm_or_si128(PICK(rr, _, _, 6, _, _, 7, _, _, 8, _, _, 9, _, _, 10, _),
                 _mm_or_si128(PICK(gg, 5, _, _, 6, _, _, 7, _, _, 8, _, _, 9, _, _, 10),
                              PICK(bb, _, 5, _, _, 6, _, _, 7, _, _, 8, _, _, 9, _, _)));
    __m128i o2 = _mm_or_si128(PICK(rr, _, 11, _, _, 12, _, _, 13, _, _, 14, _, _, 15, _, _),
                 _mm_or_si128(PICK(gg, _, _, 11, _, _, 12, _, _, 13, _, _, 14, _, _, 15, _),
                              PICK(bb, 10, _, _, 11, _, _, 12, _, _, 13, _, _, 14, _, _, 15)));
#undef _
#undef PICK
    _mm_storeu_si128((__m128i *)dst, o0);
    _mm_storeu_si128((__m128i *)(dst + 16), o1);
    _mm_storeu_si128((__m128i *)(dst + 32), o2);
}

AVX2 void mc_jpeg_ycc(uint8_t *dst, const uint8_t *y, const uint8_t *cb, const uint8_t *cr, size_t n) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        ycc16(dst + 3 * i, y + i, cb + i, cr + i);
    if (i < n) {
        uint8_t rest[48];
        ycc16(rest, y + i, cb + i, cr + i);
        memcpy(dst + 3 * i, rest, 3 * (n - i));
    }
}
