// Vector passes of package resample. See resample_amd64.c.
#pragma once
#include <stddef.h>
#include <stdint.h>

// Weights are split w = hi·2^8 + lo with lo in -128…127 and stored for pairs of taps as
// two 16-bit values in one word, first tap in the low half: hi word, then lo word.

// mc_resample_level says what the machine can do: 0 nothing, 1 AVX2, 2 AVX-512 with VNNI.
int mc_resample_level(void);

// mc_resample_h scales two rows of RGB: dst0, dst1 [out,3]; src0, src1 rows of which
// 2 bytes after the last pixel may be read; first [out]; weights [out,taps/2,2].
// Up to 16 bytes after each dst row are overwritten.
void mc_resample_h(int level, uint8_t *dst0, uint8_t *dst1, const uint8_t *src0, const uint8_t *src1,
                   const int32_t *first, const int32_t *weights, size_t taps, size_t out);

// mc_resample_v mixes taps rows of n bytes: row k of the filter is at
// rows + ((start+k) mod ring)·stride. The result is written in segments of segment
// bytes, the starts of which are jump bytes apart. weights [taps/2,2].
void mc_resample_v(int level, uint8_t *dst, size_t segment, size_t jump, const uint8_t *rows, size_t stride,
                   size_t ring, size_t start, const int32_t *weights, size_t taps, size_t n);
