// What the parts of the simulator share: fibres, ctas, clusters (fiber.cc) and what
// they wait for (async.cc).
#pragma once
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "sim.h"

namespace sim {

typedef float Four __attribute__((vector_size(16)));

inline float bf16_to_float(uint32_t h) {
  const uint32_t u = h << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}

// What a fibre waits for.
enum Wait { WAIT_NOTHING, WAIT_BLOCK, WAIT_GROUP, WAIT_CLUSTER, WAIT_BARRIER, WAIT_COLLECTIVE, WAIT_PRODUCTS };

// A product that a thread issued, and the sums it goes to.
struct Product {
  float *d;
  int n;
  bool in_registers, accumulate;
  uint32_t registers[4];
  uint64_t a, b;
  int a_major, b_major;
};

// The sums of products under way: the thread's own copy is poisoned meanwhile.
struct Sums {
  float *d;
  int pending = 0;
  std::vector<float> v;
};

struct Store { void *dst; const unsigned char *src; size_t bytes; };

struct Cta;

struct Thread {
  void *sp = nullptr;
  Dim3 index{};
  int number = 0;  // in the cluster
  Cta *cta = nullptr;
  bool done = false;

  Wait waits = WAIT_NOTHING;
  const void *waits_for = nullptr;  // barrier
  uint32_t parity = 0;
  int id = 0;  // of the named barrier or collective

  std::vector<PendingCopy> open;                // cp.async since the last commit
  std::deque<std::vector<PendingCopy>> groups;  // committed groups, oldest first
  std::vector<Store> stores;                    // bulk stores since the last commit
  std::deque<std::vector<Store>> store_groups;
  std::vector<Product> products;  // since the last commit
  std::deque<std::vector<Product>> product_groups;
  std::vector<Sums> sums;
  bool fenced = false;  // wgmma_fence since the sums could last be touched
  int registers = 0;
  int cluster_phase = 0;  // in which it arrived
#ifdef __SANITIZE_ADDRESS__
  void *fake = nullptr;
#endif

  Sums *find_sums(const float *d) {
    for (Sums &s : sums)
      if (s.d == d) return &s;
    return nullptr;
  }
  Sums &sums_of(const float *d) { return *find_sums(d); }

  // A new thread; containers keep their memory.
  void reset(Cta &c, int n, Dim3 i) {
    cta = &c;
    number = n;
    index = i;
    done = fenced = false;
    waits = WAIT_NOTHING;
    registers = cluster_phase = 0;
    open.clear();
    groups.clear();
    stores.clear();
    store_groups.clear();
    products.clear();
    product_groups.clear();
    sums.clear();
  }
};

// A barrier in shared memory. Its state is kept here; the memory itself holds a mark.
struct Barrier {
  int number;  // by order of initialisation
  int arrivals, pending;
  long bytes = 0;  // announced and not arrived
  uint32_t phase = 0;
  std::vector<int> waiters;
};

struct GroupBarrier {
  int threads = 0, arrived = 0;
  std::vector<int> waiters;
};

struct Cta {
  int rank = 0, first = 0;  // in the cluster; its first thread
  Dim3 index{};
  int alive = 0;
  unsigned char *shared = nullptr;
  size_t shared_bytes = 0;
  std::vector<int> at_barrier;
  GroupBarrier groups[16];
  std::map<uint64_t, Barrier> barriers;  // by place: see place_of
  GroupBarrier product_waits[8];         // wgmma_wait, by warpgroup
  // Shared memory as copies and products see it: ordinary writes come with a fence.
  std::vector<unsigned char> async_view;
  bool fenced = false;
};

constexpr int kMaxThreads = 4096;  // of a cluster

extern Thread *running;  // null while copies are delivered
extern std::unique_ptr<Thread[]> threads;
extern std::vector<Cta> ctas;  // of the cluster
extern int count;              // threads of a cta
extern const Kernel *kernel;

// The order of fibres and copies is random from now on; 0: in turn, copies last.
void shuffle(uint64_t seed);
uint32_t any(uint32_t n);  // below n; 0 unless shuffled
// Performs cp.async copies.
void finish_copies(const std::vector<PendingCopy> &copies);
// Lets everybody else run, and what is under way go on, before this fibre looks at a barrier again.
void poll(const void *barrier, uint32_t parity);
// Lets other fibres run until somebody wakes this one.
void park(Wait what, const void *on = nullptr, uint32_t parity = 0, int id = 0);
void wake(std::vector<int> &numbers);
// Notes the first failure; the cluster stops at the next switch.
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
// The same, and does not return to the kernel.
#define FAIL(...) (complain(__VA_ARGS__), stop())
[[noreturn]] void stop();

// async.cc, for fiber.cc.
void async_begin();              // of a cluster
bool async_advance();            // something that was under way happens; false: nothing is
void async_flush(const Thread &t);  // what copy_arrive of this thread waits for
void async_thread_end(Thread &t);
void async_cta_end(Cta &c);
void async_end();
void release_cluster();
std::string waits_text(const Thread &t);

// driver.cc: whether a kernel may read or write there.
bool in_global(const void *p, size_t n);
// tensormap.cc, for driver.cc: cuTensorMapEncodeTiled; false: an argument is invalid.
bool encode_tensor_map(void *map, int type, int rank, void *base, const uint64_t *dims, const uint64_t *strides, const uint32_t *box,
                       const uint32_t *steps, int interleave, int swizzle, int promotion, int fill);

}  // namespace sim
