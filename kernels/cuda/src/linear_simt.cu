// Linear in float32 arithmetic, for float32 and quantised weights and for layers
// that ask for exact products. 64 rows x 64 outputs a cta, 16 columns of k a
// stage; a thread holds 4x4 outputs and adds k in ascending order.
//
// Weights are row-major [n,k]: float32, bf16, float16, or integers with a float32
// scale (and an 8-bit zero) a group of columns.
#include "linear.cuh"

namespace {

constexpr int kB = 64, kK = 16;

DEVICE float weight(const LinearParams &p, int64_t n, int k) {
  const int64_t i = n * p.k + k;
  if (p.w_dt < DT_Q8) return load(p.w, p.w_dt, i);
  const int64_t g = n * (p.k / p.group) + k / p.group;
  float q, zero = p.w_dt == DT_Q4 ? 8.f : 0.f;
  if (p.w_dt == DT_Q8) q = float(static_cast<const int8_t *>(p.w)[i]);
  else q = float(static_cast<const uint8_t *>(p.w)[i / 2] >> (i & 1) * 4 & 15);
  if (p.zeros) zero = float(static_cast<const uint8_t *>(p.zeros)[g]);
  return (q - zero) * static_cast<const float *>(p.scales)[g];
}

}  // namespace

KERNEL(linear_simt, LinearParams, 256, 1) {
  SHARED float xs[kK][kB + 4], ws[kK][kB + 4];
  overlap_next();
  wait_previous();
  const int row0 = block_y * kB, col0 = block_x * kB, tx = thread_x & 15, ty = thread_x >> 4;
  float acc[4][4] = {};
  for (int k0 = 0; k0 < p.k; k0 += kK) {
    sync_block();
    UNROLL for (int i = 0; i < kB * kK / 256; i++) {
      const int e = i * 256 + thread_x, k = e & 15, r = e >> 4, row = row0 + r, n = col0 + r;
      xs[k][r] = row < p.rows && k0 + k < p.k ? load(p.x, p.x_dt, row * p.x_stride + k0 + k) : 0.f;
      ws[k][r] = n < p.n && k0 + k < p.k ? weight(p, n, k0 + k) : 0.f;
    }
    sync_block();
    UNROLL for (int k = 0; k < kK; k++)
      UNROLL for (int i = 0; i < 4; i++)
        UNROLL for (int j = 0; j < 4; j++) acc[i][j] = fmaf(xs[k][ty * 4 + i], ws[k][tx * 4 + j], acc[i][j]);
  }
  UNROLL for (int i = 0; i < 4; i++)
    UNROLL for (int j = 0; j < 4; j++) write_one(p, row0 + ty * 4 + i, col0 + tx * 4 + j, acc[i][j]);
}
