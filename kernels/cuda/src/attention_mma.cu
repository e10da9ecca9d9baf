// Attention on tensor cores: bf16 operands, head size 64 or 128.
//
// Rows of a kv head are (token, q head of the group) pairs, row = token*G + head,
// so that the G query heads that share keys share their loads.
//
//  - walk: a cta of 4 warps takes 64 rows and walks the partitions (prefill, ViT).
//    A warp holds 16 rows: scores, then outputs, of m16n8k16 fragments.
//  - split: a cta of 4 warps takes some partitions for at most 16 rows (decode).
//    Warp w computes the scores of keys 32w..32w+31 and, after an exchange through
//    shared memory, the dimensions w*D/4.. of the weighted sum. A cta that has all
//    partitions of its rows merges them; else attention_join does, in order.
//  - shared: split for sequences of one token (decode) of which some begin with the same
//    blocks: a cta takes a partition for all sequences that have it, so that its keys are
//    read once, 16 rows at a time.
//
// They agree bit for bit: scores are one chain over d, the sum of a row's
// exponentials is ((b0+b1)+b2)+b3 over blocks of 32 keys, weighted sums are one
// chain over the partition's keys in steps of 16, merged as attention.cuh says.
#include "attention.cuh"

namespace {

constexpr float kLog2E = 1.4426950408889634f;
constexpr int kThreads = 128;

// Rows of D bf16 in shared memory, 16-byte chunks permuted so that the eight rows
// of an 8x8 matrix lie in different banks.
template <int D> DEVICE int chunk_at(int row, int chunk) { return row * (D * 2) + ((chunk ^ (row & 7)) << 4); }

// Copies n keys (or values) from s0 on to shared memory; the rest up to `padded` becomes zero.
template <int D, bool VALUES> DEVICE void load_keys(unsigned char *to, const Keys &keys, int s0, int n, int padded) {
  constexpr int kChunks = D / 8;
  for (int i = thread_x; i < padded * kChunks; i += kThreads) {
    const int r = i / kChunks, c = i % kChunks, s = s0 + min(r, n - 1);
    copy16(to + chunk_at<D>(r, c), (VALUES ? keys.value(s) : keys.key(s)) + c * 16, r < n);
  }
}

// The A fragments of 16 query rows, straight from memory. address(r) is row r or null.
template <int D, class F> DEVICE void load_q(uint32_t (*q)[4], int lane, F address) {
  const uint32_t *lo = address(lane >> 2), *hi = address((lane >> 2) + 8);
  UNROLL for (int k = 0; k < D / 16; k++) {
    const int at = k * 8 + (lane & 3);
    q[k][0] = lo ? lo[at] : 0;
    q[k][1] = hi ? hi[at] : 0;
    q[k][2] = lo ? lo[at + 4] : 0;
    q[k][3] = hi ? hi[at + 4] : 0;
  }
}

// Scores of 16 rows and 32 keys that lie in shared memory from row `at` on.
template <int D> DEVICE void score_block(float (*s)[4], const uint32_t (*q)[4], const unsigned char *k_shared, int at, int lane) {
  UNROLL for (int n = 0; n < 4; n++)
    UNROLL for (int i = 0; i < 4; i++) s[n][i] = 0.f;
  UNROLL for (int k = 0; k < D / 16; k++)
    UNROLL for (int n = 0; n < 2; n++) {
      uint32_t b[4];
      ldmatrix(b, k_shared + chunk_at<D>(at + n * 16 + (lane & 7) + ((lane >> 4) << 3), k * 2 + (lane >> 3 & 1)));
      mma(s[n * 2], q[k], b[0], b[1]);
      mma(s[n * 2 + 1], q[k], b[2], b[3]);
    }
}

// Masks keys at or past a row's limit (key of element n,i: first + n*8 + 2*(lane%4) + i%2).
DEVICE void mask_block(float (*s)[4], int first, int limit_lo, int limit_hi, int lane) {
  UNROLL for (int n = 0; n < 4; n++)
    UNROLL for (int i = 0; i < 4; i++)
      if (first + n * 8 + (lane & 3) * 2 + (i & 1) >= (i < 2 ? limit_lo : limit_hi)) s[n][i] = -INFINITY;
}

// Largest score of rows lane/4 and lane/4+8 in a block.
DEVICE float block_max(const float (*s)[4], int half) {
  float m = fmaxf(s[0][half * 2], s[0][half * 2 + 1]);
  UNROLL for (int n = 1; n < 4; n++) m = fmaxf(m, fmaxf(s[n][half * 2], s[n][half * 2 + 1]));
  return m;
}
DEVICE float quad_max(float m, int lane) {
  m = fmaxf(m, shuffle_xor(m, 1, lane));
  return fmaxf(m, shuffle_xor(m, 2, lane));
}

// Turns a block's scores into exponentials relative to the row maxima, packs them
// as A fragments (two steps of 16 keys) and returns the row sums of the block.
struct Pair { float lo, hi; };
DEVICE Pair exponentials(const float (*s)[4], uint32_t (*a)[4], float scale, float m_lo, float m_hi, int lane) {
  Pair sum = {0.f, 0.f};
  const float off_lo = m_lo == -INFINITY ? 0.f : -m_lo, off_hi = m_hi == -INFINITY ? 0.f : -m_hi;
  UNROLL for (int n = 0; n < 4; n++) {
    const float e0 = exp2_fast(fmaf(s[n][0], scale, off_lo)), e1 = exp2_fast(fmaf(s[n][1], scale, off_lo));
    const float e2 = exp2_fast(fmaf(s[n][2], scale, off_hi)), e3 = exp2_fast(fmaf(s[n][3], scale, off_hi));
    sum.lo = add_rn(sum.lo, add_rn(e0, e1));
    sum.hi = add_rn(sum.hi, add_rn(e2, e3));
    a[n >> 1][(n & 1) * 2] = pack_bf16(e0, e1);
    a[n >> 1][(n & 1) * 2 + 1] = pack_bf16(e2, e3);
  }
  UNROLL for (int m = 1; m < 4; m <<= 1) {
    sum.lo = add_rn(sum.lo, shuffle_xor(sum.lo, m, lane));
    sum.hi = add_rn(sum.hi, shuffle_xor(sum.hi, m, lane));
  }
  return sum;
}

// acc[16 x 8*N] += p[16 x 16*steps] v: dims from d0 on, keys from the start of v_shared.
template <int D, int N> DEVICE void weigh(float (*acc)[4], const uint32_t (*a)[4], int steps, const unsigned char *v_shared, int d0, int lane) {
  UNROLL for (int k = 0; k < kPartition / 16; k++) {
    if (k >= steps) continue;
    UNROLL for (int n = 0; n < N / 2; n++) {
      uint32_t b[4];
      ldmatrix_t(b, v_shared + chunk_at<D>(k * 16 + (lane & 15), d0 / 8 + n * 2 + (lane >> 4)));
      mma(acc[n * 2], a[k], b[0], b[1]);
      mma(acc[n * 2 + 1], a[k], b[2], b[3]);
    }
  }
}

// One tile of 64 rows. rows_of: q head 0 of the group, G heads a token.
template <int D> DEVICE void walk(const AttentionParams &p, const Span &span, const Keys &keys, int head0, int group, int tile) {
  DYNAMIC_SHARED(shared);
  unsigned char *k_shared = shared, *v_shared = shared + kPartition * D * 2;
  const int lane = thread_x & 31, warp = thread_x >> 5, rows = span.rows * group;
  const int first = tile * 64, last = min(first + 64, rows) - 1, r0 = first + warp * 16;
  const int longest = span.visible(last / group);
  const float scale = mul_rn(p.scale, kLog2E);
  const int r_lo = r0 + (lane >> 2), r_hi = r_lo + 8;
  const int limit_lo = r_lo < rows ? span.visible(r_lo / group) : 0, limit_hi = r_hi < rows ? span.visible(r_hi / group) : 0;
  const int warp_limit = r0 < rows ? span.visible(min(r0 + 15, rows - 1) / group) : 0;

  load_keys<D, false>(k_shared, keys, 0, min(kPartition, longest), (min(kPartition, longest) + 31) & ~31);
  copy_commit();
  uint32_t q[D / 16][4];
  load_q<D>(q, lane, [&](int r) -> const uint32_t * {
    r += r0;
    if (r >= rows) return nullptr;
    return reinterpret_cast<const uint32_t *>(static_cast<const bf16 *>(p.q) + (span.first + r / group) * p.q_stride + int64_t(head0 + r % group) * D);
  });
  Running run_lo, run_hi;
  float out[D / 8][4] = {};
  for (int s0 = 0; s0 < longest; s0 += kPartition) {
    const int n = min(kPartition, longest - s0), padded = (n + 31) & ~31;
    load_keys<D, true>(v_shared, keys, s0, n, padded);
    copy_commit();
    copy_wait<1>();
    sync_block();
    const bool busy = s0 < warp_limit;
    const int blocks = busy ? (min(kPartition, warp_limit - s0) + 31) / 32 : 0;  // the warp's blocks of 32 keys
    float s[4][4][4];
    float m_lo = -INFINITY, m_hi = -INFINITY;
    UNROLL for (int b = 0; b < 4; b++) {
      if (b >= blocks) continue;
      score_block<D>(s[b], q, k_shared, b * 32, lane);
      mask_block(s[b], s0 + b * 32, limit_lo, limit_hi, lane);
      m_lo = fmaxf(m_lo, block_max(s[b], 0));
      m_hi = fmaxf(m_hi, block_max(s[b], 1));
    }
    sync_block();  // the keys have been read
    if (s0 + kPartition < longest) {
      const int next = min(kPartition, longest - s0 - kPartition);
      load_keys<D, false>(k_shared, keys, s0 + kPartition, next, (next + 31) & ~31);
    }
    copy_commit();
    copy_wait<1>();
    sync_block();
    if (busy) {
      m_lo = mul_rn(quad_max(m_lo, lane), scale);
      m_hi = mul_rn(quad_max(m_hi, lane), scale);
      uint32_t a[8][4];
      Pair l = {0.f, 0.f};
      UNROLL for (int b = 0; b < 4; b++) {
        if (b >= blocks) continue;
        const Pair e = exponentials(s[b], a + b * 2, scale, m_lo, m_hi, lane);
        l.lo = add_rn(l.lo, e.lo);
        l.hi = add_rn(l.hi, e.hi);
      }
      const Merge f_lo = merge(run_lo, m_lo, l.lo), f_hi = merge(run_hi, m_hi, l.hi);
      UNROLL for (int d0 = 0; d0 < D; d0 += 32) {
        float acc[4][4] = {};
        weigh<D, 4>(acc, a, blocks * 2, v_shared, d0, lane);
        UNROLL for (int i = 0; i < 4; i++) {
          float *o = out[d0 / 8 + i];
          o[0] = merged(o[0], acc[i][0], f_lo);
          o[1] = merged(o[1], acc[i][1], f_lo);
          o[2] = merged(o[2], acc[i][2], f_hi);
          o[3] = merged(o[3], acc[i][3], f_hi);
        }
      }
    }
    sync_block();  // the values have been read
  }
  copy_wait<0>();
  UNROLL for (int h = 0; h < 2; h++) {
    const int r = h ? r_hi : r_lo;
    if (r >= rows) continue;
    const float l = h ? run_hi.l : run_lo.l, inv = l > 0.f ? 1.f / l : 0.f;
    const int64_t at = (span.first + r / group) * p.out_stride + int64_t(head0 + r % group) * D + (lane & 3) * 2;
    UNROLL for (int n = 0; n < D / 8; n++) {
      const float a = mul_rn(out[n][h * 2], inv), b = mul_rn(out[n][h * 2 + 1], inv);
      if (p.out_dt == DT_BF16) *reinterpret_cast<uint32_t *>(static_cast<bf16 *>(p.out) + at + n * 8) = pack_bf16(a, b);
      else {
        static_cast<float *>(p.out)[at + n * 8] = a;
        static_cast<float *>(p.out)[at + n * 8 + 1] = b;
      }
    }
  }
}

// Address of a partial result: {m, l, o[D]} of a row of a kv head in a partition.
template <int D> DEVICE float *partial_at(const AttentionParams &p, int b, int kv_head, int part, int row) {
  return static_cast<float *>(p.partial) + (((int64_t(b) * p.kv_heads + kv_head) * p.partitions + part) * p.partial_rows + row) * (D + 2);
}

// What the four warps of a cta tell each other about 16 rows and a partition.
struct Exchange {
  float maxima[4][16], sums[4][16];
  uint32_t probs[4][32][8];  // A fragments by block of 32 keys, lane
};

// The warp's scores of 16 rows and its 32 keys of the partition at s0; their maxima go to the others.
template <int D> DEVICE void post_scores(Exchange &x, float (*s)[4], const uint32_t (*q)[4], const unsigned char *k_shared, bool busy, int s0, int limit_lo, int limit_hi, int warp, int lane) {
  float m_lo = -INFINITY, m_hi = -INFINITY;
  if (busy) {
    score_block<D>(s, q, k_shared, warp * 32, lane);
    mask_block(s, s0 + warp * 32, limit_lo, limit_hi, lane);
    m_lo = quad_max(block_max(s, 0), lane);
    m_hi = quad_max(block_max(s, 1), lane);
  }
  if ((lane & 3) == 0) {
    x.maxima[warp][lane >> 2] = m_lo;
    x.maxima[warp][(lane >> 2) + 8] = m_hi;
  }
}

// The rows' maxima, after a sync; the warp's exponentials go to the others.
DEVICE Pair post_exponentials(Exchange &x, const float (*s)[4], bool busy, float scale, int warp, int lane) {
  const int r_lo = lane >> 2, r_hi = r_lo + 8;
  const float m_lo = mul_rn(fmaxf(fmaxf(x.maxima[0][r_lo], x.maxima[1][r_lo]), fmaxf(x.maxima[2][r_lo], x.maxima[3][r_lo])), scale);
  const float m_hi = mul_rn(fmaxf(fmaxf(x.maxima[0][r_hi], x.maxima[1][r_hi]), fmaxf(x.maxima[2][r_hi], x.maxima[3][r_hi])), scale);
  if (busy) {
    uint32_t mine[2][4];
    const Pair e = exponentials(s, mine, scale, m_lo, m_hi, lane);
    UNROLL for (int i = 0; i < 8; i++) x.probs[warp][lane][i] = mine[i >> 2][i & 3];
    if ((lane & 3) == 0) {
      x.sums[warp][r_lo] = e.lo;
      x.sums[warp][r_hi] = e.hi;
    }
  }
  return {m_lo, m_hi};
}

// The warp's dimensions of the weighted sum, and the rows' sums of exponentials, after another sync.
template <int D> DEVICE Pair weigh_all(float (*acc)[4], const Exchange &x, int blocks, const unsigned char *v_shared, int warp, int lane) {
  uint32_t a[8][4];
  Pair l = {0.f, 0.f};
  UNROLL for (int w = 0; w < 4; w++) {
    if (w >= blocks) continue;
    UNROLL for (int i = 0; i < 8; i++) a[w * 2 + (i >> 2)][i & 3] = x.probs[w][lane][i];
    l.lo = add_rn(l.lo, x.sums[w][lane >> 2]);
    l.hi = add_rn(l.hi, x.sums[w][(lane >> 2) + 8]);
  }
  weigh<D, D / 32>(acc, a, blocks * 2, v_shared, warp * (D / 4), lane);
  return l;
}

// Writes the warp's part of a row's partial result.
template <int D> DEVICE void write_partial(float *to, const float (*acc)[4], int half, float m, float l, int warp, int lane) {
  if (warp == 0 && (lane & 3) == 0) {
    to[0] = m;
    to[1] = l;
  }
  UNROLL for (int i = 0; i < D / 32; i++) *reinterpret_cast<Vec2 *>(to + 2 + warp * (D / 4) + i * 8 + (lane & 3) * 2) = {as_bits(acc[i][half * 2]), as_bits(acc[i][half * 2 + 1])};
}

// Some partitions of at most 16 rows: p.walk of them, or all, whose result is then the cta's own.
//
// Tiles of 128 keys and 128 values alternate in a ring of three (two where shared memory
// is short): while one is worked on, the others are on their way.
template <int D> DEVICE void split(const AttentionParams &p) {
  DYNAMIC_SHARED(shared);
  SHARED Exchange x;
  constexpr int kTile = kPartition * D * 2;
  const int kv_head = block_y, b = block_z, group = p.q_heads / p.kv_heads;
  const int lane = thread_x & 31, warp = thread_x >> 5;
  overlap_next();
  const Span span = paged_span(p, b);
  const Keys keys = paged_keys(p, b, kv_head);
  const int rows = span.rows * group, first = block_x * p.walk * kPartition, last = min(span.keys, first + p.walk * kPartition);
  const bool none = rows < 1 || rows > p.split_rows || (first > 0 && first >= span.keys);
  wait_previous();  // by every cta: the kernel behind counts on what came before this one
  if (none) return;
  const int tiles = (last - first + kPartition - 1) / kPartition * 2;
  // Loads keys (even) or values (odd) of a partition; always ends a group of copies.
  auto load = [&](int tile, int slot) {
    if (tile < tiles) {
      const int s0 = first + tile / 2 * kPartition, n = min(kPartition, last - s0), padded = (n + 31) & ~31;
      if (tile & 1) load_keys<D, true>(shared + slot * kTile, keys, s0, n, padded);
      else load_keys<D, false>(shared + slot * kTile, keys, s0, n, padded);
    }
    copy_commit();
  };
  const bool deep = p.slots > 2;
  load(0, 0);
  if (deep) load(1, 1);
  uint32_t q[D / 16][4];
  load_q<D>(q, lane, [&](int r) -> const uint32_t * {
    if (r >= rows) return nullptr;
    return reinterpret_cast<const uint32_t *>(static_cast<const bf16 *>(p.q) + (span.first + r / group) * p.q_stride + int64_t(kv_head * group + r % group) * D);
  });
  const int r_lo = lane >> 2, r_hi = r_lo + 8;
  const int limit_lo = r_lo < rows ? span.visible(r_lo / group) : 0, limit_hi = r_hi < rows ? span.visible(r_hi / group) : 0;
  const float scale = mul_rn(p.scale, kLog2E);
  constexpr int N = D / 32;  // n8 tiles a warp
  Running run_lo, run_hi;
  float out[N][4] = {};
  int k_slot = 0;
  auto after = [&](int slot) { return slot + 1 == p.slots ? 0 : slot + 1; };
  for (int tile = 0; tile < tiles; tile += 2) {
    const int v_slot = after(k_slot), next_slot = after(v_slot);
    const int s0 = first + tile / 2 * kPartition, n = min(kPartition, last - s0), blocks = (n + 31) / 32;
    const bool busy = warp < blocks;
    if (deep) copy_wait<1>();
    else copy_wait<0>();
    sync_block();  // the keys are there; the values before them have been read
    if (deep) load(tile + 2, next_slot);
    else load(tile + 1, v_slot);
    float s[4][4];
    post_scores<D>(x, s, q, shared + k_slot * kTile, busy, s0, limit_lo, limit_hi, warp, lane);
    sync_block();  // the keys have been read
    load(deep ? tile + 3 : tile + 2, k_slot);
    const Pair m = post_exponentials(x, s, busy, scale, warp, lane);
    if (deep) copy_wait<2>();
    else copy_wait<1>();
    sync_block();  // the values and the exponentials are there
    float acc[N][4] = {};
    const Pair l = weigh_all<D>(acc, x, blocks, shared + v_slot * kTile, warp, lane);
    k_slot = next_slot;
    if (p.walk < p.partitions) {
      if (r_lo < rows) write_partial<D>(partial_at<D>(p, b, kv_head, s0 / kPartition, r_lo), acc, 0, m.lo, l.lo, warp, lane);
      if (r_hi < rows) write_partial<D>(partial_at<D>(p, b, kv_head, s0 / kPartition, r_hi), acc, 1, m.hi, l.hi, warp, lane);
      continue;
    }
    const Merge f_lo = merge(run_lo, m.lo, l.lo), f_hi = merge(run_hi, m.hi, l.hi);
    UNROLL for (int i = 0; i < N; i++) {
      out[i][0] = merged(out[i][0], acc[i][0], f_lo);
      out[i][1] = merged(out[i][1], acc[i][1], f_lo);
      out[i][2] = merged(out[i][2], acc[i][2], f_hi);
      out[i][3] = merged(out[i][3], acc[i][3], f_hi);
    }
  }
  copy_wait<0>();
  if (p.walk < p.partitions) return;
  UNROLL for (int h = 0; h < 2; h++) {
    const int r = h ? r_hi : r_lo;
    if (r >= rows) continue;
    const float sum = h ? run_hi.l : run_lo.l, inv = sum > 0.f ? 1.f / sum : 0.f;
    const int64_t at = (span.first + r / group) * p.out_stride + int64_t(kv_head * group + r % group) * D + warp * (D / 4) + (lane & 3) * 2;
    UNROLL for (int i = 0; i < N; i++) {
      store(p.out, p.out_dt, at + i * 8, mul_rn(out[i][h * 2], inv));
      store(p.out, p.out_dt, at + i * 8 + 1, mul_rn(out[i][h * 2 + 1], inv));
    }
  }
}

// Where a thread's v lies in a row of all threads' v; ends with a sync of the cta.
struct Place { int before, all; };
DEVICE Place place_of(int v, int *sums, int warp, int lane) {
  int upto = v;
  UNROLL for (int m = 1; m < 32; m <<= 1) {
    const int other = int(shuffle(uint32_t(upto), max(lane - m, 0)));
    if (lane >= m) upto += other;
  }
  if (lane == 31) sums[warp] = upto;
  sync_block();
  Place p = {upto - v, 0};
  UNROLL for (int w = 0; w < kThreads / 32; w++) {
    if (w < warp) p.before += sums[w];
    p.all += sums[w];
  }
  return p;
}

// Sequences of at most one token each, at most kThreads of them, a thread each for the
// plan; p.shared tells whose keys they begin with. An item is a partition of a leader and
// of those that share it with him, or one of a sequence alone (all are, without p.shared).
// The ctas take items in turn; all results are partial ones.
//
// What items there are follows from lengths and p.shared alone and comes before
// wait_previous; so do partitions that were full before this step, if p.settled says
// that the kernels in front, which may still run, do not store them.
template <int D> DEVICE void shared_prefix(const AttentionParams &p) {
  DYNAMIC_SHARED(shared);
  SHARED Exchange x;
  SHARED int leader[kThreads], lengths[kThreads], row_of[kThreads], members[kThreads], plan_sums[kThreads / 32], sums[kThreads / 32], item_of[2], table[kPartition / kBlock];
  constexpr int kTile = kPartition * D * 2;
  unsigned char *k_shared = shared, *v_shared = shared + kTile;
  const int group = p.q_heads / p.kv_heads, lane = thread_x & 31, warp = thread_x >> 5, me = thread_x;
  const float scale = mul_rn(p.scale, kLog2E);
  overlap_next();
  const int32_t *pairs = static_cast<const int32_t *>(p.shared);
  Span mine = {0, 0, 0, true};
  if (me < p.sequences) mine = paged_span(p, me);
  if (mine.rows < 1) mine.keys = 0;
  int with = me, first_keys = 0;
  if (pairs && mine.keys > 0) {
    with = pairs[2 * me];
    first_keys = pairs[2 * me + 1];
  }
  leader[me] = with;
  lengths[me] = mine.keys;
  row_of[me] = mine.first;
  sync_block();
  // Partitions that were full before this step.
  auto whole = [&](int b) { return max(lengths[b] - 1, 0) / kPartition; };
  const int my_leader = leader[me];
  const bool follows = my_leader >= 0 && my_leader < me && leader[my_leader] == my_leader;
  const int common = follows ? min(min(first_keys / kPartition, whole(me)), whole(my_leader)) : 0;
  const int own = (mine.keys + kPartition - 1) / kPartition - common;  // items that begin with this sequence
  const Place plan = place_of(own, plan_sums, warp, lane);
  bool waited = false;
  for (int item = block_x; item < plan.all * p.kv_heads; item += grid_x) {
    const int kv_head = item % p.kv_heads, at = item / p.kv_heads - plan.before;
    if (at >= 0 && at < own) {
      item_of[0] = me;
      item_of[1] = common + at;
    }
    sync_block();
    const int b = item_of[0], part = item_of[1], s0 = part * kPartition;
    const int count = min(kPartition, lengths[b] - s0), blocks = (count + 31) / 32;
    if (me < blocks) table[me] = static_cast<const int32_t *>(p.tables)[b * p.table_stride + s0 / kBlock + me];
    sync_block();
    if (!waited && (!p.settled || part >= whole(b))) {
      wait_previous();
      waited = true;
    }
    Keys keys = paged_keys(p, b, kv_head);
    keys.table = table;
    load_keys<D, false>(k_shared, keys, 0, count, blocks * 32);
    copy_commit();
    load_keys<D, true>(v_shared, keys, 0, count, blocks * 32);
    copy_commit();
    if (!waited) {
      wait_previous();
      waited = true;
    }
    const bool member = me == b || follows && my_leader == b && common > part;
    const Place place = place_of(member, sums, warp, lane);
    if (member) members[place.before] = me;
    sync_block();  // the members are there
    const bool busy = warp < blocks;
    const int rows = place.all * group;
    uint32_t q[D / 16][4];
    auto load_rows = [&](int r0) {
      load_q<D>(q, lane, [&](int r) -> const uint32_t * {
        r += r0;
        if (r >= rows) return nullptr;
        return reinterpret_cast<const uint32_t *>(static_cast<const bf16 *>(p.q) + row_of[members[r / group]] * p.q_stride + int64_t(kv_head * group + r % group) * D);
      });
    };
    load_rows(0);
    copy_wait<1>();
    sync_block();  // the keys are there
    for (int r0 = 0; r0 < rows; r0 += 16) {
      const int r_lo = r0 + (lane >> 2), r_hi = r_lo + 8, limit = s0 + count;
      float s[4][4], acc[D / 32][4] = {};
      post_scores<D>(x, s, q, k_shared, busy, s0, r_lo < rows ? limit : 0, r_hi < rows ? limit : 0, warp, lane);
      load_rows(r0 + 16);  // used by the next turn, if there is one
      sync_block();
      const Pair m = post_exponentials(x, s, busy, scale, warp, lane);
      copy_wait<0>();
      sync_block();  // the values and the exponentials are there
      const Pair l = weigh_all<D>(acc, x, blocks, v_shared, warp, lane);
      if (r_lo < rows) write_partial<D>(partial_at<D>(p, members[r_lo / group], kv_head, part, r_lo % group), acc, 0, m.lo, l.lo, warp, lane);
      if (r_hi < rows) write_partial<D>(partial_at<D>(p, members[r_hi / group], kv_head, part, r_hi % group), acc, 1, m.hi, l.hi, warp, lane);
    }
    sync_block();  // keys, values and members have been read
  }
  if (!waited) wait_previous();
}

// Merges the partitions of a row. grid (row, kv head, sequence), a thread a dimension.
template <int D> DEVICE void join(const AttentionParams &p) {
  const int row = block_x, kv_head = block_y, b = block_z, group = p.q_heads / p.kv_heads, d = thread_x;
  overlap_next();
  wait_previous();
  const Span span = paged_span(p, b);
  if (row >= span.rows * group || span.rows * group > p.split_rows) return;
  const int parts = (span.visible(row / group) + kPartition - 1) / kPartition;
  constexpr int kBatch = 14;  // results under way at a time
  Running run;
  float out = 0.f;
  for (int i0 = 0; i0 < parts; i0 += kBatch) {
    float m[kBatch], l[kBatch], o[kBatch];
    UNROLL for (int i = 0; i < kBatch; i++) {
      const bool there = i0 + i < parts;
      const float *in = partial_at<D>(p, b, kv_head, there ? i0 + i : 0, row);
      m[i] = there ? in[0] : -INFINITY;
      l[i] = there ? in[1] : 0.f;
      o[i] = there ? in[2 + d] : 0.f;
    }
    // Nothing depends on the sums but the sums: the factors come first.
    Merge f[kBatch];
    UNROLL for (int i = 0; i < kBatch; i++) f[i] = merge_factors(run.m, m[i]);
    UNROLL for (int i = 0; i < kBatch; i++) {
      run.l = merged(run.l, l[i], f[i]);
      out = merged(out, o[i], f[i]);
    }
  }
  const float inv = run.l > 0.f ? 1.f / run.l : 0.f;
  store(p.out, p.out_dt, (span.first + row / group) * p.out_stride + int64_t(kv_head * group + row % group) * D + d, mul_rn(out, inv));
}

template <int D> DEVICE void walk_paged(const AttentionParams &p) {
  overlap_next();
  wait_previous();
  const int b = block_z, kv_head = block_y, group = p.q_heads / p.kv_heads;
  const Span span = paged_span(p, b);
  // Long tiles first: they take longest. Rows that fit the split kernels are theirs.
  const int tile = grid_x - 1 - block_x;
  if (span.rows * group <= p.split_rows || tile * 64 >= span.rows * group) return;
  walk<D>(p, span, paged_keys(p, b, kv_head), kv_head * group, group, tile);
}

template <int D> DEVICE void walk_segment(const AttentionParams &p) {
  overlap_next();
  wait_previous();
  const Span span = segment_span(p, block_z);
  if (block_x * 64 >= span.rows) return;
  walk<D>(p, span, segment_keys(p, span, block_y), block_y, 1, block_x);
}

}  // namespace

// Shared bytes: 2 * 128 * D * 2, split p.slots * 128 * D * 2, join none.
KERNEL(attention_walk_64, AttentionParams, 128, 2) { walk_paged<64>(p); }
KERNEL(attention_walk_128, AttentionParams, 128, 2) { walk_paged<128>(p); }
KERNEL(attention_split_64, AttentionParams, 128, 2) { split<64>(p); }
KERNEL(attention_split_128, AttentionParams, 128, 2) { split<128>(p); }
KERNEL(attention_shared_64, AttentionParams, 128, 3) { shared_prefix<64>(p); }
KERNEL(attention_shared_128, AttentionParams, 128, 3) { shared_prefix<128>(p); }
KERNEL(attention_join_64, AttentionParams, 64, 1) { join<64>(p); }
KERNEL(attention_join_128, AttentionParams, 128, 1) { join<128>(p); }
KERNEL(attention_tile_64, AttentionParams, 128, 2) { walk_segment<64>(p); }
KERNEL(attention_tile_128, AttentionParams, 128, 2) { walk_segment<128>(p); }
