// What the linear kernels share: the tiled weight layout and the epilogue.
//
// Tiled layout. A bf16 weight [n,k] is stored as blocks of 16 rows and 64 columns,
// 2 KiB each, all blocks of 16 rows (a strip) next to each other along k:
//
//   [n_padded/16][k_padded/64] [row half: 2][8 rows][8 chunks of 8 columns]
//
// Chunk c of row r lies at c^(r%8). This is what the bulk copy engine's 128-byte
// swizzle makes of 8 rows: ldmatrix meets no bank twice, and wgmma reads it as it
// is. One ldmatrix of 16 columns gives a warp the A fragment of mma.m16n8k16 (rows
// as M) or the B fragments of two n8 tiles. So one copy of a weight serves decode,
// prefill and the Hopper path.
//
// Order of the sum. Every kernel adds k in steps of 16 into one float32
// accumulator that starts at zero. The bits of a row therefore do not depend on
// the kernel, hence not on the number of rows.
//
// Gated weights (gate and up of a SwiGLU) are packed with 8 gate rows and their 8
// up rows in a tile, so that silu(gate)*up needs no exchange between threads.
#pragma once
#include "params.cuh"

constexpr int kStep = 16;         // columns of k in one mma
constexpr int kBlockBytes = 2048;  // 16 rows x 64 columns of a weight
constexpr int kBlockCols = 64;

// Byte offset, in a block, of the row that lane gives to ldmatrix for step k (0..3):
// matrices in the order (k low, rows 0-7), (k low, rows 8-15), (k high, ...).
DEVICE int fragment_at(int k, int lane) {
  const int r = lane & 7;
  return (lane >> 3 & 1) * 1024 + r * 128 + (((k * 2 + (lane >> 4)) ^ r) << 4);
}

// Finishes one output: y is the sum, n its column, r the residual.
DEVICE float finish_value(const LinearParams &p, int n, float y, float r) {
  if (p.bias) y = add_rn(y, static_cast<const float *>(p.bias)[n]);
  y = activate(y, p.act);
  if (p.residual) y = p.layer_scale ? fmaf(static_cast<const float *>(p.layer_scale)[n], y, r) : add_rn(r, y);
  return y;
}
DEVICE float finish(const LinearParams &p, int64_t row, int n, float y) {
  return finish_value(p, n, y, p.residual ? load(p.residual, p.out_dt, row * p.residual_stride + n) : 0.f);
}

// What becomes of a gated weight's tiles.
enum {
  GATED_NONE = 0,     // the weight is not gated
  GATED_PRODUCT = 1,  // silu(gate)*up
  GATED_PLAIN = 2     // gate and up themselves, as if the weight were not interleaved
};

DEVICE void write_one(const LinearParams &p, int64_t row, int n, float y) {
  if (row >= p.rows || n >= p.n) return;
  if (p.gated == GATED_PLAIN) n = n / 16 * 8 + n % 8 + n / 8 % 2 * (p.n / 2);
  store(p.out, p.out_dt, row * p.out_stride + n, finish(p, row, n, y));
}

// Writes outputs n and n+1 of a row; even n.
DEVICE void write_pair(const LinearParams &p, int64_t row, int n, float y0, float y1) {
  if (row >= p.rows || n >= p.n) return;
  if (n + 1 >= p.n || p.out_dt == DT_F32 || p.gated || (p.out_stride & 1)) {
    write_one(p, row, n, y0);
    write_one(p, row, n + 1, y1);
    return;
  }
  *reinterpret_cast<uint32_t *>(static_cast<bf16 *>(p.out) + row * p.out_stride + n) = pack_bf16(finish(p, row, n, y0), finish(p, row, n + 1, y1));
}

// silu(g)*u; the two are rounded to the output's type first, as the separate
// operations would round them.
DEVICE float gated_bf16(float g, float u) { return silu(round_bf16(g)) * round_bf16(u); }
DEVICE float gated_product(const LinearParams &p, float g, float u) {
  return p.out_dt == DT_BF16 ? gated_bf16(g, u) : silu(g) * u;
}

// Writes silu(g)*u, output n of a row of a gated weight.
DEVICE void write_gated(const LinearParams &p, int64_t row, int n, float g, float u) {
  if (row < p.rows && n < p.n / 2) store(p.out, p.out_dt, row * p.out_stride + n, gated_product(p, g, u));
}
