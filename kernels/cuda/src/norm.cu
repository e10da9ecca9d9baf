// Normalisation. Statistics are float32; a vector's sum has the same order
// whatever the number of rows: a thread adds its columns in steps of 8 lanes*8,
// then lanes, then warps, in a fixed tree.
#include "params.cuh"

namespace {

constexpr int kWarps = 8;

// Sum over the cta's threads of one vector; scratch is of this sum only. warps = 1: one warp a vector.
template <int WARPS> DEVICE float group_sum(float v, float *scratch) {
  const int lane = thread_x & 31, warp = thread_x >> 5;
  v = warp_sum(v, lane);
  if (WARPS == 1) return v;
  if (lane == 0) scratch[warp] = v;
  sync_block();
  float s = scratch[0];
  UNROLL for (int w = 1; w < WARPS; w++) s = add_rn(s, scratch[w]);
  return s;
}

// Vector of this warp or cta: row and head, and the address of its first element.
template <int WARPS> DEVICE int vector_index() { return WARPS == 1 ? block_x * kWarps + (thread_x >> 5) : block_x; }

// Registers hold the first columns of a vector, HELD steps of the warp or cta. AHEAD: their
// weights too, which are read before the kernel in front has ended.
template <int WARPS, bool CENTER, int HELD, bool AHEAD> DEVICE void normalise(const NormParams &p) {
  SHARED float scratch[2][kWarps];
  overlap_next();
  const int v = vector_index<WARPS>();
  const bool there = v < p.rows * p.heads;  // uniform in a warp
  const int row = there ? v / p.heads : 0, head = there ? v % p.heads : 0;
  const int64_t x0 = row * p.x_stride + int64_t(head) * p.cols, out0 = row * p.out_stride + int64_t(head) * p.cols;
  const int first = (WARPS == 1 ? thread_x & 31 : thread_x) * 8, step = (WARPS == 1 ? 32 : 32 * WARPS) * 8;
  const float *weight = static_cast<const float *>(p.weight), *bias = static_cast<const float *>(p.bias);
  const int cols = there ? p.cols : 0;
  float held[HELD][8], scale[HELD][8];
  if (AHEAD && p.vec)
    UNROLL for (int h = 0; h < HELD; h++)
      if (first + h * step < cols) load8(weight, DT_F32, first + h * step, scale[h]);
  wait_previous();
  if (p.vec)
    UNROLL for (int h = 0; h < HELD; h++)
      if (first + h * step < cols) load8(p.x, p.x_dt, x0 + first + h * step, held[h]);

  // Calls f(column, its 8 values, their weights or null) for the columns of this thread.
  auto each = [&](auto f) {
    if (p.vec)
      UNROLL for (int h = 0; h < HELD; h++)
        if (first + h * step < cols) f(first + h * step, held[h], AHEAD ? scale[h] : nullptr);
    for (int c = first + (p.vec ? HELD * step : 0); c < cols; c += step) {
      float x[8];
      if (p.vec) load8(p.x, p.x_dt, x0 + c, x);
      else
        for (int j = 0; j < 8; j++) x[j] = c + j < cols ? load(p.x, p.x_dt, x0 + c + j) : 0.f;
      f(c, x, nullptr);
    }
  };
  // Eight elements of a constant vector.
  auto constants = [&](const float *from, int c, float *to) {
    if (p.vec) load8(from, DT_F32, c, to);
    else
      for (int j = 0; j < 8; j++) to[j] = c + j < cols ? from[c + j] : 0.f;
  };
  float mean = 0.f;
  if (CENTER) {
    float s = 0.f;
    each([&](int, const float *x, const float *) {
      UNROLL for (int j = 0; j < 8; j++) s += x[j];
    });
    mean = group_sum<WARPS>(s, scratch[0]) / p.cols;
  }
  float s = 0.f;
  each([&](int c, const float *x, const float *) {
    UNROLL for (int j = 0; j < 8; j++) {
      const float d = p.vec || c + j < cols ? x[j] - mean : 0.f;
      s = fmaf(d, d, s);
    }
  });
  s = group_sum<WARPS>(s, scratch[1]);
  const float inv = 1.f / sqrtf(s / p.cols + p.eps);
  each([&](int c, const float *x, const float *ready) {
    float w[8], b[8], f[8];
    if (ready)
      UNROLL for (int j = 0; j < 8; j++) w[j] = ready[j];
    else constants(weight, c, w);
    if (CENTER) constants(bias, c, b);
    UNROLL for (int j = 0; j < 8; j++) {
      float y = mul_rn(x[j] - mean, inv);
      if (!CENTER && p.round_first) y = round_bf16(y);
      y = mul_rn(y, w[j]);
      f[j] = CENTER ? add_rn(y, b[j]) : y;
    }
    if (p.vec) store8(p.out, p.out_dt, out0 + c, f);
    else
      for (int j = 0; j < 8; j++)
        if (c + j < cols) store(p.out, p.out_dt, out0 + c + j, f[j]);
  });
}

}  // namespace

// A warp a vector (short vectors: heads, small models).
KERNEL(rmsnorm_warp, NormParams, 256, 1) { normalise<1, false, 4, false>(p); }
KERNEL(layernorm_warp, NormParams, 256, 3) { normalise<1, true, 4, false>(p); }
// A cta a vector.
KERNEL(rmsnorm_cta, NormParams, 256, 3) { normalise<kWarps, false, 2, true>(p); }
KERNEL(layernorm_cta, NormParams, 256, 1) { normalise<kWarps, true, 2, true>(p); }
