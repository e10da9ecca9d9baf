// Fibres, barriers of a cta and warp collectives: see sim.h.
#include "fiber.h"

#include <stdarg.h>
#include <sys/mman.h>

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
Dim3 block_dim, grid_dim;
Thread *running = nullptr;
std::unique_ptr<Thread[]> threads;
std::vector<Cta> ctas;
int count;
const Kernel *kernel;

#ifdef SIM_ASAN
constexpr size_t kStackBytes = 256 << 10;
#else
constexpr size_t kStackBytes = 64 << 10;
#endif
constexpr int kGuardPolls = 1000;  // rounds in which nothing happens before polling counts as a deadlock

namespace {

unsigned char *stacks = nullptr;
std::unique_ptr<Warp[]> warps;
void *main_sp = nullptr;
uint64_t shuffled;  // state of the random order; 0: in turn

// Numbers of threads that may go on, each at most once.
struct {
  int numbers[kMaxThreads], head = 0, size = 0;
  bool empty() const { return size == 0; }
  void clear() { head = size = 0; }
  void push(int n) { numbers[(head + size++) % kMaxThreads] = n; }
  int pop() {
    if (shuffled) std::swap(numbers[head], numbers[(head + int(any(uint32_t(size)))) % kMaxThreads]);
    const int n = numbers[head];
    head = (head + 1) % kMaxThreads;
    size--;
    return n;
  }
} ready;
std::vector<int> polling;  // threads that look at a barrier again and again
int idle_polls;
const void *kernel_params;
std::string failure;
#ifdef SIM_ASAN
void *main_fake;
const void *main_stack;
size_t main_stack_bytes;
#endif

unsigned char *stack_of(int number) { return stacks + size_t(number) * kStackBytes; }

// Resumes the next ready fibre, or the main context when none is left.
void switch_away(Thread *self) {
  Thread *next = nullptr;
  if (shuffled && any(16) == 0) async_advance();
  if (!ready.empty() && failure.empty()) {
    next = &threads[ready.pop()];
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

// Resumes a fibre from the main context, until no fibre is ready.
void switch_to(Thread *t) {
  running = t;
#ifdef SIM_ASAN
  __sanitizer_start_switch_fiber(&main_fake, stack_of(t->number), kStackBytes);
#endif
  sim_switch(&main_sp, t->sp);
#ifdef SIM_ASAN
  __sanitizer_finish_switch_fiber(main_fake, nullptr, nullptr);
#endif
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
  // Copies that nobody waited for: legal on the device, but a kernel of ours never ends so.
  if (!self->open.empty() || !self->groups.empty()) complain("a thread ended with cp.async copies nobody waited for");
  async_thread_end(*self);
  self->done = true;
  idle_polls = 0;
  Cta &c = *self->cta;
  c.alive--;
  if (!c.at_barrier.empty() && int(c.at_barrier.size()) == c.alive) wake(c.at_barrier);
  if (c.alive == 0) async_cta_end(c);
  release_cluster();
  switch_away(self);
  abort();
}

// mma.sync m16n8k16, bf16 operands, f32 accumulators. Operand rows: a0..a3, b0, b1, c0..c3.
void run_mma(Warp &w) {
  float a[16][16], b[8][16];
  for (int l = 0; l < 32; l++) {
    const int g = l >> 2, t = l & 3;
    for (int r = 0; r < 4; r++) {
      const uint32_t v = w.in[l][r];
      const int row = g + (r & 1) * 8, k = t * 2 + (r >> 1) * 8;
      a[row][k] = bf16_to_float(v & 0xffff);
      a[row][k + 1] = bf16_to_float(v >> 16);
    }
    for (int r = 0; r < 2; r++) {
      const uint32_t v = w.in[l][4 + r];
      b[g][t * 2 + r * 8] = bf16_to_float(v & 0xffff);
      b[g][t * 2 + r * 8 + 1] = bf16_to_float(v >> 16);
    }
  }
  Four bt[16][2];
  for (int n = 0; n < 8; n++)
    for (int k = 0; k < 16; k++) bt[k][n / 4][n % 4] = b[n][k];
  float d[16][8];
  for (int i = 0; i < 16; i++) {
    Four s[2] = {};
    for (int k = 0; k < 16; k++)
      for (int h = 0; h < 2; h++) s[h] += a[i][k] * bt[k][h];
    memcpy(d[i], s, sizeof s);
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

// stmatrix x4, the inverse.
void run_stmatrix(Warp &w, bool transpose) {
  for (int m = 0; m < 4; m++) {
    uint16_t mat[8][8];
    for (int l = 0; l < 32; l++) {
      const int g = l >> 2, t = (l & 3) * 2;
      (transpose ? mat[t][g] : mat[g][t]) = uint16_t(w.in[l][m]);
      (transpose ? mat[t + 1][g] : mat[g][t + 1]) = uint16_t(w.in[l][m] >> 16);
    }
    for (int r = 0; r < 8; r++) memcpy(const_cast<void *>(w.addr[m * 8 + r]), mat[r], 16);
  }
}

void run_collective(Warp &w, int op) {
  switch (op) {
    case OP_MMA: run_mma(w); break;
    case OP_LDSM: run_ldmatrix(w, false); break;
    case OP_LDSM_T: run_ldmatrix(w, true); break;
    case OP_STSM: run_stmatrix(w, false); break;
    case OP_STSM_T: run_stmatrix(w, true); break;
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

void start_fiber(Cta &c, int number) {
  Thread &t = threads[number];
  const unsigned i = unsigned(number - c.first);
  const Dim3 index = {i % block_dim.x, i / block_dim.x % block_dim.y, i / (block_dim.x * block_dim.y)};
  t.reset(c, number, index);
#ifdef SIM_ASAN
  // The fibre that had this stack before was left in the middle of its frames.
  __asan_unpoison_memory_region(stack_of(number), kStackBytes);
#endif
  void **top = reinterpret_cast<void **>(stack_of(number) + kStackBytes);
  *--top = nullptr;  // keeps the stack 16-byte aligned at entry, and ends back traces
  *--top = reinterpret_cast<void *>(&entry);
  for (int i = 0; i < 6; i++) *--top = nullptr;
  t.sp = top;
  ready.push(number);
}

// What the fibres wait for, a line for each thing.
std::string deadlock() {
  std::string text = "deadlock: every thread waits";
  for (Cta &c : ctas)
    for (int i = 0; i < count; i++) {
      const Thread &t = threads[c.first + i];
      if (t.done) continue;
      int last = i;  // threads that wait for the same
      while (last + 1 < count) {
        const Thread &u = threads[c.first + last + 1];
        if (u.done || u.waits != t.waits || u.waits_for != t.waits_for || u.parity != t.parity || u.id != t.id) break;
        last++;
      }
      text += "\n  cta " + std::to_string(c.rank) + ", threads " + std::to_string(i) + " to " + std::to_string(last) + ": " + waits_text(t);
      i = last;
    }
  return text;
}

bool run_cluster() {
  failure.clear();
  ready.clear();
  polling.clear();
  idle_polls = 0;
  async_begin();
  for (Cta &c : ctas) {
    c.alive = count;
    memset(c.shared, 0xff, c.shared_bytes);  // shared memory starts undefined
    for (int i = 0; i < count; i++) start_fiber(c, c.first + i);
  }
  for (int i = 0; i < (count * int(ctas.size()) + 31) / 32; i++) warps[i].arrived = 0;
#ifdef SIM_ASAN
  main_stack = nullptr;
#endif
  // Copies come as late as possible, unless the order is random: when no fibre can go on without them.
  while (failure.empty()) {
    if (!ready.empty()) {
      switch_to(&threads[ready.pop()]);
      continue;
    }
    running = nullptr;
    const bool advanced = async_advance();
    if (advanced) idle_polls = 0;
    if (polling.empty() ? !advanced && ready.empty() : ++idle_polls > kGuardPolls) break;
    wake(polling);
  }
  running = nullptr;
  int alive = 0;
  for (Cta &c : ctas) alive += c.alive;
  if (failure.empty() && alive > 0) failure = deadlock();
  if (failure.empty()) async_end();
  return failure.empty();
}

}  // namespace

const Dim3 &thread_index() { return running->index; }
const Dim3 &block_index() { return running->cta->index; }
unsigned char *shared_memory() { return running->cta->shared; }
int cluster_rank() { return running->cta->rank; }
int lane() { return running->number & 31; }
void shuffle(uint64_t seed) { shuffled = seed; }
uint32_t any(uint32_t n) {
  if (!shuffled) return 0;
  shuffled ^= shuffled << 13;
  shuffled ^= shuffled >> 7;
  shuffled ^= shuffled << 17;
  return uint32_t(shuffled >> 32) % n;
}
const char *last_failure() { return failure.c_str(); }

void park(Wait what, const void *on, uint32_t parity, int id) {
  Thread *self = running;
  self->waits = what;
  self->waits_for = on;
  self->parity = parity;
  self->id = id;
  switch_away(self);
  self->waits = WAIT_NOTHING;
}

void wake(std::vector<int> &numbers) {
  for (int n : numbers) ready.push(n);
  numbers.clear();
}

void poll(const void *barrier, uint32_t parity) {
  polling.push_back(running->number);
  park(WAIT_BARRIER, barrier, parity);
}

void complain(const char *format, ...) {
  if (!failure.empty()) return;
  char text[512];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  failure = text;
}

void stop() {
  switch_away(running);  // to the main context; never resumed
  abort();
}

void sync_block() {
  Cta &c = *running->cta;
  if (int(c.at_barrier.size()) + 1 == c.alive) {
    wake(c.at_barrier);
    return;
  }
  c.at_barrier.push_back(running->number);
  park(WAIT_BLOCK);
}

const uint32_t *collective(Op op, const uint32_t *words, int n, const void *addr) {
  Thread *self = running;
  const int first = self->number & ~31, l = self->number & 31;
  Warp &w = warps[first >> 5];
  if (w.arrived == 0) w.op = op;
  else if (w.op != op) FAIL("divergent warp: lanes wait in different collectives");
  for (int i = 0; i < n; i++) w.in[l][i] = words[i];
  w.addr[l] = addr;
  if (++w.arrived == 32) {
    w.arrived = 0;
    run_collective(w, op);
    for (int i = 0; i < 32; i++)
      if (i != l) ready.push(first + i);
  } else {
    park(WAIT_COLLECTIVE, nullptr, 0, op);
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

void finish_copies(const std::vector<PendingCopy> &copies) {
  for (const PendingCopy &c : copies) {
    memset(c.dst, 0, 16);
    if (c.bytes > 0) memcpy(c.dst, c.src, c.bytes);
  }
}

void copy_wait(int pending) {
  async_flush(*running);
  auto &groups = running->groups;
  while (int(groups.size()) > pending) {
    finish_copies(groups.front());
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
  // Fresh heap blocks of the exact size a launch, so that ASan sees accesses past their end.
  std::vector<std::unique_ptr<void, void (*)(void *)>> owned;
  for (int i = 0; i < k.cluster; i++) {
    void *shared = nullptr;
    if (posix_memalign(&shared, 1024, shared_bytes ? shared_bytes : 1) != 0) return false;
    owned.emplace_back(shared, free);
  }
  for (unsigned z = 0; z < grid.z; z++)
    for (unsigned y = 0; y < grid.y; y++)
      for (unsigned x = 0; x < grid.x; x += unsigned(k.cluster)) {
        ctas.clear();
        ctas.resize(size_t(k.cluster));
        for (int i = 0; i < k.cluster; i++) {
          Cta &c = ctas[size_t(i)];
          c.rank = i;
          c.first = i * count;
          c.index = {x + unsigned(i), y, z};
          c.shared = static_cast<unsigned char *>(owned[size_t(i)].get());
          c.shared_bytes = shared_bytes;
        }
        if (!run_cluster()) {
          fprintf(stderr, "simulator: kernel %s, cta (%u,%u,%u) of (%u,%u,%u): %s\n", k.name, x, y, z, grid.x, grid.y, grid.z, failure.c_str());
          return false;
        }
      }
  return true;
}

}  // namespace sim
