// The functions of src/hopper.cuh in the simulator; included by it.
#pragma once
#include "sim.h"

DEVICE uint32_t shared_address(const void *p) { return sim::shared_address(p); }

DEVICE void barrier_init(uint64_t *b, int count) { sim::barrier_init(b, count); }
DEVICE void barrier_init_fence() {}
DEVICE void barrier_expect(uint64_t *b, int bytes) { sim::barrier_arrive(b, sim::cluster_rank(), bytes); }
DEVICE void barrier_arrive(uint64_t *b) { sim::barrier_arrive(b, sim::cluster_rank(), 0); }
DEVICE void barrier_arrive_at(uint64_t *b, int rank) { sim::barrier_arrive(b, rank, 0); }
DEVICE bool barrier_try(uint64_t *b, uint32_t parity) { return sim::barrier_try(b, parity); }
DEVICE void barrier_wait(uint64_t *b, uint32_t parity) { sim::barrier_wait(b, parity); }
DEVICE void copy_arrive(uint64_t *b) { sim::copy_arrive(b); }

DEVICE int cluster_rank() { return sim::cluster_rank(); }
DEVICE void cluster_arrive() { sim::cluster_arrive(); }
DEVICE void cluster_wait() { sim::cluster_wait(); }

template <class... C> DEVICE void copy_box(void *dst, const tensormap *map, uint64_t *done, C... at) {
  const int c[] = {at...};
  sim::copy_box(dst, map, done, 1u << sim::cluster_rank(), c, int(sizeof...(at)));
}
template <class... C> DEVICE void copy_box_to(int ctas, void *dst, const tensormap *map, uint64_t *done, C... at) {
  const int c[] = {at...};
  sim::copy_box(dst, map, done, unsigned(ctas), c, int(sizeof...(at)));
}
DEVICE void copy_bytes(void *dst, const void *src, int bytes, uint64_t *done) { sim::copy_bytes(dst, src, bytes, done); }
template <class... C> DEVICE void store_box(const tensormap *map, const void *src, C... at) {
  const int c[] = {at...};
  sim::store_box(map, src, c, int(sizeof...(at)));
}
DEVICE void store_bytes(void *dst, const void *src, int bytes) { sim::store_bytes(dst, src, bytes); }
DEVICE void store_commit() { sim::store_commit(); }
template <int N> DEVICE void store_wait_read() { sim::store_wait(N); }
template <int N> DEVICE void store_wait() { sim::store_wait(N); }
DEVICE void prefetch_map(const tensormap *) {}
DEVICE void prefetch_bytes(const void *, int) {}
DEVICE void fence_async() { sim::fence_async(); }

DEVICE void sync_group(int id, int threads) { sim::sync_group(id, threads, true); }
DEVICE void arrive_group(int id, int threads) { sim::sync_group(id, threads, false); }
template <int N> DEVICE void give_registers() { sim::set_registers(N); }
template <int N> DEVICE void take_registers() { sim::set_registers(N); }

DEVICE void stmatrix(void *row, const uint32_t *r) { sim::collective(sim::OP_STSM, r, 4, row); }
DEVICE void stmatrix_t(void *row, const uint32_t *r) { sim::collective(sim::OP_STSM_T, r, 4, row); }

DEVICE void wgmma_fence() { sim::wgmma_fence(); }
DEVICE void wgmma_commit() { sim::wgmma_commit(); }
template <int N> DEVICE void wgmma_wait() { sim::wgmma_wait(N); }
template <int R> DEVICE void pin(float (&)[R]) {}
template <int B = K_MAJOR, int A = K_MAJOR, int R> DEVICE void wgmma(float (&d)[R], uint64_t a, uint64_t b, int accumulate) {
  sim::wgmma(d, 2 * R, nullptr, a, A, b, B, accumulate);
}
template <int B = K_MAJOR, int R> DEVICE void wgmma(float (&d)[R], const uint32_t *a, uint64_t b, int accumulate) {
  sim::wgmma(d, 2 * R, a, 0, K_MAJOR, b, B, accumulate);
}
