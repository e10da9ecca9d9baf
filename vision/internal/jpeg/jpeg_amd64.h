// Vector arithmetic of package jpeg. See jpeg_amd64.c.
#pragma once
#include <stddef.h>
#include <stdint.h>

// mc_jpeg_level says what the machine can do: 0 nothing, 1 AVX2.
int mc_jpeg_level(void);

// mc_jpeg_idct transforms blocks neighbouring blocks: coeffs [blocks,64] and table [64] in
// natural order, block i to columns 8i…8i+7 of eight rows of dst, stride bytes apart.
void mc_jpeg_idct(uint8_t *dst, size_t stride, const int16_t *coeffs, const uint16_t *table, size_t blocks);

// mc_jpeg_spread_h doubles a row of n samples with the triangle filter; sums is scratch for
// n+34 values. Up to 32 bytes after dst [2n] are overwritten, 15 after src are read.
void mc_jpeg_spread_h(uint8_t *dst, const uint8_t *src, int16_t *sums, size_t n);

// mc_jpeg_spread_hv does the same after mixing 3/4 near with 1/4 far.
void mc_jpeg_spread_hv(uint8_t *dst, const uint8_t *near, const uint8_t *far, int16_t *sums, size_t n);

// mc_jpeg_ycc writes n pixels of RGB; up to 15 bytes after the rows are read.
void mc_jpeg_ycc(uint8_t *dst, const uint8_t *y, const uint8_t *cb, const uint8_t *cr, size_t n);
