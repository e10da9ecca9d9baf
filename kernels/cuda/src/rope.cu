// Rotary embedding and the key/value cache. Cache of a layer: [blocks][2][heads][32][head_dim],
// keys then values. A thread handles one pair (i, i+D/2) of a head, or one element.
#include "params.cuh"

namespace {

constexpr int kBlock = 32;  // tokens a block

// Position of token t for frequency i: M-RoPE selects an axis by section.
DEVICE int position(const int32_t *pos, int64_t stride, int t, int i, int section1, int section2) {
  const int axis = section1 < 0 ? 0 : i < section1 ? 0 : i < section1 + section2 ? 1 : 2;
  return pos[axis * stride + t];
}

// Element 0 of a token's head in the cache; kind 0 = keys, 1 = values.
DEVICE int64_t cache_index(int slot, int kind, int head, int heads, int d, int64_t block_elements) {
  return int64_t(slot / kBlock) * block_elements + ((int64_t(kind) * heads + head) * kBlock + slot % kBlock) * d;
}

struct Angle { float c, s; };
DEVICE Angle angle(int pos, float freq, float factor) {
  const float a = mul_rn(float(pos), freq);
  return {mul_rn(cosf(a), factor), mul_rn(sinf(a), factor)};
}

}  // namespace

// x'[i] = x[i] cos - x[i+D/2] sin; x'[i+D/2] = x[i+D/2] cos + x[i] sin, in place.
KERNEL(rope, RopeParams, 256, 1) {
  overlap_next();
  wait_previous();
  const int half = p.head_dim / 2;
  const int64_t total = int64_t(p.tokens) * p.heads * half;
  const float *freq = static_cast<const float *>(p.inv_freq);
  for (int64_t n = int64_t(block_x) * block_threads + thread_x; n < total; n += int64_t(grid_x) * block_threads) {
    const int i = int(n % half), head = int(n / half % p.heads), t = int(n / half / p.heads);
    const Angle a = angle(position(static_cast<const int32_t *>(p.positions), p.pos_stride, t, i, p.section1, p.section2), freq[i], p.factor);
    const int64_t at = t * p.x_stride + int64_t(head) * p.head_dim + i;
    const float x = load(p.x, p.x_dt, at), y = load(p.x, p.x_dt, at + half);
    store(p.x, p.x_dt, at, fmaf(x, a.c, -mul_rn(y, a.s)));
    store(p.x, p.x_dt, at + half, fmaf(y, a.c, mul_rn(x, a.s)));
  }
}

// Keys and values of new tokens into the cache; slot -1 = do not store.
KERNEL(kv_store, KVStoreParams, 256, 1) {
  overlap_next();
  wait_previous();
  const int64_t per = int64_t(p.heads) * p.head_dim, total = p.tokens * per;
  const int32_t *slots = static_cast<const int32_t *>(p.slots);
  for (int64_t n = int64_t(block_x) * block_threads + thread_x; n < total; n += int64_t(grid_x) * block_threads) {
    const int64_t t = n / per, c = n % per;
    const int slot = slots[t], head = int(c / p.head_dim), d = int(c % p.head_dim);
    if (slot < 0) continue;
    store(p.cache, p.cache_dt, cache_index(slot, 0, head, p.heads, p.head_dim, p.block_elements) + d, load(p.k, p.k_dt, t * p.k_stride + c));
    store(p.cache, p.cache_dt, cache_index(slot, 1, head, p.heads, p.head_dim, p.block_elements) + d, load(p.v, p.v_dt, t * p.v_stride + c));
  }
}

// One warp a head of a token: RMSNorm of q and k heads, rotation, q in place, k and v to the cache.
// bf16 rows; intermediate results are rounded as the separate operations round them.
KERNEL(qk_rope_store, QKRopeStoreParams, 128, 1) {
  overlap_next();
  wait_previous();
  const int lane = thread_x & 31, heads = p.q_heads + 2 * p.kv_heads;
  const int64_t w = int64_t(block_x) * 4 + (thread_x >> 5);
  if (w >= int64_t(p.tokens) * heads) return;
  const int t = int(w / heads), h = int(w % heads), d = p.head_dim, half = d / 2;
  const int slot = static_cast<const int32_t *>(p.slots)[t];
  if (h >= p.q_heads + p.kv_heads) {
    const int head = h - p.q_heads - p.kv_heads;
    if (slot < 0) return;
    const bf16 *v = static_cast<const bf16 *>(p.v) + t * p.v_stride + int64_t(head) * d;
    const int64_t to = cache_index(slot, 1, head, p.kv_heads, d, p.block_elements);
    for (int i = lane; i < d; i += 32) store(p.cache, p.cache_dt, to + i, from_bf16(v[i]));
    return;
  }
  const bool is_q = h < p.q_heads;
  const int head = is_q ? h : h - p.q_heads;
  bf16 *x = is_q ? static_cast<bf16 *>(p.q) + t * p.q_stride + int64_t(head) * d : static_cast<bf16 *>(p.k) + t * p.k_stride + int64_t(head) * d;
  const float *weight = static_cast<const float *>(is_q ? p.q_weight : p.k_weight), *freq = static_cast<const float *>(p.inv_freq);
  float inv = 1.f;
  if (weight) {
    // The order of rmsnorm_warp: lane l adds columns 8l..8l+7, then the lanes' tree.
    float s = 0.f;
    for (int c = lane * 8; c < d; c += 256)
      for (int j = 0; j < 8 && c + j < d; j++) {
        const float f = from_bf16(x[c + j]);
        s = fmaf(f, f, s);
      }
    s = warp_sum(s, lane);
    inv = 1.f / sqrtf(s / d + p.eps);
  }
  auto normed = [&](int c) {
    float y = from_bf16(x[c]);
    if (!weight) return y;
    y = mul_rn(y, inv);
    if (p.round_first) y = round_bf16(y);
    return round_bf16(mul_rn(y, weight[c]));
  };
  sync_warp();
  for (int i = lane; i < half; i += 32) {
    const Angle a = angle(position(static_cast<const int32_t *>(p.positions), p.pos_stride, t, i, p.section1, p.section2), freq[i], p.factor);
    const float u = normed(i), v = normed(i + half);
    const float lo = fmaf(u, a.c, -mul_rn(v, a.s)), hi = fmaf(v, a.c, mul_rn(u, a.s));
    x[i] = to_bf16(lo);
    x[i + half] = to_bf16(hi);
    if (!is_q && slot >= 0) {
      const int64_t to = cache_index(slot, 0, head, p.kv_heads, d, p.block_elements);
      store(p.cache, p.cache_dt, to + i, round_bf16(lo));
      store(p.cache, p.cache_dt, to + i + half, round_bf16(hi));
    }
  }
}

// Copies whole blocks, all layers. grid (parts, pairs, layers).
KERNEL(kv_copy, KVCopyParams, 256, 1) {
  const int32_t *pair = static_cast<const int32_t *>(p.pairs) + 2 * block_y;
  unsigned char *layer = static_cast<unsigned char *>(p.cache) + block_z * p.layer_bytes;
  const Vec4 *from = reinterpret_cast<const Vec4 *>(layer + pair[0] * p.block_bytes);
  Vec4 *to = reinterpret_cast<Vec4 *>(layer + pair[1] * p.block_bytes);
  for (int64_t i = int64_t(block_x) * block_threads + thread_x; i < p.block_bytes / 16; i += int64_t(grid_x) * block_threads) to[i] = from[i];
}
