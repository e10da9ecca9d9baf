// Linear on Hopper for many rows (prefill and the vision encoder): operands and results
// move by the bulk copy engine (tensor maps), products by wgmma.
//
// archs: sm_90a
//
// Warpgroup 0 is the producer: one thread issues copies into a ring of stages of 64
// columns of k. The others are consumers with their sums in registers. Both operands lie
// in shared memory as 8 rows of 128 bytes with the 128-byte swizzle: the weight is
// stored so (linear.cuh), rows of x are swizzled by the copy. The grid is persistent.
//
// Two ways to share the work:
// - cooperative: every consumer computes 64 rows of the same tile. Results leave through
//   stages of the ring, which the producer hands over behind the last columns of k,
//   filled with the residual if there is one: its copies hide behind the products.
// - alternating: a consumer computes 128 rows of a tile of its own; one finishes its tile
//   while the other multiplies. For short k and costly epilogues.
//
// Sums run over k in steps of 16 into one accumulator, as in every other kernel.
#include "linear.cuh"
#include "hopper.cuh"

namespace {

constexpr int kBK = 64;
constexpr int kBoxBytes = 64 * 128;     // a box of results: 64 rows of 64 columns
constexpr int kChunk = 32, kPitch = 40;  // general finish: columns exchanged at a time, floats between rows
constexpr int kGroupRows = 3072;         // rows whose tiles are neighbours in time

// What becomes of the sums.
enum {
  FINISH_GENERAL = 0,   // anything, slowly
  FINISH_SUM = 1,       // (+ bias)
  FINISH_GELU = 2,      // gelu(. (+ bias))
  FINISH_RESIDUAL = 3,  // residual + (scale *) (. (+ bias))
  FINISH_GATED = 4      // silu(gate)*up
};

// Finishes 16 neighbouring columns of a row; n is the first, a multiple of 16.
DEVICE void finish_run(const LinearParams &p, int row, int n, const float *v) {
  if (row >= p.rows || n >= p.n) return;
  for (int i = 0; i < 16; i++) {
    if (p.gated != GATED_PRODUCT) write_one(p, row, n + i, v[i]);
    else if (i < 8) write_gated(p, row, n / 2 + i, v[i], v[8 + i]);
  }
}

// The general finish of 64 rows from row0 on: sums through 64 * kPitch floats to runs of 16 columns.
template <int BN> DEVICE void finish_general(const LinearParams &p, const float (&d)[BN / 2], float *exchange, int row0, int col0, int warp, int lane) {
#pragma unroll 1
  for (int c = 0; c < BN / kChunk; c++) {
    UNROLL for (int j = 0; j < BN / 8; j++) {
      if (j / 4 != c) continue;
      float *to = exchange + (warp * 16 + (lane >> 2)) * kPitch + j % 4 * 8 + (lane & 3) * 2;
      to[0] = d[j * 4];
      to[1] = d[j * 4 + 1];
      to[8 * kPitch] = d[j * 4 + 2];
      to[8 * kPitch + 1] = d[j * 4 + 3];
    }
    sync_warp();  // a warp reads its own 16 rows only
    const int r = warp * 16 + (lane >> 1), h = (lane & 1) * 16;
    finish_run(p, row0 + r, col0 + c * kChunk + h, exchange + r * kPitch + h);
    sync_warp();
  }
}

// Two neighbouring elements of a vector of n, n even; any two behind its end, where results are not stored.
struct alignas(8) Pair { float x, y; };
DEVICE Pair pair_at(const void *v, int i, int n) { return *reinterpret_cast<const Pair *>(static_cast<const float *>(v) + min(i, n - 2)); }

// Turns the sums of 64 rows x 64 columns, n0 the first, into a box of 32 results a row.
DEVICE void finish_gated(const float *d, unsigned char *box, int warp, int lane) {
  const int row = warp * 16 + (lane & 15), part = lane >> 4;  // of the 8 columns whose address this lane gives
  UNROLL for (int j = 0; j < 8; j += 4) {
    uint32_t r[4];
    UNROLL for (int i = 0; i < 4; i++) {
      const float *g = d + (j + i / 2 * 2) * 4 + i % 2 * 2, *u = g + 4;
      r[i] = pack_bf16(gated_bf16(g[0], u[0]), gated_bf16(g[1], u[1]));
    }
    stmatrix(box + row * 64 + (((j / 2 + part) ^ (row >> 1 & 3)) << 4), r);
  }
}

// Bias and scale of a lane's columns in N groups of 8, n0 the first column.
template <int FINISH, int N> DEVICE void read_vectors(const LinearParams &p, int n0, int lane, Pair (&bias)[N], Pair (&scale)[N]) {
  const int n = n0 + (lane & 3) * 2;
  if (p.bias)
    UNROLL for (int h = 0; h < N; h++) bias[h] = pair_at(p.bias, n + h * 8, p.n);
  else
    UNROLL for (int h = 0; h < N; h++) bias[h] = {-0.f, -0.f};  // changes no sum, not even -0
  if (FINISH == FINISH_RESIDUAL && p.layer_scale)
    UNROLL for (int h = 0; h < N; h++) scale[h] = pair_at(p.layer_scale, n + h * 8, p.n);
}

// Turns the sums of 64 rows x N*8 columns into results, columns j0*8 on of a box. A box
// of FINISH_RESIDUAL holds the residual before. A warp touches its own 16 rows only.
template <int FINISH, int N> DEVICE void finish_columns(const LinearParams &p, const float *d, unsigned char *box, int j0, const Pair (&bias)[N], const Pair (&scale)[N], int warp, int lane) {
  const int row = warp * 16 + (lane & 15), part = lane >> 4;  // of the 8 columns whose address this lane gives
  UNROLL for (int j = 0; j < N; j += 2) {
    unsigned char *at = box + row * 128 + (((j0 + j + part) ^ (row & 7)) << 4);
    float y[8];
    UNROLL for (int i = 0; i < 8; i += 2) {
      y[i] = add_rn(d[(j0 + j) * 4 + i], bias[j + i / 4].x);
      y[i + 1] = add_rn(d[(j0 + j) * 4 + i + 1], bias[j + i / 4].y);
    }
    if (FINISH == FINISH_GELU)
      UNROLL for (int i = 0; i < 8; i++) y[i] = gelu(y[i]);
    if (FINISH == FINISH_RESIDUAL) {
      uint32_t r[4];
      ldmatrix(r, at);
      if (p.layer_scale)
        UNROLL for (int i = 0; i < 4; i++) {
          y[i * 2] = fmaf(scale[j + i / 2].x, y[i * 2], low_bf16(r[i]));
          y[i * 2 + 1] = fmaf(scale[j + i / 2].y, y[i * 2 + 1], high_bf16(r[i]));
        }
      else
        UNROLL for (int i = 0; i < 4; i++) {
          y[i * 2] = add_rn(low_bf16(r[i]), y[i * 2]);
          y[i * 2 + 1] = add_rn(high_bf16(r[i]), y[i * 2 + 1]);
        }
    }
    const uint32_t r[4] = {pack_bf16(y[0], y[1]), pack_bf16(y[2], y[3]), pack_bf16(y[4], y[5]), pack_bf16(y[6], y[7])};
    stmatrix(at, r);
  }
}

// The place of a tile: tiles of a group of rows come column by column.
struct Tile { int row0, col0; };
struct Order {
  int tiles, group, row_tiles, col_tiles;
  METHOD Order(int rows, int n, int bm, int bn) {
    row_tiles = (rows + bm - 1) / bm;
    col_tiles = (n + bn - 1) / bn;
    tiles = row_tiles * col_tiles;
    const int most = kGroupRows / bm, groups = (row_tiles + most - 1) / most;
    group = (row_tiles + groups - 1) / groups;
  }
  METHOD Tile at(int t, int bm, int bn) const {
    const int per = group * col_tiles, first = t / per * group, height = min(group, row_tiles - first), in = t % per;
    return {(first + in % height) * bm, in / height * bn};
  }
};

// The next stage of a ring and the parity of its phase.
template <int STAGES> struct Ring {
  int slot = 0;
  uint32_t phase = 0;
  METHOD void next() {
    if (++slot == STAGES) {
      slot = 0;
      phase ^= 1;
    }
  }
};

// Copies this cta's rows of x and its share of the strips of w for a stage.
template <int BM, int BN, int CTAS> DEVICE void copy_stage(const LinearTileParams &p, unsigned char *stage, uint64_t *full, int rank, Tile tile, int s) {
  constexpr int kXBytes = BM * 128, kWBytes = BN * 128;
  barrier_expect(full, kXBytes + kWBytes);
  copy_box(stage, &p.x_map, full, s * kBK, tile.row0 + rank * BM);
  if (CTAS == 1) copy_box(stage + kXBytes, &p.w_map, full, 0, 0, tile.col0 / 16, s);
  else copy_box_to((1 << CTAS) - 1, stage + kXBytes + rank * (kWBytes / CTAS), &p.w_map, full, 0, 0, tile.col0 / 16 + rank * (BN / 16 / CTAS), s);
}

// Gives a slot back to the producers of all ctas: a thread each, thread 0 on.
template <int CTAS> DEVICE void release(uint64_t *empty, int in) {
  if (CTAS == 1) {
    if (in == 0) barrier_arrive(empty);
  } else if (in < CTAS) {
    barrier_arrive_at(empty, in);
  }
}

// Results of a cooperative consumer: a box for each 64 columns, kBoxCols of them in a slot of the ring.
template <int WGS, int BN> struct Results {
  static constexpr int kStageBytes = (WGS * 64 + BN) * 128, kBoxCols = kStageBytes / (WGS * kBoxBytes), kCols = BN / 64, kSlots = (kCols + kBoxCols - 1) / kBoxCols;
};

// Gives a slot of results back to the producers of all ctas.
template <int CTAS> DEVICE void free_results(uint64_t *empty) {
  UNROLL for (int i = 0; i < CTAS; i++) {
    if (CTAS == 1) barrier_arrive(empty);
    else barrier_arrive_at(empty, i);
  }
}

// end_products waits for the sums. Bias and scale are read ahead of it, and of their
// columns. The last slot stays the results': who waits for its copy keeps the tensor cores
// waiting, so the caller frees it below the next products.
template <int FINISH, int WGS, int BN, int STAGES, int CTAS, class F>
DEVICE void cooperative_results(const LinearTileParams &maps, const float (&d)[BN / 2], unsigned char *shared, uint64_t *full, uint64_t *empty, Ring<STAGES> &ring, int row0, int col0, F end_products) {
  typedef Results<WGS, BN> R;
  constexpr int kAhead = WGS == 3 ? 2 : 4;  // groups of 8 columns; registers are short with three consumers
  const LinearParams &p = maps.linear;
  const int g = (thread_x >> 7) - 1, in = thread_x & 127, warp = in >> 5, lane = in & 31;
  Pair bias[2][kAhead], scale[2][kAhead];
  if (FINISH != FINISH_GATED) read_vectors<FINISH>(p, col0, lane, bias[0], scale[0]);
  end_products();
  UNROLL for (int e = 0; e < R::kSlots; e++, ring.next()) {
    barrier_wait(full + ring.slot, ring.phase);
    UNROLL for (int b = 0; b < R::kBoxCols; b++) {
      const int c = e * R::kBoxCols + b;
      if (c >= R::kCols) continue;
      unsigned char *box = shared + ring.slot * R::kStageBytes + (b * WGS + g) * kBoxBytes;
      const int n0 = col0 + c * 64;
      if (FINISH == FINISH_GATED) {
        finish_gated(d + c * 32, box, warp, lane);
      } else {
        UNROLL for (int j = 0; j < 8; j += kAhead) {
          const int now = j / kAhead & 1;
          if (j + kAhead < 8 || c + 1 < R::kCols) read_vectors<FINISH>(p, n0 + (j + kAhead) * 8, lane, bias[now ^ 1], scale[now ^ 1]);
          finish_columns<FINISH>(p, d + c * 32, box, j, bias[now], scale[now], warp, lane);
        }
      }
      fence_async();
      sync_group(1 + g, 128);
      if (in == 0 && row0 < p.rows && n0 < p.n) store_box(&maps.out_map, box, FINISH == FINISH_GATED ? n0 / 2 : n0, row0);
    }
    if (in == 0) {
      store_commit();
      if (e > 0) {
        store_wait_read<1>();
        free_results<CTAS>(empty + (ring.slot + STAGES - 1) % STAGES);
      }
    }
  }
}

// WGS consumers of 64 rows each; CTAS ctas of a cluster take neighbouring rows and
// the same outputs, and each copies its share of the weight to all.
template <int WGS, int BN, int STAGES, int CTAS> DEVICE void cooperative(const LinearTileParams &maps) {
  const LinearParams &p = maps.linear;
  typedef Results<WGS, BN> R;
  constexpr int kBM = WGS * 64, kXBytes = kBM * 128, kStageBytes = R::kStageBytes;
  DYNAMIC_SHARED(shared);
  SHARED uint64_t full[STAGES], empty[STAGES];
  const int group = thread_x >> 7, rank = CTAS == 1 ? 0 : cluster_rank();
  const Order order(p.rows, p.n, kBM * CTAS, BN);
  const int steps = p.k_padded / kBK, first = block_x / CTAS, stride = grid_x / CTAS;
  if (thread_x == 0) {
    for (int i = 0; i < STAGES; i++) {
      barrier_init(full + i, 1);
      barrier_init(empty + i, WGS * CTAS);
    }
    barrier_init_fence();
  }
  if (CTAS == 1) sync_block();
  else cluster_sync();
  overlap_next();
  if (group == 0) {
    give_registers<WGS == 3 ? 32 : 40>();
    if (thread_x == 0) {
      wait_previous();
      Ring<STAGES> ring;
      for (int t = first; t < order.tiles; t += stride) {
        const Tile tile = order.at(t, kBM * CTAS, BN);
        for (int s = 0; s < steps; s++, ring.next()) {
          barrier_wait(empty + ring.slot, ring.phase ^ 1);
          copy_stage<kBM, BN, CTAS>(maps, shared + ring.slot * kStageBytes, full + ring.slot, rank, tile, s);
        }
        for (int e = 0; e < R::kSlots; e++, ring.next()) {
          barrier_wait(empty + ring.slot, ring.phase ^ 1);
          if (maps.finish != FINISH_RESIDUAL) {
            barrier_arrive(full + ring.slot);
            continue;
          }
          const int cols = min(R::kBoxCols, R::kCols - e * R::kBoxCols);
          barrier_expect(full + ring.slot, cols * WGS * kBoxBytes);
          for (int i = 0; i < cols * WGS; i++)
            copy_box(shared + ring.slot * kStageBytes + i * kBoxBytes, &maps.residual_map, full + ring.slot,
                     tile.col0 + (e * R::kBoxCols + i / WGS) * 64, tile.row0 + rank * kBM + i % WGS * 64);
        }
      }
    }
  } else {
    take_registers<WGS == 3 ? 160 : 232>();
    wait_previous();
    const int g = group - 1, in = thread_x & 127, warp = in >> 5, lane = in & 31;
    Ring<STAGES> ring;
    int results = -1;  // slot of the last tile's that is not free, of thread 0
    for (int t = first; t < order.tiles; t += stride) {
      const Tile tile = order.at(t, kBM * CTAS, BN);
      const int row0 = tile.row0 + rank * kBM + g * 64;
      float d[BN / 2];
      int before = 0;
      for (int s = 0; s < steps; s++) {
        barrier_wait(full + ring.slot, ring.phase);
        const uint32_t stage = shared_address(shared + ring.slot * kStageBytes);
        const uint64_t x = descriptor(stage + g * 64 * 128), w = descriptor(stage + kXBytes);
        wgmma_fence();
        UNROLL for (int k = 0; k < 4; k++) wgmma(d, x + k * 2, w + k * 2, s | k);
        wgmma_commit();
        if (s > 0) {
          wgmma_wait<1>();
          release<CTAS>(empty + before, in);
        } else if (results >= 0) {
          store_wait_read<0>();
          free_results<CTAS>(empty + results);
        }
        before = ring.slot;
        ring.next();
      }
      auto end_products = [&] {
        wgmma_wait<0>();
        release<CTAS>(empty + before, in);
        pin(d);
      };
      if (maps.finish == FINISH_GENERAL) {
        end_products();
        for (int e = 0; e < R::kSlots; e++, ring.next()) {
          barrier_wait(full + ring.slot, ring.phase);
          if (e == 0) finish_general<BN>(p, d, reinterpret_cast<float *>(shared + ring.slot * kStageBytes) + g * 64 * kPitch, row0, tile.col0, warp, lane);
          fence_async();
          sync_group(1 + g, 128);
          release<CTAS>(empty + ring.slot, in);
        }
        continue;
      }
      if (in == 0) results = (ring.slot + R::kSlots - 1) % STAGES;
      switch (maps.finish) {
        case FINISH_SUM: cooperative_results<FINISH_SUM, WGS, BN, STAGES, CTAS>(maps, d, shared, full, empty, ring, row0, tile.col0, end_products); break;
        case FINISH_GELU: cooperative_results<FINISH_GELU, WGS, BN, STAGES, CTAS>(maps, d, shared, full, empty, ring, row0, tile.col0, end_products); break;
        case FINISH_RESIDUAL: cooperative_results<FINISH_RESIDUAL, WGS, BN, STAGES, CTAS>(maps, d, shared, full, empty, ring, row0, tile.col0, end_products); break;
        case FINISH_GATED: cooperative_results<FINISH_GATED, WGS, BN, STAGES, CTAS>(maps, d, shared, full, empty, ring, row0, tile.col0, end_products); break;
      }
    }
    if (results >= 0) store_wait_read<0>();  // shared memory must outlive them
  }
  if (CTAS > 1) cluster_sync();  // the other cta may still arrive here, or copy to here
}

template <int FINISH, int BN> DEVICE void alternating_results(const LinearTileParams &maps, const float (&d)[2][BN / 2], unsigned char *boxes, int row0, int col0) {
  const LinearParams &p = maps.linear;
  const int g = (thread_x >> 7) - 1, in = thread_x & 127, warp = in >> 5, lane = in & 31;
  UNROLL for (int i = 0; i < BN / 32; i++) {
    unsigned char *box = boxes + i * kBoxBytes;
    const int n0 = col0 + i / 2 * 64, row = row0 + i % 2 * 64;
    const float *sums = d[i % 2] + i / 2 * 32;
    if (FINISH == FINISH_GATED) {
      finish_gated(sums, box, warp, lane);
    } else {
      UNROLL for (int j = 0; j < 8; j += 2) {
        Pair bias[2], scale[2];
        read_vectors<FINISH>(p, n0 + j * 8, lane, bias, scale);
        finish_columns<FINISH>(p, sums, box, j, bias, scale, warp, lane);
      }
    }
    fence_async();
    sync_group(1 + g, 128);
    if (in == 0 && row < p.rows && n0 < p.n) {
      store_box(&maps.out_map, box, FINISH == FINISH_GATED ? n0 / 2 : n0, row);
      store_commit();
    }
  }
}

// Two consumers of a tile of 128 rows each, in turns. Thread 32 hands the boxes of
// results, behind the ring, to the consumer that finishes. No FINISH_GENERAL: it takes too
// many registers.
template <int BN, int STAGES> DEVICE void alternating(const LinearTileParams &maps) {
  const LinearParams &p = maps.linear;
  constexpr int kBM = 128, kXBytes = kBM * 128, kStageBytes = kXBytes + BN * 128, kCols = BN / 64;
  DYNAMIC_SHARED(shared);
  SHARED uint64_t full[STAGES], empty[STAGES], turn[2], boxes_ready[2], boxes_free;
  const int group = thread_x >> 7;
  const Order order(p.rows, p.n, kBM, BN);
  const int steps = p.k_padded / kBK, first = block_x, stride = grid_x;
  unsigned char *boxes = shared + STAGES * kStageBytes;
  if (thread_x == 0) {
    for (int i = 0; i < STAGES; i++) {
      barrier_init(full + i, 1);
      barrier_init(empty + i, 1);
    }
    for (int i = 0; i < 2; i++) {
      barrier_init(turn + i, 1);
      barrier_init(boxes_ready + i, 1);
    }
    barrier_init(&boxes_free, 1);
    barrier_init_fence();
  }
  sync_block();
  overlap_next();
  if (group == 0) {
    give_registers<40>();
    if (thread_x == 0) {
      wait_previous();
      Ring<STAGES> ring;
      for (int t = first; t < order.tiles; t += stride) {
        const Tile tile = order.at(t, kBM, BN);
        for (int s = 0; s < steps; s++, ring.next()) {
          barrier_wait(empty + ring.slot, ring.phase ^ 1);
          copy_stage<kBM, BN, 1>(maps, shared + ring.slot * kStageBytes, full + ring.slot, 0, tile, s);
        }
      }
    }
    if (thread_x == 32) {
      wait_previous();
      int turns = 0;
      for (int t = first; t < order.tiles; t += stride, turns++) {
        barrier_wait(&boxes_free, (turns & 1) ^ 1);
        uint64_t *ready = boxes_ready + (turns & 1);
        if (maps.finish != FINISH_RESIDUAL) {
          barrier_arrive(ready);
          continue;
        }
        const Tile tile = order.at(t, kBM, BN);
        barrier_expect(ready, 2 * kCols * kBoxBytes);
        for (int i = 0; i < 2 * kCols; i++)
          copy_box(boxes + i * kBoxBytes, &maps.residual_map, ready, tile.col0 + i / 2 * 64, tile.row0 + i % 2 * 64);
      }
    }
  } else {
    take_registers<232>();
    wait_previous();
    const int g = group - 1, in = thread_x & 127;
    uint32_t own = 0;  // tiles of this consumer so far
    for (int t = first + g * stride; t < order.tiles; t += 2 * stride, own++) {
      const Tile tile = order.at(t, kBM, BN);
      // Behind the other's waits: the parity of a stage is ambiguous before.
      if (own || g) barrier_wait(turn + g, (own + g + 1) & 1);
      const uint32_t q0 = (2 * own + g) * steps;
      Ring<STAGES> ring;
      ring.slot = q0 % STAGES;
      ring.phase = q0 / STAGES & 1;
      float d[2][BN / 2];
      int before = 0;
      for (int s = 0; s < steps; s++) {
        barrier_wait(full + ring.slot, ring.phase);
        const uint32_t stage = shared_address(shared + ring.slot * kStageBytes);
        const uint64_t x = descriptor(stage), w = descriptor(stage + kXBytes);
        wgmma_fence();
        UNROLL for (int k = 0; k < 4; k++) {
          wgmma(d[0], x + k * 2, w + k * 2, s | k);
          wgmma(d[1], x + 512 + k * 2, w + k * 2, s | k);
        }
        wgmma_commit();
        if (s > 0) {
          wgmma_wait<1>();
          release<1>(empty + before, in);
        }
        before = ring.slot;
        ring.next();
      }
      if (in == 0) barrier_arrive(turn + (g ^ 1));
      wgmma_wait<0>();
      release<1>(empty + before, in);
      pin(d[0]);
      pin(d[1]);
      barrier_wait(boxes_ready + g, own & 1);
      switch (maps.finish) {
        case FINISH_SUM: alternating_results<FINISH_SUM, BN>(maps, d, boxes, tile.row0, tile.col0); break;
        case FINISH_GELU: alternating_results<FINISH_GELU, BN>(maps, d, boxes, tile.row0, tile.col0); break;
        case FINISH_RESIDUAL: alternating_results<FINISH_RESIDUAL, BN>(maps, d, boxes, tile.row0, tile.col0); break;
        case FINISH_GATED: alternating_results<FINISH_GATED, BN>(maps, d, boxes, tile.row0, tile.col0); break;
      }
      if (in == 0) {
        store_wait_read<0>();
        barrier_arrive(&boxes_free);
      }
    }
  }
}

}  // namespace

// Shared bytes: STAGES * (rows + BN) * 128, and rows * BN * 2 for the results of alternating consumers.
KERNEL(linear_coop_192x192, LinearTileParams, 512, 1) { cooperative<3, 192, 4, 1>(p); }
KERNEL(linear_coop_128x128, LinearTileParams, 384, 1) { cooperative<2, 128, 6, 1>(p); }
CLUSTER_KERNEL(linear_coop_128x256_pair, LinearTileParams, 384, 1) { cooperative<2, 256, 4, 2>(p); }
KERNEL(linear_turns_128x192, LinearTileParams, 384, 1) { alternating<192, 4>(p); }
