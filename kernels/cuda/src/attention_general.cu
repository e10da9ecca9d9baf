// Attention for any even head size and float32 or bf16 operands: the plain path
// for float32 checkpoints and small heads. A cta of 128 threads computes one row
// of one head; in a partition thread s computes the score of key s, then thread d
// the weighted sum of dimension d. grid (row, head, sequence).
#include "attention.cuh"

namespace {

constexpr int kMaxD = 256;
constexpr float kLog2E = 1.4426950408889634f;

DEVICE void attend(const AttentionParams &p, const Span &span, const Keys &keys) {
  SHARED float q[kMaxD], scores[kPartition];
  const int j = block_x, head = block_y, d = p.head_dim;
  if (j >= span.rows) return;
  const int64_t row = span.first + j;
  const int visible = span.visible(j);
  for (int i = thread_x; i < d; i += 128) q[i] = load(p.q, p.q_dt, row * p.q_stride + int64_t(head) * d + i);
  Running run;
  float out[kMaxD / 128] = {};
  for (int s0 = 0; s0 < visible; s0 += kPartition) {
    sync_block();
    const int s = s0 + thread_x;
    float score = -INFINITY;
    if (s < visible) {
      const unsigned char *k = keys.key(s);
      float dot = 0.f;
      for (int i = 0; i < d; i++) dot = fmaf(q[i], load(k, p.kv_dt, i), dot);
      score = mul_rn(dot, mul_rn(p.scale, kLog2E));
    }
    scores[thread_x] = score;
    sync_block();
    const int n = min(kPartition, visible - s0);
    float m = -INFINITY, l = 0.f;
    for (int i = 0; i < n; i++) m = fmaxf(m, scores[i]);
    sync_block();
    scores[thread_x] = exp2f(add_rn(score, -m));
    sync_block();
    for (int i = 0; i < n; i++) l = add_rn(l, scores[i]);
    const Merge f = merge(run, m, l);
    UNROLL for (int c = 0; c < kMaxD / 128; c++) {
      const int i = c * 128 + thread_x;
      if (i >= d) continue;
      float part = 0.f;
      for (int t = 0; t < n; t++) part = fmaf(scores[t], load(keys.value(s0 + t), p.kv_dt, i), part);
      out[c] = merged(out[c], part, f);
    }
  }
  UNROLL for (int c = 0; c < kMaxD / 128; c++) {
    const int i = c * 128 + thread_x;
    if (i < d) store(p.out, p.out_dt, row * p.out_stride + int64_t(head) * d + i, visible > 0 ? out[c] / run.l : 0.f);
  }
}

}  // namespace

KERNEL(attention_paged, AttentionParams, 128, 1) {
  overlap_next();
  wait_previous();
  attend(p, paged_span(p, block_z), paged_keys(p, block_z, block_y / (p.q_heads / p.kv_heads)));
}

KERNEL(attention_segment, AttentionParams, 128, 1) {
  overlap_next();
  wait_previous();
  const Span s = segment_span(p, block_z);
  attend(p, s, segment_keys(p, s, block_y));
}
