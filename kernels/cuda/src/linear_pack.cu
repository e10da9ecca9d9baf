// Weights to the tiled layout, and activations to what the tiled kernels read.
#include "linear.cuh"

// One thread moves 8 columns of one row. The source is row-major [rows,k]; its
// row r becomes row row0+r of the weight, or, of a gated weight with `half` rows a
// side, row (r%half/8)*16 + (r/half)*8 + r%8 counted from the gate's first row.
// Columns from k to k_padded become zero.
KERNEL(pack_tiled, PackParams, 256, 1) {
  const int64_t chunks = p.k_padded / 8, total = p.rows * chunks;
  const bf16 *src = static_cast<const bf16 *>(p.src);
  Vec4 *out = static_cast<Vec4 *>(p.out);
  for (int64_t i = int64_t(block_x) * block_threads + thread_x; i < total; i += int64_t(grid_x) * block_threads) {
    const int64_t r = i / chunks;
    const int c = int(i % chunks) * 8;
    int64_t row = p.row0 + r;
    if (p.interleave) row = row % p.half / 8 * 16 + row / p.half * 8 + row % 8;
    Vec4 v = {0, 0, 0, 0};
    if (c + 8 <= p.k && p.k % 8 == 0) {
      v = *reinterpret_cast<const Vec4 *>(src + r * p.k + c);
    } else {
      uint32_t h[8];
      UNROLL for (int j = 0; j < 8; j++) h[j] = c + j < p.k ? src[r * p.k + c + j] : 0;
      v = {h[0] | h[1] << 16, h[2] | h[3] << 16, h[4] | h[5] << 16, h[6] | h[7] << 16};
    }
    const int64_t block = row / 16 * (p.k_padded / kBlockCols) + c / kBlockCols;
    out[block * (kBlockBytes / 16) + row % 16 * 8 + ((c / 8 % 8) ^ (row % 8))] = v;
  }
}

// Activations as bf16 rows of k_padded columns (zeros behind column cols), for
// operands that are float32, unaligned or of an odd width. out_stride = k_padded.
KERNEL(stage_rows, RowsParams, 256, 1) {
  overlap_next();
  wait_previous();
  const int64_t chunks = p.out_stride / 8, total = p.rows * chunks;
  for (int64_t i = int64_t(block_x) * block_threads + thread_x; i < total; i += int64_t(grid_x) * block_threads) {
    const int64_t r = i / chunks, c = i % chunks * 8;
    float v[8];
    UNROLL for (int j = 0; j < 8; j++) v[j] = c + j < p.cols ? load(p.a, p.a_dt, r * p.a_stride + c + j) : 0.f;
    store8(p.out, DT_BF16, r * p.out_stride + c, v);
  }
}
