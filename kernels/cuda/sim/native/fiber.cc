// Fibres and warp collectives: see sim.h.
#include "sim.h"

#include <sys/mman.h>

#include <deque>
#include <memory>
#include <vector>

#if !defined(__x86_64__)
#error "the simulator's stack switch is written for x86-64"
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define SIM_ASAN 1
#endif

extern "C" void sim_switch(void **save, void *load);
// Saves the callee-saved registers on the current stack, stores the stack
// pointer at *save, and resumes the stack `load`.
asm(R"(
.text
.globl sim_switch
.hidden sim_switch
.type sim_switch, @function
sim_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size sim_switch, .-sim_switch
)");

namespace sim {

Kernel *Kernel::first = nullptr;
Dim3 block_index, block_dim, grid_dim;

#ifdef SIM_ASAN
constexpr size_t kStackBytes = 256 << 10;
#else
constexpr size_t kStackBytes = 64 << 10;
#endif
constexpr int kMaxThreads = 1024;

struct Thread {
  void *sp = nullptr;
  Dim3 index{};
  int number = 0;
  bool done = false;
  std::vector<PendingCopy> open;                 // cp.async since the last commit
  std::deque<std::vector<PendingCopy>> groups;   // committed groups, oldest first
#ifdef SIM_ASAN
  void *fake = nullptr;
#endif
};

namespace {

unsigned char *stacks = nullptr;
std::unique_ptr<Thread[]> threads;
std::unique_ptr<Warp[]> warps;
Thread *running = nullptr;
void *main_sp = nullptr;
int ready[kMaxThreads + 1];  // ring buffer of thread numbers
int ready_head, ready_count, ready_cap;
std::vector<int> at_barrier;
int count, alive;
const Kernel *kernel;
const void *kernel_params;
unsigned char *shared_base;
const char *failure;
#ifdef SIM_ASAN
void *main_fake;
const void *main_stack;
size_t main_stack_bytes;
#endif

unsigned char *stack_of(int number) { return stacks + size_t(number) * kStackBytes; }

void push_ready(int number) { ready[(ready_head + ready_count++) % ready_cap] = number; }

// Resumes the next ready fibre, or the main context when none is left.
void switch_away(Thread *self) {
  Thread *next = nullptr;
  if (ready_count > 0 && !failure) {
    next = &threads[ready[ready_head]];
    ready_head = (ready_head + 1) % ready_cap;
    ready_count--;
  }
  if (next == self && next) return;
  running = next;
#ifdef SIM_ASAN
  void **keep = self->done ? nullptr : &self->fake;
  if (next) __sanitizer_start_switch_fiber(keep, stack_of(next->number), kStackBytes);
  else __sanitizer_start_switch_fiber(keep, main_stack, main_stack_bytes);
#endif
  sim_switch(&self->sp, next ? next->sp : main_sp);
#ifdef SIM_ASAN
  __sanitizer_finish_switch_fiber(self->fake, nullptr, nullptr);
#endif
}

[[noreturn]] void fail(const char *why) {
  if (!failure) failure = why;
  switch_away(running);  // to the main context; never resumed
  abort();
}

void release_barrier() {
  for (int n : at_barrier) push_ready(n);
  at_barrier.clear();
}

void entry() {
#ifdef SIM_ASAN
  const void *from;
  size_t bytes;
  __sanitizer_finish_switch_fiber(nullptr, &from, &bytes);
  if (!main_stack) { main_stack = from; main_stack_bytes = bytes; }
#endif
  kernel->run(kernel_params);
  Thread *self = running;
  if (!self->open.empty() || !self->groups.empty()) {
    // Copies that nobody waited for: legal on the device, but a kernel of ours never ends so.
    if (!failure) failure = "a thread ended with cp.async copies nobody waited for";
  }
  self->done = true;
  alive--;
  if (!at_barrier.empty() && int(at_barrier.size()) == alive) release_barrier();
  switch_away(self);
  abort();
}

float bf16_to_float(uint32_t h) {
  uint32_t u = (h & 0xffff) << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}

// mma.sync m16n8k16, bf16 operands, f32 accumulators. Operand rows: a0..a3, b0, b1, c0..c3.
void run_mma(Warp &w) {
  float a[16][16], b[8][16];
  for (int l = 0; l < 32; l++) {
    const int g = l >> 2, t = l & 3;
    for (int r = 0; r < 4; r++) {
      const uint32_t v = w.in[l][r];
      const int row = g + (r & 1) * 8, k = t * 2 + (r >> 1) * 8;
      a[row][k] = bf16_to_float(v);
      a[row][k + 1] = bf16_to_float(v >> 16);
    }
    for (int r = 0; r < 2; r++) {
      const uint32_t v = w.in[l][4 + r];
      b[g][t * 2 + r * 8] = bf16_to_float(v);
      b[g][t * 2 + r * 8 + 1] = bf16_to_float(v >> 16);
    }
  }
  float bt[16][8];
  for (int n = 0; n < 8; n++)
    for (int k = 0; k < 16; k++) bt[k][n] = b[n][k];
  float d[16][8];
  for (int i = 0; i < 16; i++) {
    float s[8] = {};
    for (int k = 0; k < 16; k++)
      for (int n = 0; n < 8; n++) s[n] += a[i][k] * bt[k][n];
    for (int n = 0; n < 8; n++) d[i][n] = s[n];
  }
  for (int l = 0; l < 32; l++) {
    const int g = l >> 2, t = l & 3;
    for (int r = 0; r < 4; r++) {
      float c;
      memcpy(&c, &w.in[l][6 + r], 4);
      c += d[g + (r >> 1) * 8][t * 2 + (r & 1)];
      memcpy(&w.out[l][r], &c, 4);
    }
  }
}

// ldmatrix x4: lane i gives the address of row i%8 of matrix i/8.
void run_ldmatrix(Warp &w, bool transpose) {
  for (int m = 0; m < 4; m++) {
    uint16_t mat[8][8];
    for (int r = 0; r < 8; r++) memcpy(mat[r], w.addr[m * 8 + r], 16);
    for (int l = 0; l < 32; l++) {
      const int g = l >> 2, t = (l & 3) * 2;
      const uint16_t lo = transpose ? mat[t][g] : mat[g][t], hi = transpose ? mat[t + 1][g] : mat[g][t + 1];
      w.out[l][m] = lo | uint32_t(hi) << 16;
    }
  }
}

void run_collective(Warp &w, int op) {
  switch (op) {
    case OP_MMA: run_mma(w); break;
    case OP_LDSM: run_ldmatrix(w, false); break;
    case OP_LDSM_T: run_ldmatrix(w, true); break;
    case OP_SHFL:
      for (int l = 0; l < 32; l++) w.out[l][0] = w.in[w.in[l][1] & 31][0];
      break;
    case OP_BALLOT: {
      uint32_t bits = 0;
      for (int l = 0; l < 32; l++) bits |= uint32_t(w.in[l][0] != 0) << l;
      for (int l = 0; l < 32; l++) w.out[l][0] = bits;
      break;
    }
    default: break;
  }
}

void start_fiber(int number) {
  Thread &t = threads[number];
  t.done = false;
  t.open.clear();
  t.groups.clear();
#ifdef SIM_ASAN
  // The fibre that had this stack before was left in the middle of its frames.
  __asan_unpoison_memory_region(stack_of(number), kStackBytes);
#endif
  void **top = reinterpret_cast<void **>(stack_of(number) + kStackBytes);
  *--top = nullptr;  // keeps the stack 16-byte aligned at entry, and ends back traces
  *--top = reinterpret_cast<void *>(&entry);
  for (int i = 0; i < 6; i++) *--top = nullptr;
  t.sp = top;
}

bool run_block() {
  failure = nullptr;
  alive = count;
  ready_head = ready_count = 0;
  ready_cap = count;
  at_barrier.clear();
  for (int i = 0; i < (count + 31) / 32; i++) warps[i].arrived = 0;
  for (int i = 0; i < count; i++) {
    start_fiber(i);
    push_ready(i);
  }
  ready_count--;
  ready_head = 1 % ready_cap;
  running = &threads[0];
#ifdef SIM_ASAN
  main_stack = nullptr;
  __sanitizer_start_switch_fiber(&main_fake, stack_of(0), kStackBytes);
#endif
  sim_switch(&main_sp, threads[0].sp);
#ifdef SIM_ASAN
  __sanitizer_finish_switch_fiber(main_fake, nullptr, nullptr);
#endif
  if (!failure && alive > 0) failure = "deadlock: every thread waits (a barrier or collective that some threads do not reach)";
  return failure == nullptr;
}

}  // namespace

Thread *current() { return running; }
const Dim3 &thread_index() { return running->index; }
unsigned char *shared_memory() { return shared_base; }
int lane() { return running->number & 31; }

void sync_block() {
  Thread *self = running;
  if (int(at_barrier.size()) + 1 == alive) {
    release_barrier();
    return;
  }
  at_barrier.push_back(self->number);
  switch_away(self);
}

const uint32_t *collective(Op op, const uint32_t *words, int n, const void *addr) {
  Thread *self = running;
  const int first = self->number & ~31, l = self->number & 31;
  Warp &w = warps[first >> 5];
  if (w.arrived == 0) w.op = op;
  else if (w.op != op) fail("divergent warp: lanes wait in different collectives");
  for (int i = 0; i < n; i++) w.in[l][i] = words[i];
  w.addr[l] = addr;
  if (++w.arrived == 32) {
    w.arrived = 0;
    run_collective(w, op);
    for (int i = 0; i < 32; i++)
      if (i != l) push_ready(first + i);
  } else {
    switch_away(self);
  }
  return w.out[l];
}

void copy_async(void *dst, const void *src, int bytes) {
  // Poisoned until a wait, so that reading too early shows.
  memset(dst, 0xff, 16);
  running->open.push_back({dst, src, bytes});
}

void copy_commit() {
  running->groups.push_back(std::move(running->open));
  running->open.clear();
}

void copy_wait(int pending) {
  auto &groups = running->groups;
  while (int(groups.size()) > pending) {
    for (const PendingCopy &c : groups.front()) {
      memset(c.dst, 0, 16);
      if (c.bytes > 0) memcpy(c.dst, c.src, c.bytes);
    }
    groups.pop_front();
  }
}

bool run_grid(const Kernel &k, const void *params, Dim3 grid, Dim3 block, size_t shared_bytes) {
  if (!stacks) {
    void *p = mmap(nullptr, kStackBytes * kMaxThreads, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return false;
    stacks = static_cast<unsigned char *>(p);
    threads.reset(new Thread[kMaxThreads]);
    warps.reset(new Warp[kMaxThreads / 32]);
  }
  kernel = &k;
  kernel_params = params;
  grid_dim = grid;
  block_dim = block;
  count = int(block.x * block.y * block.z);
  for (int i = 0; i < count; i++) {
    threads[i].number = i;
    threads[i].index = {unsigned(i) % block.x, unsigned(i) / block.x % block.y, unsigned(i) / (block.x * block.y)};
  }
  // A fresh heap block of the exact size a launch, so that ASan sees accesses past its end.
  void *shared = nullptr;
  if (posix_memalign(&shared, 1024, shared_bytes ? shared_bytes : 1) != 0) return false;
  std::unique_ptr<void, void (*)(void *)> raw(shared, free);
  shared_base = static_cast<unsigned char *>(shared);
  for (unsigned z = 0; z < grid.z; z++)
    for (unsigned y = 0; y < grid.y; y++)
      for (unsigned x = 0; x < grid.x; x++) {
        block_index = {x, y, z};
        memset(shared_base, 0xff, shared_bytes);  // shared memory starts undefined
        if (!run_block()) {
          fprintf(stderr, "simulator: kernel %s, cta (%u,%u,%u) of (%u,%u,%u): %s\n", k.name, x, y, z, grid.x, grid.y, grid.z, failure);
          return false;
        }
      }
  return true;
}

}  // namespace sim
