// Linear on Hopper: operands move by the bulk copy engine (tensor maps), products
// by wgmma. For many rows: prefill and the vision encoder.
//
// archs: sm_90a
//
// A cta computes 128 rows x BN outputs, 64 columns of k a stage. Warpgroup 0 is the
// producer (one thread issues copies), 1 and 2 are consumers of 64 rows each with
// the sums in registers. The grid is persistent: ctas walk the tiles with the row
// tiles innermost, so that a strip of the weight is read from memory once.
//
// Two ctas form a cluster: they take neighbouring row tiles and the same outputs.
// Each copies half of the weight tile to both (multicast), which halves the traffic
// from L2 that would otherwise bound the kernel.
//
// Both operands lie in shared memory as 8 rows of 128 bytes with the 128-byte swizzle:
// the weight is stored so (linear.cuh), rows of x are swizzled by the copy.
// Sums run over k in steps of 16 into one accumulator, as in every other kernel.
#include "hopper.cuh"
#include "linear.cuh"

namespace {

constexpr int kBM = 128, kBK = 64;
constexpr int kXBytes = kBM * kBK * 2;
constexpr int kChunk = 32, kPitch = 40;  // columns of the epilogue's exchange buffer, floats between its rows

// Finishes 16 neighbouring columns of a row; n is the first, a multiple of 16.
DEVICE void finish_run(const LinearParams &p, int row, int n, const float *v) {
  if (row >= p.rows || n >= p.n) return;
  if (p.gated == GATED_PRODUCT && p.vec) {
    float o[8];
    UNROLL for (int i = 0; i < 8; i++) o[i] = gated_product(p, v[i], v[8 + i]);
    store8(p.out, p.out_dt, row * p.out_stride + n / 2, o);
    return;
  }
  if (p.gated || n + 16 > p.n || !p.vec) {
    for (int i = 0; i < 16; i++) {
      if (p.gated != GATED_PRODUCT) write_one(p, row, n + i, v[i]);
      else if (i < 8) write_gated(p, row, n / 2 + i, v[i], v[8 + i]);
    }
    return;
  }
  UNROLL for (int h = 0; h < 16; h += 8) {
    float y[8], t[8], s[8];
    UNROLL for (int i = 0; i < 8; i++) y[i] = v[h + i];
    if (p.bias) {
      load8(p.bias, DT_F32, n + h, t);
      UNROLL for (int i = 0; i < 8; i++) y[i] = add_rn(y[i], t[i]);
    }
    UNROLL for (int i = 0; i < 8; i++) y[i] = activate(y[i], p.act);
    if (p.residual) {
      load8(p.residual, p.out_dt, row * p.residual_stride + n + h, t);
      if (p.layer_scale) {
        load8(p.layer_scale, DT_F32, n + h, s);
        UNROLL for (int i = 0; i < 8; i++) y[i] = fmaf(s[i], y[i], t[i]);
      } else {
        UNROLL for (int i = 0; i < 8; i++) y[i] = add_rn(t[i], y[i]);
      }
    }
    store8(p.out, p.out_dt, row * p.out_stride + n + h, y);
  }
}

// BN outputs a tile, STAGES in the ring.
template <int BN, int STAGES> DEVICE void gemm(const LinearMapParams &maps) {
  const LinearParams &p = maps.linear;
  constexpr int kWBytes = BN * kBK * 2, kStageBytes = kXBytes + kWBytes;
  DYNAMIC_SHARED(shared);
  SHARED uint64_t full[STAGES], empty[STAGES];
  const int group = thread_x >> 7, rank = cluster_rank();
  const int row_pairs = ((p.rows + kBM - 1) / kBM + 1) / 2, tiles = row_pairs * ((p.n + BN - 1) / BN), steps = p.k_padded / kBK;
  const int first = block_x >> 1, stride = grid_x >> 1;
  if (thread_x == 0) {
    for (int i = 0; i < STAGES; i++) {
      barrier_init(full + i, 1);
      barrier_init(empty + i, 4);  // two consumers in each of two ctas
    }
    barrier_init_fence();
  }
  cluster_sync();
  overlap_next();
  if (group == 0) {
    give_registers<40>();
    if (thread_x == 0) {
      wait_previous();
      uint32_t q = 0;
      for (int t = first; t < tiles; t += stride) {
        const int row0 = (t % row_pairs * 2 + rank) * kBM, col0 = t / row_pairs * BN;
        for (int s = 0; s < steps; s++, q++) {
          const int slot = q % STAGES;
          if (q >= STAGES) barrier_wait(empty + slot, (q / STAGES - 1) & 1);
          unsigned char *x = shared + slot * kStageBytes, *w = x + kXBytes;
          barrier_expect(full + slot, kStageBytes);
          copy_box(x, &maps.x_map, full + slot, s * kBK, row0);
          // This cta's half of the strips.
          copy_box_to(3, w + rank * (kWBytes / 2), &maps.w_map, full + slot, 0, 0, col0 / 16 + rank * (BN / 32), s);
        }
      }
    }
  } else {
    take_registers<232>();
    wait_previous();
    const int in = thread_x & 127, warp = in >> 5, lane = in & 31;
    float *exchange = reinterpret_cast<float *>(shared + STAGES * kStageBytes) + (group - 1) * 64 * kPitch;
    auto release = [&](uint32_t q) {
      if (in < 2) barrier_arrive_at(empty + q % STAGES, in);
    };
    uint32_t q = 0;
    for (int t = first; t < tiles; t += stride) {
      const int row0 = (t % row_pairs * 2 + rank) * kBM + (group - 1) * 64, col0 = t / row_pairs * BN;
      float d[BN / 2];
      for (int s = 0; s < steps; s++, q++) {
        const int slot = q % STAGES;
        barrier_wait(full + slot, (q / STAGES) & 1);
        const uint32_t x = shared_address(shared + slot * kStageBytes) + (group - 1) * 64 * 128, w = shared_address(shared + slot * kStageBytes + kXBytes);
        wgmma_fence();
        UNROLL for (int k = 0; k < 4; k++) wgmma(d, descriptor(x) + k * 2, descriptor(w) + k * 2, s | k);
        wgmma_commit();
        if (s > 0) {
          wgmma_wait<1>();
          release(q - 1);
        }
      }
      wgmma_wait<0>();
      release(q - 1);
      // Sums of row lane/4 (+8), columns 8j + 2*(lane%4): through shared memory to runs of 16 columns.
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
        float v[16];
        UNROLL for (int i = 0; i < 16; i++) v[i] = exchange[r * kPitch + h + i];
        sync_warp();
        finish_run(p, row0 + r, col0 + c * kChunk + h, v);
      }
    }
  }
  cluster_sync();  // the other cta may still arrive here, or copy to here
}

}  // namespace

// Shared bytes: STAGES * (16 KiB + BN * 128) + 20 KiB.
CLUSTER_KERNEL(linear_wgmma_128, LinearMapParams, 384, 1) { gemm<128, 6>(p); }
CLUSTER_KERNEL(linear_wgmma_192, LinearMapParams, 384, 1) { gemm<192, 5>(p); }
CLUSTER_KERNEL(linear_wgmma_256, LinearMapParams, 384, 1) { gemm<256, 4>(p); }
