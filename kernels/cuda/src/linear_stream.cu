// Linear for few rows on Hopper (decode): bound by reading the weight once.
//
// archs: sm_90a
//
// A cta has up to 8 consumer warps, each with a strip of 16 outputs at a time, and a
// producer warp for x. A consumer streams its strip, contiguous in memory, through a
// ring of its own by cp.async; the rows of x pass through a ring that the warps
// share, so that a cta reads x once. Weights do not depend on the kernel in front:
// their ring is filled before wait_previous.
//
// A strip is one chain of dependent mma, and few warps share a multiprocessor: what
// counts is that a warp issues little besides, and that between two mma. So a stage
// of the rings is SB blocks (64*SB columns) with one wait each and fixed offsets
// inside, the warp holds the fragments of the next 32 columns while it multiplies
// the current ones, and the copies into the slot read last are spread over the steps.
// (One lane issuing bulk copies for a warp took three times as long as the products.)
//
// shared: barriers (1 KiB), x ring (kXStages * NB * SB KiB), weight rings (8*SB KiB a warp).
#include "hopper.cuh"
#include "linear.cuh"

namespace {

constexpr int kBarrierBytes = 1024;

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

constexpr int kStages = 4, kXStages = 4;

template <int NB, int SB> DEVICE void stream(const LinearStreamParams &s) {
  const LinearParams &p = s.linear;
  DYNAMIC_SHARED(shared);
  constexpr int kStageBytes = SB * kBlockBytes, kXBytes = SB * NB * 1024, kSteps = 2 * SB;  // steps of 32 columns
  const int lane = thread_x & 31, warp = thread_x >> 5, warps = (block_threads >> 5) - 1, stages = p.k_padded / (kBlockCols * SB), strips = (p.n + 15) / 16;
  uint64_t *x_full = reinterpret_cast<uint64_t *>(shared), *x_empty = x_full + kXStages;
  unsigned char *x_ring = shared + kBarrierBytes, *w_ring = x_ring + kXStages * kXBytes + warp * (kStages * kStageBytes);
  if (thread_x == 0) {
    for (int i = 0; i < kXStages; i++) {
      barrier_init(x_full + i, 1);
      barrier_init(x_empty + i, warps);
    }
    barrier_init_fence();
  }
  sync_block();
  overlap_next();

  if (warp == warps) {  // producer of x
    if (lane != 0) return;
    wait_previous();
    Turn t;
    bool first = true;
    for (int pass = 0; pass < s.passes; pass++)
      for (int i = 0; i < stages; i++) {
        if (!first) barrier_wait(x_empty + t.slot, t.parity ^ 1);
        barrier_expect(x_full + t.slot, kXBytes);
        UNROLL for (int j = 0; j < SB; j++) copy_box(x_ring + t.slot * kXBytes + j * (NB * 1024), &s.x_map, x_full + t.slot, (i * SB + j) * kBlockCols, 0);
        t.next(kXStages);
        first = first && t.slot != 0;
      }
    return;
  }

  // Strip of a pass; the warp's stages are numbered through all passes.
  auto strip_of = [&](int pass) { return (pass * warps + warp) * grid_x + block_x; };
  int mine = 0;  // passes in which the warp has a strip: the first ones
  while (mine < s.passes && strip_of(mine) < strips) mine++;
  const int total = mine * stages;
  // The next stage to load: its address, the stages left in its strip and in all, its slot.
  const int64_t next_strip = (int64_t(warps) * grid_x - 1) * stages * kStageBytes;
  const unsigned char *from = static_cast<const unsigned char *>(p.w) + int64_t(strip_of(0)) * stages * kStageBytes + lane * 16;
  int left = stages, to_load = total, load_slot = 0;
  auto load_part = [&](int first, int count) {
    if (to_load <= 0) return;
    unsigned char *to = w_ring + load_slot * kStageBytes + lane * 16;
    UNROLL for (int j = 0; j < count; j++) copy16(to + (first + j) * 512, from + (first + j) * 512, true);
  };
  auto load_end = [&] {
    copy_commit();
    to_load--;
    from += kStageBytes;
    if (--left == 0) {
      left = stages;
      from += next_strip;
    }
    load_slot = (load_slot + 1) % kStages;
  };
  for (int i = 0; i < kStages; i++) {
    load_part(0, 4 * SB);
    load_end();
  }
  wait_previous();  // the epilogue reads the residual

  int offset[4], x_offset[2];  // of this lane's rows in a block, by step of 16 (x: 32) columns
  UNROLL for (int k = 0; k < 4; k++) offset[k] = fragment_at(k, lane);
  UNROLL for (int k = 0; k < 2; k++) x_offset[k] = (lane & 7) * 128 + (((k * 4 + (lane >> 3)) ^ (lane & 7)) << 4);
  uint32_t a[2][2][4], b[2][NB][4];  // fragments of 32 columns, current and next
  int slot = 0;                      // of the stage that fetch reads
  Turn xt;
  auto fetch = [&](int step, int into) {
    const unsigned char *w = w_ring + slot * kStageBytes + (step >> 1) * kBlockBytes, *x = x_ring + xt.slot * kXBytes + (step >> 1) * (NB * 1024);
    ldmatrix(a[into][0], w + offset[(step & 1) * 2]);
    ldmatrix(a[into][1], w + offset[(step & 1) * 2 + 1]);
    UNROLL for (int n = 0; n < NB; n++) ldmatrix(b[into][n], x + n * 1024 + x_offset[step & 1]);
  };
  float acc[NB][4] = {};
  auto multiply = [&](int from_set) {
    UNROLL for (int n = 0; n < NB; n++) mma(acc[n], a[from_set][0], b[from_set][n][0], b[from_set][n][1]);
    UNROLL for (int n = 0; n < NB; n++) mma(acc[n], a[from_set][1], b[from_set][n][2], b[from_set][n][3]);
  };
  // Waits for the stage in slot: for this lane's copies, then all lanes', and for x.
  auto arrived = [&] {
    copy_wait<kStages - 2>();
    sync_warp();
    barrier_wait(x_full + xt.slot, xt.parity);
  };
  if (total > 0) {
    arrived();
    fetch(0, 0);
  }
  int in_strip = 0, pass = 0, done = 0;
  for (int i = 0; i < total; i++) {
    UNROLL for (int step = 0; step < kSteps; step++) {
      if (step + 1 < kSteps) {
        fetch(step + 1, (step + 1) & 1);
      } else {
        // The slot read before this one is full of copies now: they end the group.
        if (i > 0) load_end();
        else copy_commit();
        done = xt.slot;
        slot = (slot + 1) % kStages;
        xt.next(kXStages);
        if (i + 1 < total) {
          arrived();
          fetch(0, 0);
        }
      }
      multiply(step & 1);
      // The products of the stage before this one have been issued: its x may go.
      if (step == 0 && i > 0 && lane == 0) barrier_arrive(x_empty + done);
      if (step + 1 < kSteps && i > 0) load_part(step * 2, step + 2 < kSteps ? 2 : 4);
    }
    if (++in_strip < stages) continue;
    // Sums of outputs lane/4 and lane/4+8 of the strip, rows 2*(lane%4) and the next.
    const int strip = strip_of(pass++), n0 = strip * 16 + (lane >> 2);
    in_strip = 0;
    UNROLL for (int n = 0; n < NB; n++)
      UNROLL for (int j = 0; j < 2; j++) {
        const int row = n * 8 + (lane & 3) * 2 + j;
        if (p.gated == GATED_PRODUCT) {
          write_gated(p, row, strip * 8 + (lane >> 2), acc[n][j], acc[n][2 + j]);
        } else {
          write_one(p, row, n0, acc[n][j]);
          write_one(p, row, n0 + 8, acc[n][2 + j]);
        }
        acc[n][j] = acc[n][2 + j] = 0.f;
      }
  }
  copy_wait<0>();
  if (total > 0 && lane == 0) barrier_arrive(x_empty + done);
  // Passes without a strip: the others still wait for this warp to let x go.
  for (int i = total; i < s.passes * stages; i++, xt.next(kXStages)) {
    barrier_wait(x_full + xt.slot, xt.parity);
    if (lane == 0) barrier_arrive(x_empty + xt.slot);
  }
}

}  // namespace

// By the most rows, and the columns of a stage: long stages for few warps.
KERNEL(linear_stream_8_128, LinearStreamParams, 288, 2) { stream<1, 2>(p); }
KERNEL(linear_stream_8_256, LinearStreamParams, 288, 2) { stream<1, 4>(p); }
KERNEL(linear_stream_16_128, LinearStreamParams, 288, 2) { stream<2, 2>(p); }
KERNEL(linear_stream_16_256, LinearStreamParams, 288, 2) { stream<2, 4>(p); }
KERNEL(linear_stream_32_128, LinearStreamParams, 288, 1) { stream<4, 2>(p); }
KERNEL(linear_stream_64_128, LinearStreamParams, 288, 1) { stream<8, 2>(p); }
