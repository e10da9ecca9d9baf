// Attention on Hopper for many rows: prefill from the paged cache, and segments (the
// vision encoder). Keys and values move by the bulk copy engine, products are wgmma.
//
// archs: sm_90a
//
// Rows of a kv head are (token, q head of the group) pairs as in attention_mma.cu,
// whose bits these are: partitions of 128 keys, scores one chain over d, the sum of a
// row's exponentials ((b0+b1)+b2)+b3 over blocks of 32 keys, weighted sums one chain
// over the partition's keys in steps of 16, partitions merged as attention.cuh says.
//
// A cta has W consumer warpgroups of 64 rows each and a producer warpgroup: its warp 0
// copies keys and values, warp w the query rows of consumer w. The grid is persistent:
// an item is a tile of 64*W rows of one kv head of one sequence. Items of the most keys
// come first, and ctas take turns in alternating direction, so that their sums are close.
//
// Shared memory: query rows of each consumer, then a ring of tiles of 128 keys or
// values, which alternate. All are panels of 64 columns: rows of 128 bytes with the
// 128-byte swizzle. Scores: queries and keys K-major; weighted sums: exponentials from
// registers, values MN-major.
//
// Values past the sequence's end may be anything, and 0 * NaN is NaN: a consumer
// overwrites them with zeros before it multiplies.
#include "attention.cuh"
#include "hopper.cuh"

