// Normalisation. Statistics are float32; a vector's sum has the same order
// whatever the number of rows: a thread adds its columns in steps of 8 lanes*8,
// then lanes, then warps, in a fixed tree.
#include "params.cuh"

namespace {

constexpr int kWarps = 8;

// Sum over the cta's threads of one vector. warps = 1: one warp a vector.
template <int WARPS> DEVICE float group_sum(float v, float *scratch) {
  const int lane = thread_x & 31, warp = thread_x >> 5;
  v = warp_sum(v, lane);
  if (WARPS == 1) return v;
  sync_block();
  if (lane == 0) scratch[warp] = v;
  sync_block();
  float s = scratch[0];
  UNROLL for (int w = 1; w < WARPS; w++) s = add_rn(s, scratch[w]);
  return s;
}

// Vector of this warp or cta: row and head, and the address of its first element.
template <int WARPS> DEVICE int64_t vector_index() { return WARPS == 1 ? int64_t(block_x) * kWarps + (thread_x >> 5) : block_x; }

template <int WARPS, bool CENTER> DEVICE void normalise(const NormParams &p) {
  SHARED float scratch[kWarps];
  overlap_next();
  wait_previous();
  const int64_t v = vector_index<WARPS>();
  const bool there = v < int64_t(p.rows) * p.heads;  // uniform in a warp
  const int64_t row = there ? v / p.heads : 0, head = there ? v % p.heads : 0;
  const int64_t x0 = row * p.x_stride + head * p.cols, out0 = row * p.out_stride + head * p.cols;
  const int first = (WARPS == 1 ? thread_x & 31 : thread_x) * 8, step = (WARPS == 1 ? 32 : 32 * WARPS) * 8;
  const float *weight = static_cast<const float *>(p.weight), *bias = static_cast<const float *>(p.bias);
  const int cols = there ? p.cols : 0;

  auto load_cols = [&](int c, float *f) {
    if (p.vec) load8(p.x, p.x_dt, x0 + c, f);
    else
      for (int j = 0; j < 8; j++) f[j] = c + j < cols ? load(p.x, p.x_dt, x0 + c + j) : 0.f;
  };
  float mean = 0.f;
  if (CENTER) {
    float s = 0.f;
    for (int c = first; c < cols; c += step) {
      float f[8];
      load_cols(c, f);
      UNROLL for (int j = 0; j < 8; j++) s += f[j];
    }
    mean = group_sum<WARPS>(s, scratch) / p.cols;
  }
  float s = 0.f;
  for (int c = first; c < cols; c += step) {
    float f[8];
    load_cols(c, f);
    UNROLL for (int j = 0; j < 8; j++) {
      const float d = p.vec || c + j < cols ? f[j] - mean : 0.f;
      s = fmaf(d, d, s);
    }
  }
  s = group_sum<WARPS>(s, scratch);
  const float inv = 1.f / sqrtf(s / p.cols + p.eps);
  for (int c = first; c < cols; c += step) {
    float f[8];
    load_cols(c, f);
    UNROLL for (int j = 0; j < 8; j++) {
      if (!p.vec && c + j >= cols) continue;
      float y = mul_rn(f[j] - mean, inv);
      if (!CENTER && p.round_first) y = round_bf16(y);
      y = mul_rn(y, weight[c + j]);
      f[j] = CENTER ? add_rn(y, bias[c + j]) : y;
    }
    if (p.vec) store8(p.out, p.out_dt, out0 + c, f);
    else
      for (int j = 0; j < 8; j++)
        if (c + j < cols) store(p.out, p.out_dt, out0 + c + j, f[j]);
  }
}

}  // namespace

// A warp a vector (short vectors: heads, small models).
KERNEL(rmsnorm_warp, NormParams, 256, 1) { normalise<1, false>(p); }
KERNEL(layernorm_warp, NormParams, 256, 1) { normalise<1, true>(p); }
// A cta a vector.
KERNEL(rmsnorm_cta, NormParams, 256, 1) { normalise<kWarps, false>(p); }
KERNEL(layernorm_cta, NormParams, 256, 1) { normalise<kWarps, true>(p); }
