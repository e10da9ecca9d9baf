// What only Hopper has, as small functions: PTX on the device (sm_90a), the
// simulator's model of it elsewhere (sim/native/async.cc).
//
// Barriers lie in shared memory. A phase of one ends when all its arrivals have come
// and all bytes that were announced; barrier_wait(b, parity) waits for the end of the
// phase of that parity (the first is 0), so a wait with parity 1 on a new barrier
// does not wait.
//
// Copies by a tensor map bring a box to shared memory (128-byte aligned), with zeros
// for elements outside the tensor, and count all bytes of the box down at `done`.
// With the 128-byte swizzle, bits 4-6 of a byte's address are xored with bits 7-9.
//
// Products: d[64 x N] (+)= a[64 x 16] b[N x 16]^T, bf16 operands, f32 sums, by the 128
// threads of a warpgroup (a multiple of 4 warps). d[j*4 + i] of lane l of warp w is row
// 16w + l/4 + i/2*8, column 8j + l%4*2 + i%2. `a` in registers is the fragment of mma.
//
//   wgmma_fence(); wgmma(d, ...); ...; wgmma_commit(); ...; wgmma_wait<0>();
//
// Between the first product and the wait neither d nor `a` in registers may be touched.
#pragma once
#include "params.cuh"

// Majors of an operand in shared memory: neighbours in memory lie along k, or along
// its rows (m or n: "transposed").
enum { K_MAJOR = 0, MN_MAJOR = 1 };
// Swizzles of a matrix descriptor.
enum { SWIZZLE_NONE = 0, SWIZZLE_128 = 1, SWIZZLE_64 = 2, SWIZZLE_32 = 3 };

// Matrix descriptor: start address and two offsets, in bytes, multiples of 16.
//   K_MAJOR, swizzled:  8 rows of 32/64/128 bytes (16/32/64 of k), `stride` from one 8 rows to the next; leading unused.
//   MN_MAJOR, swizzled: 8 of k, each a line of 32/64/128 bytes (16/32/64 of m or n); `stride` from one 8 of k to the
//                       next, `leading` from one such width of m or n to the next.
//   Without swizzle the unit is 8 lines of 16 bytes. K_MAJOR: `leading` between units along k, `stride` along the
//                       rows; MN_MAJOR: `leading` along k, `stride` along m or n.
// A swizzled unit of 8 lines begins on a multiple of its size. Steps of k inside a
// K_MAJOR line advance the start by 32 bytes, which is 2 in the descriptor.
DEVICE uint64_t descriptor(uint32_t start, int leading, int stride, int swizzle) {
  return uint64_t((start & 0x3ffff) >> 4) | uint64_t((leading & 0x3ffff) >> 4) << 16 | uint64_t((stride & 0x3ffff) >> 4) << 32 | uint64_t(swizzle) << 62;
}
// Of rows of 128 bytes (64 of k) with the 128-byte swizzle, as copies by a tensor map leave them.
DEVICE uint64_t descriptor(uint32_t start) { return descriptor(start, 16, 1024, SWIZZLE_128); }

#ifdef MC_SIM

#include "hopper.h"  // of sim/native

#else  // device

DEVICE void barrier_init(uint64_t *b, int count) { asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(count)); }
// Shows initialised barriers to the copy engine and the cluster; a sync follows.
DEVICE void barrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
// Arrives, and announces bytes that copies will bring in this phase.
DEVICE void barrier_expect(uint64_t *b, int bytes) { asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes) : "memory"); }
DEVICE void barrier_arrive(uint64_t *b) { asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(shared_address(b)) : "memory"); }
// Arrives at the same barrier of cta `rank` of the cluster. Nothing is published by
// it (the products that read the slot have ended), so it must not be a release at
// cluster scope: that is a fence of the whole device, at every stage.
DEVICE void barrier_arrive_at(uint64_t *b, int rank) {
  asm volatile("{\n.reg .b32 a;\nmapa.shared::cluster.u32 a, %0, %1;\nmbarrier.arrive.shared::cluster.b64 _, [a];\n}" ::"r"(shared_address(b)), "r"(rank) : "memory");
}
// Whether the phase has ended; may wait a while first.
DEVICE bool barrier_try(uint64_t *b, uint32_t parity) {
  uint32_t ended;
  asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared.b64 p, [%1], %2;\nselp.b32 %0, 1, 0, p;\n}" : "=r"(ended) : "r"(shared_address(b)), "r"(parity) : "memory");
  return ended;
}
// MC_BOUNDED_WAIT (cu2go -define) makes a wait of two seconds a trap: for the first
// runs of a new kernel, where a mistake would else hang the device.
DEVICE void barrier_wait(uint64_t *b, uint32_t parity) {
#ifdef MC_BOUNDED_WAIT
  uint64_t from, now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(from));
  while (!barrier_try(b, parity)) {
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    if (now - from > 2000000000ull) asm volatile("trap;");
  }