namespace {

constexpr float kLog2E = 1.4426950408889634f;
constexpr int kRows = 64;           // of a consumer
constexpr int kMaxSequences = 128;  // of a launch
constexpr int kPanelBytes = kPartition * 128, kQueryPanelBytes = kRows * 128;
constexpr int kBoxBytes = kBlock * 128;  // of a copy: 32 keys, 64 columns

// A sequence that has rows for this kernel.
struct Sequence { int first, rows, keys, index; };

// A tile of rows to compute.
struct Item {
  Span span;
  int index, head, group;  // sequence, kv head, its q heads
  int row0, rows;          // first row, rows of the sequence
};

// What a cta knows of the launch, in shared memory.
struct Plan {
  int count, tiles, heads, group;  // sequences, most tiles of one, kv heads, q heads of a kv head
  Sequence sequences[kMaxSequences];
};

// Tells the compiler that all lanes have the same value.
DEVICE int uniform(int x) { return int(shuffle(uint32_t(x), 0)); }

// Walks the items of a cta; every warp does so alike.
template <int TILE, bool PAGED> struct Items {
  const Plan &plan;
  int round = 0;

  METHOD bool next(Item &item) {
    const int heads = uniform(plan.heads), of_tile = uniform(plan.count) * heads, most = uniform(plan.tiles) * of_tile;
    item.group = PAGED ? uniform(plan.group) : 1;
    for (;;) {
      const int i = round * grid_x + (round & 1 ? grid_x - 1 - block_x : block_x);
      round++;
      if (i >= most) return false;
      const int t = i / of_tile, j = i - t * of_tile;
      const Sequence &s = plan.sequences[j / heads];
      item.span = {uniform(s.first), uniform(s.rows), uniform(s.keys), PAGED};
      item.rows = item.span.rows * item.group;
      const int own = (item.rows + TILE - 1) / TILE;
      if (t >= own) continue;
      item.index = s.index;
      item.head = j % heads;
      item.row0 = (PAGED ? own - 1 - t : t) * TILE;
      return true;
    }
  }
};

// Position in a ring: slot and the parity of its current use.
struct Turn {
  int slot = 0;
  uint32_t parity = 0;
  METHOD void next(int stages) {
    if (++slot == stages) {
      slot = 0;
      parity ^= 1;
    }
  }
};

// Keys that a row of the tile sees at most.
DEVICE int longest(const Item &item, int row0, int rows) {
  return row0 < item.rows ? item.span.visible((min(row0 + rows, item.rows) - 1) / item.group) : 0;
}

DEVICE float quad_max(float m, int lane) {
  m = fmaxf(m, shuffle_xor(m, 1, lane));
  return fmaxf(m, shuffle_xor(m, 2, lane));
}
DEVICE float quad_sum(float v, int lane) {
  v = add_rn(v, shuffle_xor(v, 1, lane));
  return add_rn(v, shuffle_xor(v, 2, lane));
}

// Ends the piece of code that the compiler schedules as one: it sees a way out, which
// no launch takes. Left to itself it has each exponential's sum wait for it at once,
// which takes twice as long as the exponentials.
DEVICE void part(const AttentionParams &p) {
#ifndef MC_SIM
  asm volatile("{\n.reg .pred p;\nsetp.lt.s32 p, %0, 0;\n@p exit;\n}" ::"r"(p.sequences));
#endif
}

// The softmax of a warp's 16 rows over B blocks of 32 keys: s[(b*4 + n)*4 + i] is a score of
// row lane/4 (i < 2) or lane/4 + 8, key b*32 + n*8 + lane%4*2 + i%2. Exponentials become
// A fragments of 16 keys each; m and l are the rows' maxima and sums.
template <int B, bool MASK> DEVICE void softmax(float (&s)[B * 16], uint32_t (&a)[B * 2][4], const AttentionParams &p, float scale, int limit_lo, int limit_hi, int lane, float &m_lo, float &m_hi, float (&sum_lo)[B], float (&sum_hi)[B]) {
  if (MASK) {
    UNROLL for (int j = 0; j < B * 4; j++)
      UNROLL for (int i = 0; i < 4; i++)
        if (j * 8 + (lane & 3) * 2 + (i & 1) >= (i < 2 ? limit_lo : limit_hi)) s[j * 4 + i] = -INFINITY;
  }
  m_lo = m_hi = -INFINITY;
  UNROLL for (int j = 0; j < B * 4; j++) {
    m_lo = fmaxf(m_lo, fmaxf(s[j * 4], s[j * 4 + 1]));
    m_hi = fmaxf(m_hi, fmaxf(s[j * 4 + 2], s[j * 4 + 3]));
  }
  m_lo = mul_rn(quad_max(m_lo, lane), scale);
  m_hi = mul_rn(quad_max(m_hi, lane), scale);
  const float off_lo = m_lo == -INFINITY ? 0.f : -m_lo, off_hi = m_hi == -INFINITY ? 0.f : -m_hi;
  auto exponentials = [&](int b) {
    UNROLL for (int i = 0; i < 16; i++) s[b * 16 + i] = exp2_fast(fmaf(s[b * 16 + i], scale, i & 2 ? off_hi : off_lo));
    pin(s);
  };
  exponentials(0);
  UNROLL for (int b = 0; b < B; b++) {
    if (!MASK) part(p);
    if (b + 1 < B) exponentials(b + 1);
    UNROLL for (int n = 0; n < 4; n++) {
      const float *t = s + (b * 4 + n) * 4;
      const float lo = add_rn(t[0], t[1]), hi = add_rn(t[2], t[3]);
      sum_lo[b] = n == 0 ? lo : add_rn(sum_lo[b], lo);
      sum_hi[b] = n == 0 ? hi : add_rn(sum_hi[b], hi);
      a[b * 2 + (n >> 1)][(n & 1) * 2] = pack_bf16(t[0], t[1]);
      a[b * 2 + (n >> 1)][(n & 1) * 2 + 1] = pack_bf16(t[2], t[3]);
    }
  }
}

// merge of attention.cuh without branches, which would part the warps while products run.
DEVICE Merge merge_all(Running &r, float m, float l) {
  const float top = fmaxf(r.m, m), old_scale = exp2_fast(add_rn(r.m, -top)), new_scale = exp2_fast(add_rn(m, -top));
  const Merge f = {m == -INFINITY ? 1.f : r.m == -INFINITY ? 0.f : old_scale, m == -INFINITY ? 0.f : new_scale};
  r.l = fmaf(l, f.new_scale, mul_rn(r.l, f.old_scale));
  r.m = top;
  return f;
}

// The sum of a row's exponentials, of a lane's sums over each block of 32 keys.
template <int B> DEVICE float row_sum(const float (&sums)[B], int lane) {
  float l = quad_sum(sums[0], lane);
  UNROLL for (int b = 1; b < B; b++) l = add_rn(l, quad_sum(sums[b], lane));
  return l;
}

template <int N> struct Int { static constexpr int value = N; };

// D: head size, W: consumers, STAGES: of the ring. ORDER: consumers issue their products
// in turns, so that the softmax of one falls on the products of another.
template <int D, int W, int STAGES, bool PAGED, bool ORDER> DEVICE void attend(const AttentionMapParams &maps) {
  const AttentionParams &p = maps.attention;
  constexpr int kPanels = D / 64, kTileBytes = kPanels * kPanelBytes, kQueryBytes = kPanels * kQueryPanelBytes;
  DYNAMIC_SHARED(shared);
  SHARED uint64_t full[STAGES], empty[STAGES], q_full[W], q_empty[W];
  SHARED Plan plan;
  unsigned char *ring = shared + W * kQueryBytes;
  const int warpgroup = uniform(thread_x >> 7), warp = uniform(thread_x >> 5 & 3), lane = thread_x & 31;

  if (thread_x == 0) {
    for (int i = 0; i < STAGES; i++) {
      barrier_init(full + i, 1);
      barrier_init(empty + i, W * 4);
    }
    for (int i = 0; i < W; i++) {
      barrier_init(q_full + i, 32);
      barrier_init(q_empty + i, 4);
    }
    barrier_init_fence();
  }
  overlap_next();
  wait_previous();
  if (thread_x < 32) {
    const int group = p.q_heads / p.kv_heads;
    int count = 0, most = 0;
    for (int b0 = 0; b0 < p.sequences; b0 += 32) {
      const int b = b0 + lane;
      Span s = {0, 0, 0, PAGED};
      if (b < p.sequences) s = PAGED ? paged_span(p, b) : segment_span(p, b);
      const int rows = s.rows * group > p.split_rows ? s.rows * group : 0;
      int upto = rows > 0, tiles = (rows + W * kRows - 1) / (W * kRows);  // to become a sum over lanes, a maximum
      UNROLL for (int d = 1; d < 32; d <<= 1) {
        const int other = int(shuffle(uint32_t(upto), lane - d & 31));
        if (lane >= d) upto += other;
        tiles = max(tiles, int(shuffle(uint32_t(tiles), lane ^ d)));
      }
      if (rows > 0) plan.sequences[count + upto - 1] = {s.first, s.rows, s.keys, b};
      count += int(shuffle(uint32_t(upto), 31));
      most = max(most, tiles);
    }
    if (lane == 0) {
      plan.count = count;
      plan.tiles = most;
      plan.heads = p.kv_heads;
      plan.group = group;
    }
  }
  sync_block();
  Items<W * kRows, PAGED> items{plan};
  Item item;

  if (warpgroup == 0) {
    give_registers<(W == 2 ? 40 : 32)>();
    if (warp == 0) {
      Turn turn;
      while (items.next(item)) {
        const int keys = longest(item, item.row0, W * kRows);
        const int32_t *table = static_cast<const int32_t *>(p.tables) + item.index * p.table_stride;
        for (int s0 = 0; s0 < keys; s0 += kPartition) {
          const int blocks = (min(kPartition, keys - s0) + kBlock - 1) / kBlock;
          int row = item.span.first + s0 + lane * kBlock;
          if (PAGED && lane < blocks) row = maps.row0 + (table[s0 / kBlock + lane] * 2 * p.kv_heads + item.head) * kBlock;
          UNROLL for (int values = 0; values < 2; values++) {
            barrier_wait(empty + turn.slot, turn.parity ^ 1);
            if (lane == 0) barrier_expect(full + turn.slot, blocks * kPanels * kBoxBytes);
            sync_warp();
            UNROLL for (int i = 0; i < kPanels; i++)
              if (lane < blocks)
                copy_box(ring + turn.slot * kTileBytes + i * kPanelBytes + lane * kBoxBytes, values ? &maps.v_map : &maps.k_map, full + turn.slot,
                         (PAGED ? 0 : item.head * D) + i * 64, PAGED ? row + values * p.kv_heads * kBlock : row);
            turn.next(STAGES);
          }
        }
      }
    } else if (warp <= W) {
      constexpr int kChunks = D / 8;  // of a row; a lane copies one of every 32/kChunks rows
      const int c = lane % kChunks, swizzle = c & 7;
      unsigned char *to = shared + (warp - 1) * kQueryBytes + c / 8 * kQueryPanelBytes;
      uint32_t parity = 1;
      while (items.next(item)) {
        barrier_wait(q_empty + warp - 1, parity);
        parity ^= 1;
        const bf16 *from = static_cast<const bf16 *>(p.q) + item.span.first * p.q_stride + item.head * item.group * D + c * 8;
#pragma unroll 1
        for (int r = lane / kChunks; r < kRows; r += 32 / kChunks) {
          const int row = item.row0 + (warp - 1) * kRows + r, token = row / item.group;
          const bool there = row < item.rows;
          copy16(to + r * 128 + (swizzle ^ (r & 7)) * 16, there ? from + token * p.q_stride + (row - token * item.group) * D : from, there);
        }
        copy_commit();
        copy_wait<0>();
        fence_async();
        barrier_arrive(q_full + warp - 1);
      }
    }
    return;
  }

  take_registers<(W == 2 ? 232 : 160)>();
  const int consumer = warpgroup - 1;
  const uint64_t q_at = descriptor(shared_address(shared + consumer * kQueryBytes));
  const float scale = mul_rn(p.scale, kLog2E);
  Turn turn;  // bit 1 of its parity is of the query rows: registers are short
  auto release = [&] {
    if (lane == 0) barrier_arrive(empty + turn.slot);
    turn.next(STAGES);
  };
  auto begin_products = [&] {
    if (ORDER) sync_group(8 + consumer, 256);
  };
  auto pass_products = [&] {
    if (ORDER) arrive_group(consumer == W - 1 ? 8 : 9 + consumer, 256);
  };
  if (ORDER && consumer == W - 1) arrive_group(8, 256);
  while (items.next(item)) {
    const int first = item.row0 + consumer * kRows, keys = longest(item, item.row0, W * kRows);
    const int own = longest(item, first, kRows), shortest = own > 0 ? item.span.visible(first / item.group) : 0;
    const int r_lo = first + warp * 16 + (lane >> 2), r_hi = r_lo + 8;
    const int limit_lo = r_lo < item.rows ? item.span.visible(r_lo / item.group) : 0, limit_hi = r_hi < item.rows ? item.span.visible(r_hi / item.group) : 0;
    const bool busy = first + warp * 16 < item.rows;  // the warp has rows
    Running run_lo, run_hi;
    float out[D / 2];
    UNROLL for (int i = 0; i < D / 2; i++) out[i] = 0.f;
    barrier_wait(q_full + consumer, turn.parity >> 1);
    turn.parity ^= 2;
    auto partition = [&](int s0, auto blocks, auto mask) {
      constexpr int B = decltype(blocks)::value;
      constexpr bool MASK = decltype(mask)::value != 0;
      float s[B * 16];
      barrier_wait(full + turn.slot, turn.parity & 1);
      const uint64_t k_at = descriptor(shared_address(ring + turn.slot * kTileBytes));
      begin_products();
      wgmma_fence();
      UNROLL for (int k = 0; k < D / 16; k++)
        wgmma(s, q_at + (k / 4 * kQueryPanelBytes + k % 4 * 32) / 16, k_at + (k / 4 * kPanelBytes + k % 4 * 32) / 16, k > 0);
      wgmma_commit();
      pass_products();
      wgmma_wait<0>();
      pin(s);
      release();
      if (s0 + kPartition >= own && lane == 0) barrier_arrive(q_empty + consumer);

      uint32_t a[B * 2][4];
      float m_lo, m_hi, sum_lo[B], sum_hi[B];
      if (busy) {
        softmax<B, MASK>(s, a, p, scale, limit_lo - s0, limit_hi - s0, lane, m_lo, m_hi, sum_lo, sum_hi);
      } else {
        m_lo = m_hi = -INFINITY;
        UNROLL for (int b = 0; b < B; b++) sum_lo[b] = sum_hi[b] = 0.f;
        UNROLL for (int i = 0; i < B * 8; i++) a[i >> 2][i & 3] = 0;
      }

      barrier_wait(full + turn.slot, turn.parity & 1);
      unsigned char *v = ring + turn.slot * kTileBytes;
      if (MASK && s0 + B * kBlock > item.span.keys) {
        const int from = (item.span.keys - s0) * 8, n = B * kBlock * 8 - from;  // pieces of 16 bytes
        for (int i = thread_x & 127; i < n * kPanels; i += 128)
          *reinterpret_cast<Vec4 *>(v + i / n * kPanelBytes + (from + i % n) * 16) = Vec4{0, 0, 0, 0};
        fence_async();
        sync_group(1 + consumer, 128);
      }
      const uint64_t v_at = descriptor(shared_address(v), kPanelBytes, 1024, SWIZZLE_128);
      float acc[D / 2];
      begin_products();
      wgmma_fence();
      UNROLL for (int k = 0; k < B * 2; k++) wgmma<MN_MAJOR>(acc, a[k], v_at + k * (16 * 128 / 16), k > 0);
      wgmma_commit();
      pass_products();
      const Merge f_lo = merge_all(run_lo, m_lo, row_sum<B>(sum_lo, lane)), f_hi = merge_all(run_hi, m_hi, row_sum<B>(sum_hi, lane));
      wgmma_wait<0>();
      pin(acc);
      release();
      UNROLL for (int i = 0; i < D / 2; i++) out[i] = merged(out[i], acc[i], i & 2 ? f_hi : f_lo);
    };
    if (own == 0 && lane == 0) barrier_arrive(q_empty + consumer);
#pragma unroll 1
    for (int s0 = 0; s0 < keys; s0 += kPartition) {
      if (s0 + kPartition <= shortest) {
        partition(s0, Int<4>(), Int<0>());
      } else if (s0 >= own) {  // only other consumers see these keys
        UNROLL for (int i = 0; i < 2; i++) {
          barrier_wait(full + turn.slot, turn.parity & 1);
          begin_products();
          pass_products();
          release();
        }
      } else {
        switch ((min(kPartition, own - s0) + kBlock - 1) / kBlock) {
          case 1: partition(s0, Int<1>(), Int<1>()); break;
          case 2: partition(s0, Int<2>(), Int<1>()); break;
          case 3: partition(s0, Int<3>(), Int<1>()); break;
          default: partition(s0, Int<4>(), Int<1>());
        }
      }
    }
    UNROLL for (int h = 0; h < 2; h++) {
      const int r = h ? r_hi : r_lo;
      if (r >= item.rows) continue;
      const float l = h ? run_hi.l : run_lo.l, inv = l > 0.f ? 1.f / l : 0.f;
      const int64_t at = (item.span.first + r / item.group) * p.out_stride + int64_t(item.head * item.group + r % item.group) * D + (lane & 3) * 2;
      UNROLL for (int n = 0; n < D / 8; n++) {
        const float x = mul_rn(out[n * 4 + h * 2], inv), y = mul_rn(out[n * 4 + h * 2 + 1], inv);
        if (p.out_dt == DT_BF16) *reinterpret_cast<uint32_t *>(static_cast<bf16 *>(p.out) + at + n * 8) = pack_bf16(x, y);
        else {
          static_cast<float *>(p.out)[at + n * 8] = x;
          static_cast<float *>(p.out)[at + n * 8 + 1] = y;
        }
      }
    }
  }
}

}  // namespace

// Shared bytes: W * 64 * D * 2 + STAGES * 128 * D * 2.
KERNEL(attention_wgmma_walk_64, AttentionMapParams, 384, 1) { attend<64, 2, 8, true, false>(p); }
KERNEL(attention_wgmma_walk_128, AttentionMapParams, 384, 1) { attend<128, 2, 5, true, true>(p); }
KERNEL(attention_wgmma_tile_64, AttentionMapParams, 512, 1) { attend<64, 3, 8, false, false>(p); }
KERNEL(attention_wgmma_tile_128, AttentionMapParams, 384, 1) { attend<128, 2, 5, false, true>(p); }
