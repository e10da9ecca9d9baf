// Linear for few rows on Hopper (decode): bound by reading the weight once.
//
// archs: sm_90a
//
// A cta has up to 12 consumer warps. A warp, or R of them that share out the rows of x,
// has a strip of 16 outputs at a time, and streams its strips, contiguous in memory,
// through a ring of their own by cp.async. Weights do not depend on the kernel in front:
// their ring is filled before wait_previous. The next kernel is let in with the last
// stage; its ctas begin as those of this one leave, since the ring has all the shared
// memory of a multiprocessor. (Two kernels of half the ring side by side were slower.)
//
// A single row of x lies in shared memory as a whole, normalised there if it is to be.
// More rows pass through a ring that the warps share, filled by a warp of its own, so
// that a cta reads x once.
//
// A strip is one chain of dependent mma, and few warps share a multiprocessor: what
// counts is that a warp issues little besides, and that between two mma; from 32 rows
// on, that warps share a strip's rows: one warp issues all its mma in turn. So a stage
// of the rings is SB blocks (64*SB columns) with one wait each and fixed offsets
// inside, the warp holds the fragments of the next 32 columns while it multiplies
// the current ones, and the copies into the slot read last are spread over the steps.
// (One lane issuing bulk copies for a warp took three times as long as the products.)
//
// shared: barriers (1 KiB), x (ring: XS * NB * SB KiB; a row: its bytes), weight rings (WS * 2*SB KiB a strip).
#include "hopper.cuh"
#include "linear.cuh"