#else
  asm volatile("{\n.reg .pred p;\nWAIT_%=:\nmbarrier.try_wait.parity.shared.b64 p, [%0], %1;\n@p bra DONE_%=;\nbra WAIT_%=;\nDONE_%=:\n}" ::"r"(shared_address(b)), "r"(parity) : "memory");
#endif
}
// Arrives when all copy16 of this thread so far have landed; counts as one of the arrivals.
DEVICE void copy_arrive(uint64_t *b) { asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(shared_address(b)) : "memory"); }

DEVICE int cluster_rank() { int r; asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r)); return r; }
DEVICE void cluster_arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
DEVICE void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }

// Copies the box at (c0, c1, ...), elements, innermost first.
DEVICE void copy_box(void *dst, const tensormap *map, uint64_t *done, int c0, int c1) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(shared_address(dst)), "l"(map), "r"(c0), "r"(c1), "r"(shared_address(done)) : "memory");
}
DEVICE void copy_box(void *dst, const tensormap *map, uint64_t *done, int c0, int c1, int c2) {
  asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];" ::"r"(shared_address(dst)), "l"(map), "r"(c0), "r"(c1), "r"(c2), "r"(shared_address(done)) : "memory");
}
DEVICE void copy_box(void *dst, const tensormap *map, uint64_t *done, int c0, int c1, int c2, int c3) {
  asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], [%6];" ::"r"(shared_address(dst)), "l"(map), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(shared_address(done)) : "memory");
}
DEVICE void copy_box(void *dst, const tensormap *map, uint64_t *done, int c0, int c1, int c2, int c3, int c4) {
  asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5, %6}], [%7];" ::"r"(shared_address(dst)), "l"(map), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4), "r"(shared_address(done)) : "memory");
}
// The same to each cta of the cluster whose bit is set, at the same place, with its own `done`.
DEVICE void copy_box_to(int ctas, void *dst, const tensormap *map, uint64_t *done, int c0, int c1) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(shared_address(dst)), "l"(map), "r"(c0), "r"(c1), "r"(shared_address(done)), "h"(uint16_t(ctas)) : "memory");
}
DEVICE void copy_box_to(int ctas, void *dst, const tensormap *map, uint64_t *done, int c0, int c1, int c2) {
  asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3, %4}], [%5], %6;" ::"r"(shared_address(dst)), "l"(map), "r"(c0), "r"(c1), "r"(c2), "r"(shared_address(done)), "h"(uint16_t(ctas)) : "memory");
}
DEVICE void copy_box_to(int ctas, void *dst, const tensormap *map, uint64_t *done, int c0, int c1, int c2, int c3) {
  asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3, %4, %5}], [%6], %7;" ::"r"(shared_address(dst)), "l"(map), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(shared_address(done)), "h"(uint16_t(ctas)) : "memory");
}
DEVICE void copy_box_to(int ctas, void *dst, const tensormap *map, uint64_t *done, int c0, int c1, int c2, int c3, int c4) {
  asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3, %4, %5, %6}], [%7], %8;" ::"r"(shared_address(dst)), "l"(map), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4), "r"(shared_address(done)), "h"(uint16_t(ctas)) : "memory");
}
// Copies bytes, a multiple of 16, between 16-byte aligned addresses.
DEVICE void copy_bytes(void *dst, const void *src, int bytes, uint64_t *done) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_address(dst)), "l"(src), "r"(bytes), "r"(shared_address(done)) : "memory");
}
// Stores a box from shared memory; elements outside the tensor are dropped.
DEVICE void store_box(const tensormap *map, const void *src, int c0, int c1) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%1, {%2, %3}], [%0];" ::"r"(shared_address(src)), "l"(map), "r"(c0), "r"(c1) : "memory");
}
DEVICE void store_box(const tensormap *map, const void *src, int c0, int c1, int c2) {
  asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%1, {%2, %3, %4}], [%0];" ::"r"(shared_address(src)), "l"(map), "r"(c0), "r"(c1), "r"(c2) : "memory");
}
DEVICE void store_box(const tensormap *map, const void *src, int c0, int c1, int c2, int c3) {
  asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%1, {%2, %3, %4, %5}], [%0];" ::"r"(shared_address(src)), "l"(map), "r"(c0), "r"(c1), "r"(c2), "r"(c3) : "memory");
}
DEVICE void store_box(const tensormap *map, const void *src, int c0, int c1, int c2, int c3, int c4) {
  asm volatile("cp.async.bulk.tensor.5d.global.shared::cta.bulk_group [%1, {%2, %3, %4, %5, %6}], [%0];" ::"r"(shared_address(src)), "l"(map), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4) : "memory");
}
DEVICE void store_bytes(void *dst, const void *src, int bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(dst), "r"(shared_address(src)), "r"(bytes) : "memory");
}
// Stores since the last commit are a group of this thread; at most N groups stay
// under way: their source may not be written yet, or their result not be visible.
DEVICE void store_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
template <int N> DEVICE void store_wait_read() { asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory"); }
template <int N> DEVICE void store_wait() { asm volatile("cp.async.bulk.wait_group %0;" ::"n"(N) : "memory"); }
DEVICE void prefetch_map(const tensormap *map) { asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory"); }
// Brings bytes, a multiple of 16, to the L2 cache.
DEVICE void prefetch_bytes(const void *src, int bytes) { asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(src), "r"(bytes) : "memory"); }
// Shows this thread's ordinary writes of shared memory to products and copies: before
// the barrier that hands them over.
DEVICE void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Barriers of some warps of a cta: id 1..15, threads a multiple of 32 (all that sync or arrive).
DEVICE void sync_group(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
DEVICE void arrive_group(int id, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
// Registers of each thread of the warpgroup, a multiple of 8; take waits until others gave.
template <int N> DEVICE void give_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N)); }
template <int N> DEVICE void take_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N)); }

