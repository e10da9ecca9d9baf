// Greedy choice: the lowest index of the largest logit, and its log-probability.
//
// argmax_part: grid (parts, rows); a cta scans vocab/parts logits and writes
// {max, rest, index}, rest being the sum of exp(x-max) without the largest itself, so
// that a log-probability near 0 keeps its digits. argmax_join: one warp a row joins the parts.
// The cut into parts depends on the vocabulary alone.
#include "params.cuh"

#ifndef INFINITY
#define INFINITY as_float(0x7f800000u)
#endif

namespace {

struct Best { float max, rest; int index; };

// NaN never wins. Equal values: the lower index.
DEVICE Best join(Best a, Best b) {
  const bool second = b.max > a.max || (b.max == a.max && b.index < a.index);
  Best r = second ? b : a;
  const float other = second ? a.max : b.max;
  if (other == -INFINITY) return r;
  r.rest = fmaf(1.f + (second ? a.rest : b.rest), expf(other - r.max), r.rest);
  return r;
}

DEVICE Best join_lanes(Best v, int lane) {
  UNROLL for (int m = 16; m > 0; m >>= 1) {
    const Best o = {shuffle_xor(v.max, m, lane), shuffle_xor(v.rest, m, lane), int(shuffle(uint32_t(v.index), lane ^ m))};
    v = lane & m ? join(o, v) : join(v, o);  // the same order in both lanes
  }
  return v;
}

}  // namespace


KERNEL(argmax_part, ArgMaxParams, 256, 1) {
  SHARED Best scratch[8];
  overlap_next();
  wait_previous();
  const int lane = thread_x & 31, warp = thread_x >> 5, row = block_y;
  const int size = (p.vocab + p.parts - 1) / p.parts, lo = block_x * size, hi = min(p.vocab, lo + size);
  const float *x = static_cast<const float *>(p.logits) + row * p.stride;
  Best best = {-INFINITY, 0.f, 0x7fffffff};
  for (int i = lo + thread_x; i < hi; i += 256)
    if (x[i] > best.max) best = {x[i], 0.f, i};
  for (int i = lo + thread_x; i < hi; i += 256)
    if (i != best.index && best.max > -INFINITY) best.rest += expf(x[i] - best.max);
  best = join_lanes(best, lane);
  if (lane == 0) scratch[warp] = best;
  sync_block();
  if (thread_x != 0) return;
  for (int w = 1; w < 8; w++) best = join(best, scratch[w]);
  float *out = static_cast<float *>(p.partial) + (int64_t(row) * p.parts + block_x) * 4;
  out[0] = best.max;
  out[1] = best.rest;
  out[2] = as_float(uint32_t(best.index));
}

KERNEL(argmax_join, ArgMaxParams, 32, 1) {
  overlap_next();
  wait_previous();
  const int lane = thread_x, row = block_x;
  const float *in = static_cast<const float *>(p.partial) + int64_t(row) * p.parts * 4;
  Best best = {-INFINITY, 0.f, 0x7fffffff};
  for (int i = lane; i < p.parts; i += 32) best = join(best, {in[i * 4], in[i * 4 + 1], int(as_bits(in[i * 4 + 2]))});
  best = join_lanes(best, lane);
  if (lane != 0) return;
  // A row without any number (all NaN or -inf) yields index 0, log-probability NaN.
  static_cast<int32_t *>(p.ids)[row] = best.index == 0x7fffffff ? 0 : best.index;
  if (p.log_probs) static_cast<float *>(p.log_probs)[row] = best.index == 0x7fffffff ? as_float(0x7fc00000u) : -log1pf(best.rest);
}