namespace {

constexpr int kBarrierBytes = 1024, kZeros = 512, kScratch = 640;  // offsets inside the first: 16 zero bytes, sums of 8 warps

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

// The row of x as bf16 to shared memory, normalised: sums in the order of rmsnorm_cta
// (norm.cu), whose eight warps these warps stand for in turn. At most 4096 columns.
DEVICE void normalise_row(const LinearStreamParams &s, unsigned char *to, float *scratch, int warp, int warps, int lane) {
  constexpr int kTurns = 3, kHeld = 2, kWarps = 8, kStep = kWarps * 256;
  const LinearParams &p = s.linear;
  float weight[kTurns][kHeld][8], x[kTurns][kHeld][8];
  auto each = [&](auto f) {
    UNROLL for (int i = 0; i < kTurns; i++)
      UNROLL for (int h = 0; h < kHeld; h++) {
        const int v = warp + i * warps, c = v * 256 + lane * 8 + h * kStep;
        if (v < kWarps && c < p.k) f(i, h, c);
      }
  };
  each([&](int i, int h, int c) { load8(s.norm, DT_F32, c, weight[i][h]); });
  wait_previous();
  each([&](int i, int h, int c) { load8(p.x, DT_BF16, c, x[i][h]); });
  UNROLL for (int i = 0; i < kTurns; i++) {
    const int v = warp + i * warps;
    if (v >= kWarps) continue;
    float sum = 0.f;
    UNROLL for (int h = 0; h < kHeld; h++)
      if (v * 256 + lane * 8 + h * kStep < p.k)
        UNROLL for (int j = 0; j < 8; j++) sum = fmaf(x[i][h][j], x[i][h][j], sum);
    sum = warp_sum(sum, lane);
    if (lane == 0) scratch[v] = sum;
  }
  sync_block();
  float sum = scratch[0];
  UNROLL for (int v = 1; v < kWarps; v++) sum = add_rn(sum, scratch[v]);
  const float inv = 1.f / sqrtf(sum / p.k + s.eps);
  each([&](int i, int h, int c) {
    float f[8];
    UNROLL for (int j = 0; j < 8; j++) {
      float y = mul_rn(x[i][h][j], inv);
      if (s.round_first) y = round_bf16(y);
      f[j] = mul_rn(y, weight[i][h][j]);
    }
    store8(to, DT_BF16, c, f);
  });
  sync_block();
}

// NB*8 rows, stages of SB blocks, XS stages in the ring of x (0: one row), WS in that of a
// strip. The rows of a strip are shared out to R warps.
template <int NB, int SB, int XS, int R, int WS> DEVICE void stream(const LinearStreamParams &s) {
  const LinearParams &p = s.linear;
  DYNAMIC_SHARED(shared);
  constexpr bool kRow = XS == 0;
  constexpr int kStageBytes = SB * kBlockBytes, kXBytes = SB * NB * 1024, kSteps = 2 * SB;  // steps of 32 columns
  constexpr int NW = NB / R;  // n8 tiles of a warp
  const int lane = thread_x & 31, warp = thread_x >> 5, warps = (block_threads >> 5) - (kRow ? 0 : 1), stages = p.k_padded / (kBlockCols * SB), strips = (p.n + 15) / 16;
  const int group = warp / R, part = warp % R, groups = warps / R;
  uint64_t *x_full = reinterpret_cast<uint64_t *>(shared), *x_empty = x_full + XS;
  unsigned char *x_ring = shared + kBarrierBytes, *w_ring = x_ring + (kRow ? p.k_padded * 2 : XS * kXBytes) + group * (WS * kStageBytes);
  if (thread_x == 0) {
    if (kRow) {
      barrier_init(x_full, 1);
      *reinterpret_cast<Vec4 *>(shared + kZeros) = {0, 0, 0, 0};
    }
    for (int i = 0; i < XS; i++) {
      barrier_init(x_full + i, 1);
      barrier_init(x_empty + i, warps);
    }
    barrier_init_fence();
  }
  sync_block();

  if (!kRow && warp == warps) {  // producer of x
    if (lane == 0) {
      wait_previous();
      Turn t;
      bool first = true;
      for (int pass = 0; pass < s.passes; pass++)
        for (int i = 0; i < stages; i++) {
          if (!first) barrier_wait(x_empty + t.slot, t.parity ^ 1);
          barrier_expect(x_full + t.slot, kXBytes);
          UNROLL for (int j = 0; j < SB; j++) copy_box(x_ring + t.slot * kXBytes + j * (NB * 1024), &s.x_map, x_full + t.slot, (i * SB + j) * kBlockCols, 0);
          t.next(XS);
          first = first && t.slot != 0;
        }
    }
    sync_warp();
    return;
  }

  // Strip of a pass; the warp's stages are numbered through all passes.
  auto strip_of = [&](int pass) { return (pass * groups + group) * grid_x + block_x; };
  int mine = 0;  // passes in which the group has a strip: the first ones
  while (mine < s.passes && strip_of(mine) < strips) mine++;
  const int total = mine * stages;
  // The next stage to load: its address, the stages left in its strip and in all, its slot.
  const int64_t strip_bytes = int64_t(stages) * kStageBytes;
  const unsigned char *from = static_cast<const unsigned char *>(p.w) + strip_of(0) * strip_bytes + lane * 16;
  int left = stages, to_load = total, load_slot = 0;
  constexpr int kMine = 4 * SB / R;  // copies of a stage that are this warp's
  // Copies first..last-1 of them.
  auto load_part = [&](int first, int last) {
    if (to_load <= 0) return;
    const int at = part * 512 + load_slot * kStageBytes;
    UNROLL for (int j = first; j < last; j++) copy16(w_ring + lane * 16 + at + j * (R * 512), from + part * 512 + j * (R * 512), true);
  };
  auto load_end = [&] {
    copy_commit();
    if (warp == 0 && to_load == 1) overlap_next();
    to_load--;
    from += kStageBytes;
    if (--left == 0) {
      left = stages;
      from += (int64_t(groups) * grid_x - 1) * strip_bytes;
    }
    load_slot = (load_slot + 1) % WS;
  };
  for (int i = 0; i < WS; i++) {
    load_part(0, kMine);
    load_end();
  }
  if (kRow && s.norm) {
    normalise_row(s, x_ring, reinterpret_cast<float *>(shared + kScratch), warp, warps, lane);
  } else {
    wait_previous();  // the epilogue reads the residual
    if (kRow) {
      if (thread_x == 0) {
        barrier_expect(x_full, p.k_padded * 2);
        copy_bytes(x_ring, p.x, p.k_padded * 2, x_full);
      }
      sync_warp();
      barrier_wait(x_full, 0);
    }
  }

  int offset[4], x_offset[2];  // of this lane's rows in a block, by step of 16 (x: 32) columns
  UNROLL for (int k = 0; k < 4; k++) offset[k] = fragment_at(k, lane);
  const bool first_row = (lane & 7) == 0;
  UNROLL for (int k = 0; k < 2; k++) {
    if (kRow) x_offset[k] = first_row ? (k * 4 + (lane >> 3)) * 16 : 0;
    else x_offset[k] = part * (NW * 1024) + (lane & 7) * 128 + (((k * 4 + (lane >> 3)) ^ (lane & 7)) << 4);
  }
  const int x_block = kRow ? (first_row ? 128 : 0) : NB * 1024;
  uint32_t a[2][2][4], b[2][NW][4];  // fragments of 32 columns, current and next
  int slot = 0, x_stage = 0;             // of the stage that fetch reads
  Turn xt;
  auto fetch = [&](int step, int into) {
    const unsigned char *w = w_ring + slot * kStageBytes + (step >> 1) * kBlockBytes;
    const unsigned char *x = (kRow ? (first_row ? x_ring + x_stage * (SB * 128) : shared + kZeros) : x_ring + xt.slot * kXBytes) + (step >> 1) * x_block;
    ldmatrix(a[into][0], w + offset[(step & 1) * 2]);
    ldmatrix(a[into][1], w + offset[(step & 1) * 2 + 1]);
    UNROLL for (int n = 0; n < NW; n++) ldmatrix(b[into][n], x + n * 1024 + x_offset[step & 1]);
  };
  float acc[NW][4] = {};
  auto multiply = [&](int from_set) {
    UNROLL for (int k = 0; k < 2; k++)
      UNROLL for (int n = 0; n < NW; n++) mma(acc[n], a[from_set][k], b[from_set][n][k * 2], b[from_set][n][k * 2 + 1]);
  };
  // Waits for the stage in slot: for this lane's copies, then all lanes' of the group, and for x.
  auto arrived = [&] {
    copy_wait<WS - 2>();
    if (R == 1) sync_warp();
    else sync_group(1 + group, 32 * R);
    if (!kRow) barrier_wait(x_full + xt.slot, xt.parity);
  };
  auto release = [&](int x_slot) {
    if (!kRow && lane == 0) barrier_arrive(x_empty + x_slot);
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
        slot = (slot + 1) % WS;
        if (kRow) x_stage = x_stage + 1 < stages ? x_stage + 1 : 0;
        else xt.next(XS);
        if (i + 1 < total) {
          arrived();
          fetch(0, 0);
        }
      }
      multiply(step & 1);
      // The products of the stage before this one have been issued: its x may go.
      if (step == 0 && i > 0) release(done);
      if (step + 1 < kSteps && i > 0) load_part(kMine * step / (kSteps - 1), kMine * (step + 1) / (kSteps - 1));
    }
    if (++in_strip < stages) continue;
    // Sums of outputs lane/4 and lane/4+8 of a strip, rows 2*(lane%4) and the next.
    in_strip = 0;
    const int strip = strip_of(pass), n0 = strip * 16 + (lane >> 2);
    UNROLL for (int n = 0; n < NW; n++)
      UNROLL for (int j = 0; j < 2; j++) {
        const int row = (part * NW + n) * 8 + (lane & 3) * 2 + j;
        if (p.gated == GATED_PRODUCT) {
          write_gated(p, row, strip * 8 + (lane >> 2), acc[n][j], acc[n][2 + j]);
        } else {
          write_one(p, row, n0, acc[n][j]);
          write_one(p, row, n0 + 8, acc[n][2 + j]);
        }
        acc[n][j] = acc[n][2 + j] = 0.f;
      }
    pass++;
  }
  copy_wait<0>();
  if (!kRow) {
    if (total > 0) release(done);
    // Passes without a strip: the others still wait for this warp to let x go.
    for (int i = total; i < s.passes * stages; i++, xt.next(XS)) {
      barrier_wait(x_full + xt.slot, xt.parity);
      release(xt.slot);
    }
    sync_warp();
  }
}

}  // namespace

