// Linear for few rows (decode of 1 to 16 sequences): bound by reading the weight once.
//
// One warp owns 16 outputs and streams their blocks, which are contiguous in
// memory, through a ring in shared memory; the rows of x are the columns of the
// mma. The ring is filled before wait_previous: weights do not depend on the
// kernel in front, so their loads overlap its end.
//
// Moves n*k*2 bytes of weights, k*rows*2 bytes of x per warp (from L2).
#include "linear.cuh"

namespace {

constexpr int kGroup = 4;  // steps of 16 columns in a commit group: one block

// NB: tiles of 8 rows of x. STAGES: commit groups in the ring.
template <int NB, int STAGES> DEVICE void skinny(const LinearParams &p) {
  constexpr int kWeightBytes = kBlockBytes, kXBytes = kGroup * NB * 256, kStageBytes = kWeightBytes + kXBytes;
  DYNAMIC_SHARED(shared);
  const int lane = thread_x & 31, warp = thread_x >> 5, warps = block_threads >> 5;
  unsigned char *ring = shared + warp * (STAGES * kStageBytes);
  const int strip = block_x * warps + warp, groups = p.k_padded / kBlockCols;
  overlap_next();
  if (strip * 16 >= (p.n + 15) / 16 * 16) return;  // the whole warp
  const unsigned char *w = static_cast<const unsigned char *>(p.w) + int64_t(strip) * groups * kBlockBytes + lane * 16;
  auto load_w = [&](int g) {
    unsigned char *to = ring + g % STAGES * kStageBytes + lane * 16;
    UNROLL for (int i = 0; i < kGroup; i++) copy16(to + i * 512, w + int64_t(g) * kBlockBytes + i * 512, true);
  };
  // x of two tiles (32 columns) and 8 rows is 512 bytes: lane = row%8 + 8*(column/8).
  const bf16 *x = static_cast<const bf16 *>(p.x) + (lane >> 3) * 8;
  auto load_x = [&](int g) {
    unsigned char *to = ring + g % STAGES * kStageBytes + kWeightBytes + lane * 16;
    UNROLL for (int n = 0; n < NB; n++) {
      const int row = n * 8 + (lane & 7);
      UNROLL for (int i = 0; i < kGroup / 2; i++) copy16(to + (n * (kGroup / 2) + i) * 512, x + min(row, p.rows - 1) * p.x_stride + (int64_t(g) * kGroup + i * 2) * kStep, row < p.rows);
    }
  };
  const int filled = min(STAGES - 1, groups);
  for (int g = 0; g < filled; g++) load_w(g);
  wait_previous();
  UNROLL for (int g = 0; g < STAGES - 1; g++) {
    if (g < filled) load_x(g);
    copy_commit();
  }
  float acc[NB][4] = {};
  for (int g = 0; g < groups; g++) {
    copy_wait<STAGES - 2>();
    sync_warp();  // all lanes' copies of group g are there, and group g-1 has been read
    if (g + STAGES - 1 < groups) {
      load_w(g + STAGES - 1);
      load_x(g + STAGES - 1);
    }
    copy_commit();
    const unsigned char *at = ring + g % STAGES * kStageBytes;
    UNROLL for (int i = 0; i < kGroup; i += 2) {
      uint32_t a[2][4];
      ldmatrix(a[0], at + fragment_at(i, lane));
      ldmatrix(a[1], at + fragment_at(i + 1, lane));
      UNROLL for (int n = 0; n < NB; n++) {
        uint32_t b[4];
        ldmatrix(b, at + kWeightBytes + (n * (kGroup / 2) + i / 2) * 512 + lane * 16);
        mma(acc[n], a[0], b[0], b[1]);
        mma(acc[n], a[1], b[2], b[3]);
      }
    }
  }
  copy_wait<0>();
  // Accumulator: outputs lane/4 and lane/4+8 of the strip, rows 2*(lane%4) and the next.
  const int n0 = strip * 16 + (lane >> 2);
  UNROLL for (int n = 0; n < NB; n++)
    UNROLL for (int j = 0; j < 2; j++) {
      const int row = n * 8 + (lane & 3) * 2 + j;
      if (p.gated == GATED_PRODUCT) {
        write_gated(p, row, strip * 8 + (lane >> 2), acc[n][j], acc[n][2 + j]);
      } else {
        write_one(p, row, n0, acc[n][j]);
        write_one(p, row, n0 + 8, acc[n][2 + j]);
      }
    }
}

}  // namespace

// Shared bytes a warp: STAGES * 4 * (512 + NB*256).
KERNEL(linear_skinny_8, LinearParams, 128, 1) { skinny<1, 10>(p); }
KERNEL(linear_skinny_16, LinearParams, 128, 1) { skinny<2, 8>(p); }
