// Host side of the kernel dialect (src/dialect.cuh): every CUDA thread is a
// fibre, every barrier and warp collective a switch to the next fibre. Included
// when the kernels are compiled as C++.
//
// Invariants:
//  - one cta runs at a time, on one OS thread; its fibres share `block`;
//  - a fibre is running, in the ready queue, or waiting in exactly one barrier;
//  - a warp collective completes when all 32 lanes have arrived at the same
//    operation; a lane that ended or is at another operation is an error, as is
//    a cta whose fibres all wait.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace sim {

struct Dim3 { unsigned x, y, z; };

enum Op { OP_NONE, OP_SHFL, OP_MMA, OP_LDSM, OP_LDSM_T, OP_WARP_SYNC, OP_BALLOT };

struct PendingCopy { void *dst; const void *src; int bytes; };

struct Warp {
  int arrived = 0;
  int op = OP_NONE;
  uint32_t in[32][12];   // operands of the collective, by lane
  uint32_t out[32][4];   // results, by lane
  const void *addr[32];  // shared memory rows of ldmatrix
};

struct Thread;
Thread *current();
const Dim3 &thread_index();
extern Dim3 block_index, block_dim, grid_dim;
unsigned char *shared_memory();

int lane();
void sync_block();
// Runs one warp collective: puts n words into the warp's operand row, waits for
// all lanes and returns this lane's result row.
const uint32_t *collective(Op op, const uint32_t *words, int n, const void *addr = nullptr);
void copy_async(void *dst, const void *src, int bytes);  // bytes of 16 are copied, the rest is zeroed
void copy_commit();
void copy_wait(int pending_groups);

struct Kernel {
  const char *name;
  void (*run)(const void *params);
  size_t param_bytes;
  int max_threads;
  Kernel *next;
  static Kernel *first;
  Kernel(const char *n, void (*r)(const void *), size_t b, int t) : name(n), run(r), param_bytes(b), max_threads(t), next(first) { first = this; }
};

// Runs a grid. Returns false after printing what went wrong (deadlock, divergent collective).
bool run_grid(const Kernel &k, const void *params, Dim3 grid, Dim3 block, size_t shared_bytes);

}  // namespace sim
