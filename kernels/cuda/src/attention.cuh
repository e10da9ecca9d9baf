// What the attention kernels share.
//
// The keys of a sequence (or segment) are cut into partitions of 128. Within a
// partition the scores of a row, their maximum, the exponentials and the weighted
// sum of values start from nothing; partitions are then merged in ascending order:
//
//   m' = max(m, mp);  a = 2^(m-m');  b = 2^(mp-m');  l = l*a + lp*b;  o = o*a + op*b
//
// Every kernel does exactly this, with the same float32 operations, whether it
// walks the partitions itself or gives each to a cta of its own. So the bits of a
// row depend on its own context only, not on batch, chunk or kernel.
//
// A row without keys (padding) is zero.
#pragma once
#include "params.cuh"

#ifndef INFINITY
#define INFINITY as_float(0x7f800000u)
#endif

constexpr int kPartition = 128;  // keys
constexpr int kBlock = 32;       // keys in a block of the cache

// Running maximum (of scores times scale*log2 e) and sum of a row.
struct Running {
  float m = -INFINITY, l = 0.f;
};

struct Merge { float old_scale, new_scale; };

// Updates a row's maximum for a partition and returns the factors for its sums.
DEVICE Merge merge_factors(float &running, float m) {
  const float before = running;
  if (m != -INFINITY) running = fmaxf(before, m);
  const Merge f = {before == -INFINITY ? 0.f : exp2_fast(add_rn(before, -running)), exp2_fast(add_rn(m, -running))};
  return m == -INFINITY ? Merge{1.f, 0.f} : f;
}

DEVICE float merged(float o, float part, Merge f) { return fmaf(part, f.new_scale, mul_rn(o, f.old_scale)); }

// Updates a row's state for a partition and returns the factors for its sums.
DEVICE Merge merge(Running &r, float m, float l) {
  if (m == -INFINITY) return {1.f, 0.f};
  const Merge f = merge_factors(r.m, m);
  r.l = merged(r.l, l, f);
  return f;
}

// Addresses keys and values of one head: of a sequence in the paged cache, or of
// consecutive rows.
struct Keys {
  const unsigned char *base;  // cache of the layer, or key row 0
  const unsigned char *values;
  const int32_t *table;  // null: rows
  int64_t block_bytes, key_stride, value_stride;
  int head_bytes;  // 32 keys of the head (paged)
  int row_bytes;

  METHOD const unsigned char *key(int s) const {
    if (!table) return base + s * key_stride;
    return base + table[s / kBlock] * block_bytes + s % kBlock * row_bytes;
  }
  METHOD const unsigned char *value(int s) const {
    if (!table) return values + s * value_stride;
    return values + table[s / kBlock] * block_bytes + s % kBlock * row_bytes;
  }
};

// A sequence's rows and keys. Paged: row j of n sees the first len-n+1+j keys.
// Segments: every row sees all keys.
struct Span {
  int first, rows, keys;
  bool causal;
  METHOD int visible(int j) const { return causal ? keys - rows + 1 + j : keys; }
};

DEVICE Span paged_span(const AttentionParams &p, int b) {
  const int32_t *starts = static_cast<const int32_t *>(p.starts), *lens = static_cast<const int32_t *>(p.lens);
  return {starts[b], starts[b + 1] - starts[b], lens[b], true};
}

DEVICE Span segment_span(const AttentionParams &p, int b) {
  const int32_t *starts = static_cast<const int32_t *>(p.starts);
  return {starts[b], starts[b + 1] - starts[b], starts[b + 1] - starts[b], false};
}

DEVICE Keys paged_keys(const AttentionParams &p, int b, int kv_head) {
  const int bytes = dtype_bytes(p.kv_dt), row = p.head_dim * bytes, head = kBlock * row;
  const unsigned char *cache = static_cast<const unsigned char *>(p.cache) + int64_t(kv_head) * head;
  return {cache, cache + int64_t(p.kv_heads) * head, static_cast<const int32_t *>(p.tables) + b * p.table_stride, p.block_elements * bytes, 0, 0, head, row};
}

DEVICE Keys segment_keys(const AttentionParams &p, const Span &s, int head) {
  const int bytes = dtype_bytes(p.kv_dt), row = p.head_dim * bytes;
  const unsigned char *k = static_cast<const unsigned char *>(p.k) + (s.first * p.k_stride + int64_t(head) * p.head_dim) * bytes;
  const unsigned char *v = static_cast<const unsigned char *>(p.v) + (s.first * p.v_stride + int64_t(head) * p.head_dim) * bytes;
  return {k, v, nullptr, 0, p.k_stride * bytes, p.v_stride * bytes, 0, row};
}
