// Host side of the kernel dialect (src/dialect.cuh, src/hopper.cuh): every CUDA thread
// is a fibre, every barrier and warp collective a switch to the next fibre. Included
// when the kernels are compiled as C++.
//
// Invariants:
//  - the ctas of one cluster run at a time (of most kernels: one cta), on one OS thread;
//  - a fibre is running, in the ready queue, or waiting for exactly one thing;
//  - a warp collective completes when all 32 lanes have arrived at the same
//    operation; a lane that ended or is at another operation is an error, as is
//    a cluster whose fibres all wait.
// What Hopper adds is modelled in async.cc.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace sim {

struct Dim3 { unsigned x, y, z; };

enum Op { OP_NONE, OP_SHFL, OP_MMA, OP_LDSM, OP_LDSM_T, OP_STSM, OP_STSM_T, OP_WARP_SYNC, OP_BALLOT };

struct PendingCopy { void *dst; const void *src; int bytes; };

struct Warp {
  int arrived = 0;
  int op = OP_NONE;
  uint32_t in[32][12];   // operands of the collective, by lane
  uint32_t out[32][4];   // results, by lane
  const void *addr[32];  // shared memory rows of ldmatrix
};

const Dim3 &thread_index();
const Dim3 &block_index();
extern Dim3 block_dim, grid_dim;
unsigned char *shared_memory();

int lane();
void sync_block();
// Runs one warp collective: puts n words into the warp's operand row, waits for
// all lanes and returns this lane's result row.
const uint32_t *collective(Op op, const uint32_t *words, int n, const void *addr = nullptr);
void copy_async(void *dst, const void *src, int bytes);  // bytes of 16 are copied, the rest is zeroed
void copy_commit();
void copy_wait(int pending_groups);

// What src/hopper.cuh needs; see there.
uint32_t shared_address(const void *p);
int cluster_rank();
void cluster_arrive();
void cluster_wait();
void barrier_init(uint64_t *b, int arrivals);
void barrier_arrive(uint64_t *b, int rank, int bytes);  // at the barrier of that cta; announces bytes
bool barrier_try(uint64_t *b, uint32_t parity);
void barrier_wait(uint64_t *b, uint32_t parity);
void copy_arrive(uint64_t *b);
void copy_box(void *dst, const void *map, uint64_t *done, unsigned ctas, const int *at, int rank);
void copy_bytes(void *dst, const void *src, int bytes, uint64_t *done);
void store_box(const void *map, const void *src, const int *at, int rank);
void store_bytes(void *dst, const void *src, int bytes);
void store_commit();
void store_wait(int pending_groups);
void fence_async();
void sync_group(int id, int threads, bool wait);
void set_registers(int n);
void wgmma_fence();
void wgmma_commit();
void wgmma_wait(int pending_groups);
// One product of this thread: d has n/2 sums; a in registers if given, else by descriptor.
void wgmma(float *d, int n, const uint32_t *a_registers, uint64_t a, int a_major, uint64_t b, int b_major, bool accumulate);

struct Kernel {
  const char *name;
  void (*run)(const void *params);
  size_t param_bytes;
  int max_threads, blocks;  // as in __launch_bounds__
  int cluster;              // ctas
  Kernel *next;
  static Kernel *first;
  Kernel(const char *n, void (*r)(const void *), size_t p, int t, int b, int c) : name(n), run(r), param_bytes(p), max_threads(t), blocks(b), cluster(c), next(first) { first = this; }
};

// Runs a grid. Returns false after printing what went wrong (deadlock, divergent
// collective); last_failure tells it too.
bool run_grid(const Kernel &k, const void *params, Dim3 grid, Dim3 block, size_t shared_bytes);

const char *last_failure();

}  // namespace sim