// The inverse of ldmatrix.
DEVICE void stmatrix(void *row, const uint32_t *r) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(shared_address(row)), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]) : "memory");
}
DEVICE void stmatrix_t(void *row, const uint32_t *r) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(shared_address(row)), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]) : "memory");
}

DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most N groups of products are under way.
template <int N> DEVICE void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }
// Keeps the compiler from moving uses of the sums across this place.
template <int R> DEVICE void pin(float (&d)[R]) {
  UNROLL for (int i = 0; i < R; i++) asm volatile("" : "+f"(d[i])::"memory");
}

// The registers of d[64 x N], in an instruction's text and as operands.
#define MC_TEXT_8 "%0, %1, %2, %3"
#define MC_TEXT_16 MC_TEXT_8 ", %4, %5, %6, %7"
#define MC_TEXT_24 MC_TEXT_16 ", %8, %9, %10, %11"
#define MC_TEXT_32 MC_TEXT_24 ", %12, %13, %14, %15"
#define MC_TEXT_40 MC_TEXT_32 ", %16, %17, %18, %19"
#define MC_TEXT_48 MC_TEXT_40 ", %20, %21, %22, %23"
#define MC_TEXT_56 MC_TEXT_48 ", %24, %25, %26, %27"
#define MC_TEXT_64 MC_TEXT_56 ", %28, %29, %30, %31"
#define MC_TEXT_72 MC_TEXT_64 ", %32, %33, %34, %35"
#define MC_TEXT_80 MC_TEXT_72 ", %36, %37, %38, %39"
#define MC_TEXT_88 MC_TEXT_80 ", %40, %41, %42, %43"
#define MC_TEXT_96 MC_TEXT_88 ", %44, %45, %46, %47"
#define MC_TEXT_104 MC_TEXT_96 ", %48, %49, %50, %51"
#define MC_TEXT_112 MC_TEXT_104 ", %52, %53, %54, %55"
#define MC_TEXT_120 MC_TEXT_112 ", %56, %57, %58, %59"
#define MC_TEXT_128 MC_TEXT_120 ", %60, %61, %62, %63"
#define MC_TEXT_136 MC_TEXT_128 ", %64, %65, %66, %67"
#define MC_TEXT_144 MC_TEXT_136 ", %68, %69, %70, %71"
#define MC_TEXT_152 MC_TEXT_144 ", %72, %73, %74, %75"
#define MC_TEXT_160 MC_TEXT_152 ", %76, %77, %78, %79"
#define MC_TEXT_168 MC_TEXT_160 ", %80, %81, %82, %83"
#define MC_TEXT_176 MC_TEXT_168 ", %84, %85, %86, %87"
#define MC_TEXT_184 MC_TEXT_176 ", %88, %89, %90, %91"
#define MC_TEXT_192 MC_TEXT_184 ", %92, %93, %94, %95"
#define MC_TEXT_200 MC_TEXT_192 ", %96, %97, %98, %99"
#define MC_TEXT_208 MC_TEXT_200 ", %100, %101, %102, %103"
#define MC_TEXT_216 MC_TEXT_208 ", %104, %105, %106, %107"
#define MC_TEXT_224 MC_TEXT_216 ", %108, %109, %110, %111"
#define MC_TEXT_232 MC_TEXT_224 ", %112, %113, %114, %115"
#define MC_TEXT_240 MC_TEXT_232 ", %116, %117, %118, %119"
#define MC_TEXT_248 MC_TEXT_240 ", %120, %121, %122, %123"
#define MC_TEXT_256 MC_TEXT_248 ", %124, %125, %126, %127"
#define MC_SUMS_8 "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
#define MC_SUMS_16 MC_SUMS_8, "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
#define MC_SUMS_24 MC_SUMS_16, "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11])
#define MC_SUMS_32 MC_SUMS_24, "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
#define MC_SUMS_40 MC_SUMS_32, "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19])
#define MC_SUMS_48 MC_SUMS_40, "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23])
#define MC_SUMS_56 MC_SUMS_48, "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27])
#define MC_SUMS_64 MC_SUMS_56, "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
#define MC_SUMS_72 MC_SUMS_64, "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35])
#define MC_SUMS_80 MC_SUMS_72, "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39])
#define MC_SUMS_88 MC_SUMS_80, "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43])
#define MC_SUMS_96 MC_SUMS_88, "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47])
#define MC_SUMS_104 MC_SUMS_96, "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51])
#define MC_SUMS_112 MC_SUMS_104, "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55])
#define MC_SUMS_120 MC_SUMS_112, "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59])
#define MC_SUMS_128 MC_SUMS_120, "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
#define MC_SUMS_136 MC_SUMS_128, "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67])
#define MC_SUMS_144 MC_SUMS_136, "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71])
#define MC_SUMS_152 MC_SUMS_144, "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75])
#define MC_SUMS_160 MC_SUMS_152, "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79])
#define MC_SUMS_168 MC_SUMS_160, "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83])
#define MC_SUMS_176 MC_SUMS_168, "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87])
#define MC_SUMS_184 MC_SUMS_176, "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91])
#define MC_SUMS_192 MC_SUMS_184, "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95])
#define MC_SUMS_200 MC_SUMS_192, "+f"(d[96]), "+f"(d[97]), "+f"(d[98]), "+f"(d[99])
#define MC_SUMS_208 MC_SUMS_200, "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103])
#define MC_SUMS_216 MC_SUMS_208, "+f"(d[104]), "+f"(d[105]), "+f"(d[106]), "+f"(d[107])
#define MC_SUMS_224 MC_SUMS_216, "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), "+f"(d[111])
#define MC_SUMS_232 MC_SUMS_224, "+f"(d[112]), "+f"(d[113]), "+f"(d[114]), "+f"(d[115])
#define MC_SUMS_240 MC_SUMS_232, "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119])
#define MC_SUMS_248 MC_SUMS_240, "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123])
#define MC_SUMS_256 MC_SUMS_248, "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])
// Products for N columns; i0.. number the operands after d. A major of an operand is an
// argument of the template; `a` in registers is always as mma has it.
#define MC_WGMMA(N, i0, i1, i2, i3, i4, i5, i6)                                                                              \
  template <int B = K_MAJOR, int A = K_MAJOR> DEVICE void wgmma(float (&d)[N / 2], uint64_t a, uint64_t b, int accumulate) { \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #i2 ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" \
                 MC_TEXT_##N "}, %" #i0 ", %" #i1 ", p, 1, 1, %" #i3 ", %" #i4 ";\n}"                                       \
                 : MC_SUMS_##N : "l"(a), "l"(b), "r"(accumulate), "n"(A), "n"(B));                                           \
  }                                                                                                                          \
  template <int B = K_MAJOR> DEVICE void wgmma(float (&d)[N / 2], const uint32_t *a, uint64_t b, int accumulate) {           \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #i5 ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" \
                 MC_TEXT_##N "}, {%" #i0 ", %" #i1 ", %" #i2 ", %" #i3 "}, %" #i4 ", p, 1, 1, %" #i6 ";\n}"                  \
                 : MC_SUMS_##N : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(B));               \
  }
