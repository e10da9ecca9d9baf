// Linear for many rows on every architecture: a cta computes bm rows x bn outputs,
// 64 columns of k a stage, a ring of stages filled by cp.async, mma.sync.
//
// 128x128 for prefill (bound by the tensor cores, 2*rows*n*k flops); 64x64 and
// 64x32 for decode of 17 to 64 sequences (bound by reading the weights once).
#include "linear.cuh"

namespace {

constexpr int kBK = 64;

// WM x WN warps, each with BM/WM rows and BN/WN outputs.
template <int BM, int BN, int WM, int WN, int STAGES> DEVICE void gemm(const LinearParams &p) {
  constexpr int kThreads = WM * WN * 32, kXBytes = BM * kBK * 2, kWBytes = BN * kBK * 2, kStageBytes = kXBytes + kWBytes;
  constexpr int MI = BM / WM / 16, NI = BN / WN / 8;
  DYNAMIC_SHARED(shared);
  const int lane = thread_x & 31, warp = thread_x >> 5, wm = warp % WM, wn = warp / WM;
  // Tiles in groups of 8 row tiles, so that ctas that run together share operands.
  const int row_tiles = (p.rows + BM - 1) / BM, col_tiles = (p.n + BN - 1) / BN;
  const int per = 8 * col_tiles, first = block_x / per * 8, height = min(8, row_tiles - first), in = block_x % per;
  const int row0 = (first + in % height) * BM, col0 = in / height * BN;
  const int strips = (p.n + 15) / 16, steps = p.k_padded / kBK;
  overlap_next();

  const unsigned char *w = static_cast<const unsigned char *>(p.w);
  auto load_w = [&](int s) {
    unsigned char *to = shared + s % STAGES * kStageBytes + kXBytes;
    UNROLL for (int i = 0; i < kWBytes / 16 / kThreads; i++) {
      // A block of each strip.
      const int c = i * kThreads + thread_x, strip = col0 / 16 + c / 128;
      copy16(to + c * 16, w + (int64_t(min(strip, strips - 1)) * steps + s) * kBlockBytes + c % 128 * 16, strip < strips);
    }
  };
  const bf16 *x = static_cast<const bf16 *>(p.x);
  auto load_x = [&](int s) {
    unsigned char *to = shared + s % STAGES * kStageBytes;
    UNROLL for (int i = 0; i < kXBytes / 16 / kThreads; i++) {
      // Rows of 8 chunks; chunk c of row r lies at c^(r%8), so that ldmatrix meets no bank twice.
      const int c = i * kThreads + thread_x, r = c >> 3, row = row0 + r;
      copy16(to + r * 128 + (((c & 7) ^ (r & 7)) << 4), x + min(row, p.rows - 1) * p.x_stride + s * kBK + (c & 7) * 8, row < p.rows);
    }
  };
  // Weights do not depend on the kernel in front.
  UNROLL for (int s = 0; s < STAGES - 1; s++)
    if (s < steps) load_w(s);
  wait_previous();
  UNROLL for (int s = 0; s < STAGES - 1; s++) {
    if (s < steps) load_x(s);
    copy_commit();
  }
  float acc[MI][NI][4] = {};
  for (int s = 0; s < steps; s++) {
    copy_wait<STAGES - 2>();
    sync_block();
    if (s + STAGES - 1 < steps) {
      load_w(s + STAGES - 1);
      load_x(s + STAGES - 1);
    }
    copy_commit();
    const unsigned char *xs = shared + s % STAGES * kStageBytes, *ws = xs + kXBytes;
    UNROLL for (int k = 0; k < kBK / kStep; k++) {
      uint32_t a[MI][4], b[NI / 2][4];
      UNROLL for (int i = 0; i < MI; i++) {
        const int r = wm * (BM / WM) + i * 16 + (lane & 15), c = k * 2 + (lane >> 4);
        ldmatrix(a[i], xs + r * 128 + ((c ^ (r & 7)) << 4));
      }
      UNROLL for (int j = 0; j < NI / 2; j++) ldmatrix(b[j], ws + (wn * (NI / 2) + j) * kBlockBytes + fragment_at(k, lane));
      UNROLL for (int i = 0; i < MI; i++)
        UNROLL for (int j = 0; j < NI; j++) mma(acc[i][j], a[i], b[j >> 1][j & 1], b[j >> 1][(j & 1) + 2]);
    }
  }
  copy_wait<0>();
  UNROLL for (int i = 0; i < MI; i++)
    UNROLL for (int h = 0; h < 2; h++) {
      const int row = row0 + wm * (BM / WM) + i * 16 + h * 8 + (lane >> 2);
      UNROLL for (int j = 0; j < NI; j++) {
        const int n = col0 + wn * (BN / WN) + j * 8 + (lane & 3) * 2;
        if (p.gated != GATED_PRODUCT) {
          write_pair(p, row, n, acc[i][j][h * 2], acc[i][j][h * 2 + 1]);
        } else if ((j & 1) == 0) {
          // Tile j holds 8 gate rows, tile j+1 their up rows.
          const int m = (col0 + wn * (BN / WN) + j * 8) / 2 + (lane & 3) * 2;
          write_gated(p, row, m, acc[i][j][h * 2], acc[i][(j + 1) % NI][h * 2]);
          write_gated(p, row, m + 1, acc[i][j][h * 2 + 1], acc[i][(j + 1) % NI][h * 2 + 1]);
        }
      }
    }
}

}  // namespace

// Shared bytes: STAGES * (BM + BN) * 128, at most 96 KiB.
KERNEL(linear_gemm_128x128, LinearParams, 256, 1) { gemm<128, 128, 2, 4, 3>(p); }
KERNEL(linear_gemm_64x64, LinearParams, 128, 2) { gemm<64, 64, 2, 2, 6>(p); }
KERNEL(linear_gemm_64x32, LinearParams, 128, 2) { gemm<64, 32, 4, 1, 8>(p); }
