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

namespace {

// Two neighbouring elements.
DEVICE void load2(const bf16 *x, bool vec, float *v) {
  const uint32_t pair = vec ? *reinterpret_cast<const uint32_t *>(x) : x[0] | uint32_t(x[1]) << 16;
  v[0] = low_bf16(pair);
  v[1] = high_bf16(pair);
}
DEVICE void store2(void *x, int dt, int64_t at, bool vec, const float *v) {
  if (vec && dt == DT_BF16) {
    *reinterpret_cast<uint32_t *>(static_cast<bf16 *>(x) + at) = pack_bf16(v[0], v[1]);
    return;
  }
  store(x, dt, at, v[0]);
  store(x, dt, at + 1, v[1]);
}

}  // namespace

// RMSNorm of q and k heads, rotation, q in place, k and v to the cache. bf16 rows; intermediate results
// are rounded as the separate operations round them. p.warps warps share the heads of a token; a lane
// holds the pairs (i, i + D/2) with i = 2 lane, 2 lane + 1, and their angles, 64 on and so on. D is a
// multiple of 4.
KERNEL(qk_rope_store, QKRopeStoreParams, 128, 7) {
  constexpr int kRuns = 2;  // of 64 pairs, of a head of 256
  overlap_next();
  const int lane = thread_x & 31, heads = p.q_heads + 2 * p.kv_heads, d = p.head_dim, half = d / 2;
  const int64_t warp = int64_t(block_x) * 4 + (thread_x >> 5);
  if (warp >= int64_t(p.tokens) * p.warps) return;
  const int t = int(warp / p.warps);
  const bool vec = p.vec;
  const float *freq = static_cast<const float *>(p.inv_freq);
  // Constants are read before the kernel in front has ended. Weights: [q, k][low, high half].
  const bool norm[2] = {p.q_weight != nullptr, p.k_weight != nullptr};
  float f[kRuns][2], w[2][2][kRuns][2] = {};
  UNROLL for (int n = 0; n < kRuns; n++)
    UNROLL for (int j = 0; j < 2; j++) {
      const int i = lane * 2 + n * 64 + j;
      if (i >= half) continue;
      f[n][j] = freq[i];
      UNROLL for (int k = 0; k < 2; k++) {
        const float *weight = static_cast<const float *>(k ? p.k_weight : p.q_weight);
        if (!norm[k]) continue;
        w[k][0][n][j] = weight[i];
        w[k][1][n][j] = weight[i + half];
      }
    }
  wait_previous();
  const int slot = static_cast<const int32_t *>(p.slots)[t];
  Angle turn[kRuns][2];
  UNROLL for (int n = 0; n < kRuns; n++)
    UNROLL for (int j = 0; j < 2; j++) {
      const int i = lane * 2 + n * 64 + j;
      if (i < half) turn[n][j] = angle(position(static_cast<const int32_t *>(p.positions), p.pos_stride, t, i, p.section1, p.section2), f[n][j], p.factor);
    }
  for (int h = int(warp % p.warps); h < heads; h += p.warps) {
    if (h >= p.q_heads + p.kv_heads) {
      const int head = h - p.q_heads - p.kv_heads;
      if (slot < 0) continue;
      const bf16 *v = static_cast<const bf16 *>(p.v) + t * p.v_stride + int64_t(head) * d;
      const int64_t to = cache_index(slot, 1, head, p.kv_heads, d, p.block_elements);
      if (vec) {
        float e[8];
        if (lane * 8 >= d) continue;
        load8(v, DT_BF16, lane * 8, e);
        store8(p.cache, p.cache_dt, to + lane * 8, e);
      } else {
        for (int i = lane; i < d; i += 32) store(p.cache, p.cache_dt, to + i, from_bf16(v[i]));
      }
      continue;
    }
    const bool is_q = h < p.q_heads;
    const int head = is_q ? h : h - p.q_heads;
    const bool weighted = is_q ? norm[0] : norm[1];
    bf16 *x = is_q ? static_cast<bf16 *>(p.q) + t * p.q_stride + int64_t(head) * d : static_cast<bf16 *>(p.k) + t * p.k_stride + int64_t(head) * d;
    float lo[kRuns][2], hi[kRuns][2];
    UNROLL for (int n = 0; n < kRuns; n++) {
      const int i = lane * 2 + n * 64;
      if (i >= half) continue;
      load2(x + i, vec, lo[n]);
      load2(x + half + i, vec, hi[n]);
    }
    float inv = 1.f;
    if (weighted) {
      // The order of rmsnorm_warp: lane l adds columns 8l..8l+7, then the lanes' tree.
      float s = 0.f;
      if (lane * 8 < d) {
        float e[8];
        if (vec) load8(x, DT_BF16, lane * 8, e);
        else
          for (int j = 0; j < 8; j++) e[j] = lane * 8 + j < d ? from_bf16(x[lane * 8 + j]) : 0.f;
        UNROLL for (int j = 0; j < 8; j++) s = fmaf(e[j], e[j], s);
      }
      s = warp_sum(s, lane);
      inv = 1.f / sqrtf(s / d + p.eps);
    }
    auto normed = [&](float y, float weight) {
      if (!weighted) return y;
      y = mul_rn(y, inv);
      if (p.round_first) y = round_bf16(y);
      return round_bf16(mul_rn(y, weight));
    };
    sync_warp();  // all lanes have read the head
    UNROLL for (int n = 0; n < kRuns; n++) {
      const int i = lane * 2 + n * 64;
      if (i >= half) continue;
      UNROLL for (int j = 0; j < 2; j++) {
        const float u = normed(lo[n][j], is_q ? w[0][0][n][j] : w[1][0][n][j]), v = normed(hi[n][j], is_q ? w[0][1][n][j] : w[1][1][n][j]);
        lo[n][j] = round_bf16(fmaf(u, turn[n][j].c, -mul_rn(v, turn[n][j].s)));
        hi[n][j] = round_bf16(fmaf(v, turn[n][j].c, mul_rn(u, turn[n][j].s)));
      }
      store2(x, DT_BF16, i, vec, lo[n]);
      store2(x, DT_BF16, i + half, vec, hi[n]);
      if (is_q || slot < 0) continue;
      const int64_t to = cache_index(slot, 0, head, p.kv_heads, d, p.block_elements);
      store2(p.cache, p.cache_dt, to + i, vec, lo[n]);
      store2(p.cache, p.cache_dt, to + i + half, vec, hi[n]);
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