MC_WGMMA(8, 4, 5, 6, 7, 8, 9, 10)
MC_WGMMA(16, 8, 9, 10, 11, 12, 13, 14)
MC_WGMMA(24, 12, 13, 14, 15, 16, 17, 18)
MC_WGMMA(32, 16, 17, 18, 19, 20, 21, 22)
MC_WGMMA(40, 20, 21, 22, 23, 24, 25, 26)
MC_WGMMA(48, 24, 25, 26, 27, 28, 29, 30)
MC_WGMMA(56, 28, 29, 30, 31, 32, 33, 34)
MC_WGMMA(64, 32, 33, 34, 35, 36, 37, 38)
MC_WGMMA(72, 36, 37, 38, 39, 40, 41, 42)
MC_WGMMA(80, 40, 41, 42, 43, 44, 45, 46)
MC_WGMMA(88, 44, 45, 46, 47, 48, 49, 50)
MC_WGMMA(96, 48, 49, 50, 51, 52, 53, 54)
MC_WGMMA(104, 52, 53, 54, 55, 56, 57, 58)
MC_WGMMA(112, 56, 57, 58, 59, 60, 61, 62)
MC_WGMMA(120, 60, 61, 62, 63, 64, 65, 66)
MC_WGMMA(128, 64, 65, 66, 67, 68, 69, 70)
MC_WGMMA(136, 68, 69, 70, 71, 72, 73, 74)
MC_WGMMA(144, 72, 73, 74, 75, 76, 77, 78)
MC_WGMMA(152, 76, 77, 78, 79, 80, 81, 82)
MC_WGMMA(160, 80, 81, 82, 83, 84, 85, 86)
MC_WGMMA(168, 84, 85, 86, 87, 88, 89, 90)
MC_WGMMA(176, 88, 89, 90, 91, 92, 93, 94)
MC_WGMMA(184, 92, 93, 94, 95, 96, 97, 98)
MC_WGMMA(192, 96, 97, 98, 99, 100, 101, 102)
MC_WGMMA(200, 100, 101, 102, 103, 104, 105, 106)
MC_WGMMA(208, 104, 105, 106, 107, 108, 109, 110)
MC_WGMMA(216, 108, 109, 110, 111, 112, 113, 114)
MC_WGMMA(224, 112, 113, 114, 115, 116, 117, 118)
MC_WGMMA(232, 116, 117, 118, 119, 120, 121, 122)
MC_WGMMA(240, 120, 121, 122, 123, 124, 125, 126)
MC_WGMMA(248, 124, 125, 126, 127, 128, 129, 130)
MC_WGMMA(256, 128, 129, 130, 131, 132, 133, 134)

#endif

DEVICE void cluster_sync() {
  cluster_arrive();
  cluster_wait();
}
