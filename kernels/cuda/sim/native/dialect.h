// The functions of src/dialect.cuh in the simulator; included by it.
#pragma once
#include "sim.h"

#define DEVICE static inline
#define METHOD inline
#define SHARED static  // one for all ctas of a cluster: there for barriers only
#define GLOBAL_CONSTANT const
#define DYNAMIC_SHARED(name) unsigned char *name = sim::shared_memory()
#define SIM_KERNEL(name, P, threads, blocks, cluster)                                                             \
  static void name(const P &p);                                                                                  \
  static sim::Kernel kernel_##name(#name, [](const void *q) { name(*static_cast<const P *>(q)); }, sizeof(P), threads, blocks, cluster); \
  static void name([[maybe_unused]] const P &p)
#define KERNEL(name, P, threads, blocks) SIM_KERNEL(name, P, threads, blocks, 1)
#define CLUSTER_KERNEL(name, P, threads, blocks) SIM_KERNEL(name, P, threads, blocks, 2)
#define thread_x int(sim::thread_index().x)
#define block_x int(sim::block_index().x)
#define block_y int(sim::block_index().y)
#define block_z int(sim::block_index().z)
#define grid_x int(sim::grid_dim.x)
#define block_threads int(sim::block_dim.x)
#define UNROLL

struct alignas(8) Vec2 { uint32_t x, y; };
struct alignas(16) Vec4 { uint32_t x, y, z, w; };

DEVICE float as_float(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }
DEVICE uint32_t as_bits(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }
DEVICE void sync_block() { sim::sync_block(); }
DEVICE void sync_warp() { sim::collective(sim::OP_WARP_SYNC, nullptr, 0); }
DEVICE uint32_t shuffle(uint32_t v, int from) { const uint32_t w[2] = {v, uint32_t(from)}; return sim::collective(sim::OP_SHFL, w, 2)[0]; }
DEVICE void mma(float *c, const uint32_t *a, uint32_t b0, uint32_t b1) {
  const uint32_t w[10] = {a[0], a[1], a[2], a[3], b0, b1, as_bits(c[0]), as_bits(c[1]), as_bits(c[2]), as_bits(c[3])};
  const uint32_t *r = sim::collective(sim::OP_MMA, w, 10);
  for (int i = 0; i < 4; i++) c[i] = as_float(r[i]);
}
DEVICE void ldmatrix(uint32_t *r, const void *row) { memcpy(r, sim::collective(sim::OP_LDSM, nullptr, 0, row), 16); }
DEVICE void ldmatrix_t(uint32_t *r, const void *row) { memcpy(r, sim::collective(sim::OP_LDSM_T, nullptr, 0, row), 16); }
DEVICE void copy16(void *dst, const void *src, bool there) { sim::copy_async(dst, src, there ? 16 : 0); }
DEVICE void copy_commit() { sim::copy_commit(); }
template <int N> DEVICE void copy_wait() { sim::copy_wait(N); }
DEVICE void overlap_next() {}
DEVICE void wait_previous() {}
DEVICE float exp2_fast(float x) { return exp2f(x); }
DEVICE float reciprocal_fast(float x) { return 1.f / x; }
DEVICE float min_nan(float a, float b) { return a != a || a < b ? a : b; }
DEVICE float add_rn(float a, float b) { volatile float r = a + b; return r; }
DEVICE float mul_rn(float a, float b) { volatile float r = a * b; return r; }
DEVICE uint32_t pack_bf16(float lo, float hi) {
  uint32_t r = 0;
  const float v[2] = {lo, hi};
  for (int i = 0; i < 2; i++) {
    uint32_t u = as_bits(v[i]);
    u = v[i] != v[i] ? 0x7fff : (u + 0x7fff + ((u >> 16) & 1)) >> 16;
    r |= u << (16 * i);
  }
  return r;
}
DEVICE float from_f16(uint16_t h) { _Float16 f; memcpy(&f, &h, 2); return float(f); }
DEVICE int min(int a, int b) { return a < b ? a : b; }
DEVICE int max(int a, int b) { return a > b ? a : b; }
