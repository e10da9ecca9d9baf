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
#include "linear.cuh"

namespace {

constexpr int kBM = 128, kBK = 64;
constexpr int kXBytes = kBM * kBK * 2;
constexpr int kChunk = 32, kPitch = 40;  // columns of the epilogue's exchange buffer, floats between its rows

DEVICE void barrier_init(uint64_t *b, int count) { asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(count)); }
DEVICE void barrier_wait(uint64_t *b, uint32_t parity) {
  asm volatile("{\n.reg .pred p;\nWAIT_%=:\nmbarrier.try_wait.parity.shared.b64 p, [%0], %1;\n@p bra DONE_%=;\nbra WAIT_%=;\nDONE_%=:\n}" ::"r"(shared_address(b)), "r"(parity) : "memory");
}
DEVICE void barrier_expect(uint64_t *b, int bytes) { asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes) : "memory"); }
// Arrives at the same barrier of cta `rank` of the cluster. Nothing is published by
// it (the products that read the slot have ended), so it must not be a release at
// cluster scope: that is a fence of the whole device, at every stage.
DEVICE void barrier_arrive_at(uint64_t *b, int rank) {
  asm volatile("{\n.reg .b32 a;\nmapa.shared::cluster.u32 a, %0, %1;\nmbarrier.arrive.shared::cluster.b64 _, [a];\n}" ::"r"(shared_address(b)), "r"(rank) : "memory");
}
DEVICE int cluster_rank() { int r; asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r)); return r; }
DEVICE void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
DEVICE void copy_rows(void *dst, const tensormap *map, int k, int row, uint64_t *done) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(shared_address(dst)), "l"(map), "r"(k), "r"(row), "r"(shared_address(done)) : "memory");
}
// Copies blocks of neighbouring strips to both ctas of the cluster.
DEVICE void copy_strips(void *dst, const tensormap *map, int strip, int block, uint64_t *done) {
  asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %2, %3, %4}], [%5], %6;" ::"r"(shared_address(dst)), "l"(map), "r"(0), "r"(strip), "r"(block), "r"(shared_address(done)), "h"(uint16_t(3)) : "memory");
}

// Matrix descriptor: start address and bytes between groups of 8 rows in units of 16,
// and the 128-byte swizzle.
DEVICE uint64_t descriptor(uint32_t a) { return uint64_t((a & 0x3ffff) >> 4) | 1ull << 16 | 64ull << 32 | 1ull << 62; }

// d[64 x 128] (+)= x[64 x 16] w[128 x 16]^T.
DEVICE void wgmma(float (&d)[64], uint64_t x, uint64_t w, int accumulate) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\nwgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
               "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
               "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
               "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
               "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
               "}, %64, %65, p, 1, 1, 0, 0;\n}"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
                 "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
                 "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
                 "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
                 "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),
                 "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
                 "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
                 "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
               : "l"(x), "l"(w), "r"(accumulate));
}
// d[64 x 192] (+)= x[64 x 16] w[192 x 16]^T.
DEVICE void wgmma(float (&d)[96], uint64_t x, uint64_t w, int accumulate) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %98, 0;\nwgmma.mma_async.sync.aligned.m64n192k16.f32.bf16.bf16 {"
               "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
               "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
               "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
               "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
               "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
               "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
               "}, %96, %97, p, 1, 1, 0, 0;\n}"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
                 "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
                 "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
                 "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
                 "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),
                 "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
                 "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
                 "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63]),
                 "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71]),
                 "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79]),
                 "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87]),
                 "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91]), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95])
               : "l"(x), "l"(w), "r"(accumulate));
}
// d[64 x 256] (+)= x[64 x 16] w[256 x 16]^T.
DEVICE void wgmma(float (&d)[128], uint64_t x, uint64_t w, int accumulate) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\nwgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
               "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
               "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
               "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
               "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
               "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
               "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
               "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
               "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
               "}, %128, %129, p, 1, 1, 0, 0;\n}"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
                 "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
                 "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
                 "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
                 "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),
                 "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
                 "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
                 "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63]),
                 "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71]),
                 "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79]),
                 "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87]),
                 "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91]), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95]),
                 "+f"(d[96]), "+f"(d[97]), "+f"(d[98]), "+f"(d[99]), "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103]),
                 "+f"(d[104]), "+f"(d[105]), "+f"(d[106]), "+f"(d[107]), "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), "+f"(d[111]),
                 "+f"(d[112]), "+f"(d[113]), "+f"(d[114]), "+f"(d[115]), "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119]),
                 "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123]), "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])
               : "l"(x), "l"(w), "r"(accumulate));
}

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
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  cluster_sync();
  overlap_next();
  if (group == 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
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
          copy_rows(x, &maps.x_map, s * kBK, row0, full + slot);
          // This cta's half of the strips.
          copy_strips(w + rank * (kWBytes / 2), &maps.w_map, col0 / 16 + rank * (BN / 32), s, full + slot);
        }
      }
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
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
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
        UNROLL for (int k = 0; k < 4; k++) wgmma(d, descriptor(x) + k * 2, descriptor(w) + k * 2, s | k);
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        if (s > 0) {
          asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
          release(q - 1);
        }
      }
      asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
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