// By the most rows, the columns of a stage, and the warps that share a strip.
KERNEL(linear_stream_row_128, LinearStreamParams, 192, 1) { stream<1, 2, 0, 1, 8>(p); }
KERNEL(linear_stream_row_256, LinearStreamParams, 96, 1) { stream<1, 4, 0, 1, 8>(p); }
KERNEL(linear_stream_8_128, LinearStreamParams, 224, 1) { stream<1, 2, 4, 1, 8>(p); }
KERNEL(linear_stream_8_256, LinearStreamParams, 128, 1) { stream<1, 4, 4, 1, 8>(p); }
KERNEL(linear_stream_16_128, LinearStreamParams, 224, 1) { stream<2, 2, 4, 1, 8>(p); }
KERNEL(linear_stream_16_256_2, LinearStreamParams, 224, 1) { stream<2, 4, 4, 2, 8>(p); }
KERNEL(linear_stream_32_128, LinearStreamParams, 288, 1) { stream<4, 2, 4, 1, 4>(p); }
KERNEL(linear_stream_32_256_2, LinearStreamParams, 224, 1) { stream<4, 4, 4, 2, 4>(p); }
KERNEL(linear_stream_64_128_2, LinearStreamParams, 416, 1) { stream<8, 2, 4, 2, 4>(p); }
KERNEL(linear_stream_64_256_4, LinearStreamParams, 288, 1) { stream<8, 4, 4, 4, 4>(p); }
