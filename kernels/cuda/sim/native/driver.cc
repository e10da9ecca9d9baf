// A driver library made of the simulator: the functions of the CUDA driver API
// that package driver binds, over host memory and fibres.
//
//  - Work is queued and runs at the next call that waits, in the order of issue,
//    so that memory handed over too early or reused too soon shows.
//  - Device memory is poisoned, surrounded by guard bytes that are checked after
//    every drain, and every copy is checked against the allocations.
//  - Graphs are recorded lists that are replayed.
//  - Device 0 has compute capability 8.0, device 1 has 9.0; they share the memory.
//  - sim_fail makes a coming call fail; sim_counter counts what is alive, and what
//    was taken apart in an order that a device does not forgive.
#include <malloc.h>

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "abi.h"
#include "fiber.h"

#define API extern "C" __attribute__((visibility("default")))

namespace {

enum {
  OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_IMAGE = 200, INVALID_CONTEXT = 201,
  NO_BINARY = 209, INVALID_HANDLE = 400, NOT_FOUND = 500, NOT_READY = 600, ILLEGAL_ADDRESS = 700, OUT_OF_RESOURCES = 701, LAUNCH_FAILED = 719,
  CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901, INVALID_CLUSTER_SIZE = 912,
};
struct CodeText { int code; const char *name, *text; };
const CodeText kCodes[] = {
    {OK, "CUDA_SUCCESS", "no error"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {NO_BINARY, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {OUT_OF_RESOURCES, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"},
    {LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {INVALID_CLUSTER_SIZE, "CUDA_ERROR_INVALID_CLUSTER_SIZE", "invalid cluster size"},
    {CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"},
};

using Work = std::function<int()>;
constexpr size_t kGuard = 256;
constexpr unsigned char kGuardByte = 0xa5;
constexpr int kDefaultShared = 49152;  // bytes
// What tells the devices apart; shared memory as devices of that capability have it.
struct Device { int major, minor, max_shared, shared_of_multiprocessor; const char *name; };
const Device kDevices[] = {{8, 0, 166912, 167936, "Simulated GPU"}, {9, 0, 232448, 233472, "Simulated Hopper GPU"}};
constexpr int kNumDevices = sizeof kDevices / sizeof *kDevices;
constexpr uintptr_t kContext = 0xc0de;  // of device 0

struct Allocation { unsigned char *raw; size_t bytes; };
struct Stream { bool capturing = false, invalid = false; std::vector<Work> recorded; };
struct Event { bool recorded = false, reached = false; };
struct Module { std::string image; };
struct Function { const sim::Kernel *kernel; size_t max_dynamic = kDefaultShared; };
struct Graph { std::vector<Work> nodes; };

std::recursive_mutex mu;
bool initialized;
int retained[kNumDevices];
thread_local uintptr_t current_context;
int sticky;
long fail_after = -1;
int fail_code;
uint64_t memory_total = 2ull << 30, memory_used;
std::map<uintptr_t, Allocation> allocations;
std::map<uintptr_t, size_t> host_allocations;
std::set<Stream *> streams;
std::set<Event *> events;
std::set<Module *> modules;
std::map<std::string, std::unique_ptr<Function>> functions;
std::set<Graph *> graphs, execs;
std::vector<Work> queue;
uint64_t calls, copies, copied_bytes, launches, overlapped, disorder;

enum { COUNT_ALLOCATIONS, COUNT_BYTES, COUNT_HOST, COUNT_STREAMS, COUNT_EVENTS, COUNT_MODULES, COUNT_GRAPHS, COUNT_CONTEXTS, COUNT_CALLS, COUNT_COPIES, COUNT_COPIED_BYTES, COUNT_LAUNCHES, COUNT_OVERLAPPED, COUNT_DISORDER };

const Device &device() { return kDevices[current_context - kContext]; }
bool has_context() { return current_context >= kContext && current_context < kContext + kNumDevices && retained[current_context - kContext] > 0; }
int contexts() {
  int n = 0;
  for (int r : retained) n += r;
  return n;
}

// Entry check of every call: injected failure, initialisation, sticky error, context.
int enter(bool need_context) {
  calls++;
  if (fail_after == 0) { fail_after = -1; return fail_code; }
  if (fail_after > 0) fail_after--;
  if (!initialized) return NOT_INITIALIZED;
  if (need_context && !has_context()) return INVALID_CONTEXT;
  return OK;
}
#define ENTER(ctx) \
  std::lock_guard<std::recursive_mutex> hold(mu); \
  if (int e_ = enter(ctx)) return e_

// Notes a thing destroyed while others still need it.
void needed(bool by, const char *what) {
  if (!by) return;
  disorder++;
  fprintf(stderr, "simulator: out of order: %s\n", what);
}

int check_guards() {
  for (auto &[addr, a] : allocations)
    for (size_t i = 0; i < kGuard; i++)
      if (a.raw[i] != kGuardByte || a.raw[kGuard + a.bytes + i] != kGuardByte) {
        fprintf(stderr, "simulator: a kernel wrote outside an allocation of %zu bytes (offset %ld)\n", a.bytes,
                a.raw[i] != kGuardByte ? long(i) - long(kGuard) : long(a.bytes + i));
        for (size_t j = 0; j < kGuard; j++) a.raw[j] = a.raw[kGuard + a.bytes + j] = kGuardByte;
        return ILLEGAL_ADDRESS;
      }
  return OK;
}

// Runs everything queued. The first failure sticks, as on a device.
int drain() {
  std::vector<Work> work;
  work.swap(queue);
  for (auto &w : work) {
    if (sticky) break;
    if (int e = w()) sticky = e;
  }
  if (!sticky && !work.empty()) sticky = check_guards();
  return sticky;
}

int enqueue(Stream *s, Work w) {
  if (!streams.count(s)) return INVALID_HANDLE;
  if (sticky) return sticky;
  if (s->capturing) s->recorded.push_back(std::move(w));
  else queue.push_back(std::move(w));
  return OK;
}

// Calls that wait or allocate are not permitted while a stream captures.
int not_capturing() {
  for (Stream *s : streams)
    if (s->capturing) { s->invalid = true; return CAPTURE_UNSUPPORTED; }
  return OK;
}

bool in_device(uintptr_t p, size_t n) {
  auto it = allocations.upper_bound(p);
  if (it == allocations.begin()) return false;
  --it;
  return p - it->first <= it->second.bytes && n <= it->second.bytes - (p - it->first);
}

bool in_host(uintptr_t p, size_t n) {
  auto it = host_allocations.upper_bound(p);
  if (it == host_allocations.begin()) return false;
  --it;
  return p - it->first <= it->second && n <= it->second - (p - it->first);
}

// Size of an ELF image by its section table, and the multiprocessor it is for, 90 for
// sm_90a; 0 if it is no CUDA ELF.
size_t elf_bytes(const unsigned char *p, int &arch) {
  if (memcmp(p, "\x7f" "ELF\x02\x01", 6) != 0) return 0;
  uint16_t machine, shentsize, shnum;
  uint64_t shoff;
  memcpy(&machine, p + 18, 2);
  memcpy(&shoff, p + 40, 8);
  memcpy(&shentsize, p + 58, 2);
  memcpy(&shnum, p + 60, 2);
  // The architecture lies in the lowest byte, with version 8 of the ABI in the next.
  const unsigned char abi = p[8];
  arch = p[abi >= 8 ? 49 : 48];
  if (machine != 190 || shoff > (64u << 20)) return 0;
  return shoff + size_t(shentsize) * shnum;
}

}  // namespace

bool sim::in_global(const void *p, size_t n) { return in_device(reinterpret_cast<uintptr_t>(p), n) || in_host(reinterpret_cast<uintptr_t>(p), n); }

API void sim_fail(long after, long code) { std::lock_guard<std::recursive_mutex> hold(mu); fail_after = after; fail_code = int(code); }
API void sim_set_memory(uint64_t bytes) { std::lock_guard<std::recursive_mutex> hold(mu); memory_total = bytes; }
API void sim_shuffle(uint64_t seed) { std::lock_guard<std::recursive_mutex> hold(mu); sim::shuffle(seed); }
API void sim_clear_error() { std::lock_guard<std::recursive_mutex> hold(mu); sticky = 0; queue.clear(); }
API uint64_t sim_counter(long which) {
  std::lock_guard<std::recursive_mutex> hold(mu);
  switch (which) {
    case COUNT_ALLOCATIONS: return allocations.size();
    case COUNT_BYTES: return memory_used;
    case COUNT_HOST: return host_allocations.size();
    case COUNT_STREAMS: return streams.size();
    case COUNT_EVENTS: return events.size();
    case COUNT_MODULES: return modules.size();
    case COUNT_GRAPHS: return graphs.size() + execs.size();
    case COUNT_CONTEXTS: return uint64_t(contexts());
    case COUNT_CALLS: return calls;
    case COUNT_COPIES: return copies;
    case COUNT_COPIED_BYTES: return copied_bytes;
    case COUNT_LAUNCHES: return launches;
    case COUNT_OVERLAPPED: return overlapped;
    case COUNT_DISORDER: return disorder;
  }
  return 0;
}
// Layout of the structures of abi.h: size, then the offset of each member.
API uint64_t sim_layout(long which) {
  using sim::LaunchAttribute;
  using sim::LaunchConfig;
  const size_t all[] = {
      sizeof(LaunchConfig), offsetof(LaunchConfig, gx), offsetof(LaunchConfig, gy), offsetof(LaunchConfig, gz), offsetof(LaunchConfig, bx),
      offsetof(LaunchConfig, by), offsetof(LaunchConfig, bz), offsetof(LaunchConfig, shared), offsetof(LaunchConfig, stream),
      offsetof(LaunchConfig, attrs), offsetof(LaunchConfig, num_attrs),
      sizeof(LaunchAttribute), offsetof(LaunchAttribute, id), offsetof(LaunchAttribute, value), sizeof(LaunchAttribute::value),
  };
  return which >= 0 && size_t(which) < sizeof all / sizeof *all ? all[which] : ~0ull;
}
// Kernel parameter sizes, for the test of the generated Go structs; 0 = no such kernel.
API uint64_t sim_param_bytes(const char *name) {
  for (sim::Kernel *k = sim::Kernel::first; k; k = k->next)
    if (!strcmp(k->name, name)) return k->param_bytes;
  return 0;
}

API int cuInit(unsigned) {
  std::lock_guard<std::recursive_mutex> hold(mu);
  calls++;
  if (fail_after == 0) { fail_after = -1; return fail_code; }
  if (fail_after > 0) fail_after--;
  initialized = true;
  return OK;
}
API int cuDriverGetVersion(int *v) { ENTER(false); *v = 12090; return OK; }
API int cuGetErrorName(int code, const char **s) {
  for (auto &c : kCodes) if (c.code == code) { *s = c.name; return OK; }
  return INVALID_VALUE;
}
API int cuGetErrorString(int code, const char **s) {
  for (auto &c : kCodes) if (c.code == code) { *s = c.text; return OK; }
  return INVALID_VALUE;
}
API int cuDeviceGetCount(int *n) { ENTER(false); *n = kNumDevices; return OK; }
API int cuDeviceGet(int *d, int ordinal) { ENTER(false); if (ordinal < 0 || ordinal >= kNumDevices) return INVALID_VALUE; *d = ordinal; return OK; }
API int cuDeviceGetName(char *name, int len, int d) { ENTER(false); snprintf(name, size_t(len), "%s", kDevices[d].name); return OK; }
API int cuDeviceGetAttribute(int *v, int a, int d) {
  ENTER(false);
  switch (a) {
    case 8: *v = kDefaultShared; break;
    case 16: *v = 4; break;
    case 38: *v = 1 << 20; break;
    case 75: *v = kDevices[d].major; break;
    case 76: *v = kDevices[d].minor; break;
    case 81: *v = kDevices[d].shared_of_multiprocessor; break;
    case 97: *v = kDevices[d].max_shared; break;
    default: return INVALID_VALUE;
  }
  return OK;
}
API int cuDeviceTotalMem_v2(size_t *b, int) { ENTER(false); *b = memory_total; return OK; }
API int cuDevicePrimaryCtxRetain(uintptr_t *c, int d) { ENTER(false); retained[d]++; *c = kContext + uintptr_t(d); return OK; }
API int cuDevicePrimaryCtxRelease_v2(int d) {
  ENTER(false);
  if (retained[d] == 0) return INVALID_CONTEXT;
  if (contexts() == 1) {
    needed(!allocations.empty() || !host_allocations.empty(), "context released before its memory");
    needed(!streams.empty() || !events.empty(), "context released before its streams or events");
    needed(!modules.empty(), "context released before its modules");
    needed(!graphs.empty() || !execs.empty(), "context released before its graphs");
  }
  retained[d]--;
  if (contexts() == 0) { drain(); sticky = 0; queue.clear(); }
  return OK;
}
API int cuCtxSetCurrent(uintptr_t c) { ENTER(false); current_context = c; return OK; }
API int cuCtxSynchronize() { ENTER(true); if (int e = not_capturing()) return e; return drain(); }
API int cuMemGetInfo_v2(size_t *f, size_t *t) { ENTER(true); *t = memory_total; *f = memory_total - memory_used; return sticky; }

API int cuModuleLoadData(Module **m, const void *image) {
  ENTER(true);
  int arch = 0;
  const size_t n = elf_bytes(static_cast<const unsigned char *>(image), arch);
  if (n == 0) return INVALID_IMAGE;
  if (arch / 10 != device().major || arch % 10 > device().minor) return NO_BINARY;
  *m = new Module{std::string(static_cast<const char *>(image), n)};
  modules.insert(*m);
  return OK;
}
API int cuModuleUnload(Module *m) {
  ENTER(true);
  needed(!execs.empty(), "module unloaded before the graphs that launch its kernels");
  drain();
  if (!modules.erase(m)) return INVALID_HANDLE;
  delete m;
  return OK;
}
API int cuModuleGetFunction(Function **f, Module *m, const char *name) {
  ENTER(true);
  if (!modules.count(m)) return INVALID_HANDLE;
  // The kernel must be in the image that the backend loaded, not only in the simulator.
  if (m->image.find(std::string(".text.") + name) == std::string::npos) return NOT_FOUND;
  for (sim::Kernel *k = sim::Kernel::first; k; k = k->next)
    if (!strcmp(k->name, name)) {
      auto &fn = functions[name];
      if (!fn) fn.reset(new Function{k});
      *f = fn.get();
      return OK;
    }
  return NOT_FOUND;
}
API int cuFuncSetAttribute(Function *f, int attr, int v) {
  ENTER(true);
  if (attr == 9) return v < -1 || v > 100 ? INVALID_VALUE : OK;  // carveout: a hint
  if (attr != 8 || v < 0 || v > device().max_shared) return INVALID_VALUE;
  f->max_dynamic = size_t(v);
  return OK;
}
API int cuFuncGetAttribute(int *v, int, Function *) { ENTER(true); *v = 0; return OK; }
API int cuOccupancyMaxActiveBlocksPerMultiprocessor(int *n, Function *, int threads, size_t) { ENTER(true); *n = threads > 0 ? 2048 / threads : 0; return OK; }

static int launch(Function *f, sim::Dim3 g, sim::Dim3 b, size_t shared, Stream *s, void **params) {
  const size_t threads = size_t(b.x) * b.y * b.z;
  if (!f || !params || !params[0] || g.x == 0 || g.y == 0 || g.z == 0 || g.y > 65535 || g.z > 65535 || threads == 0) return INVALID_VALUE;
  if (threads > size_t(f->kernel->max_threads) || threads % 32 != 0) return OUT_OF_RESOURCES;
  if (shared > f->max_dynamic) return INVALID_VALUE;
  if (g.x % unsigned(f->kernel->cluster) != 0 || threads * size_t(f->kernel->cluster) > size_t(sim::kMaxThreads)) return INVALID_CLUSTER_SIZE;
  // The driver copies the parameters at the launch.
  std::shared_ptr<unsigned char> copy(static_cast<unsigned char *>(aligned_alloc(64, (f->kernel->param_bytes + 127) / 64 * 64)), free);
  memcpy(copy.get(), params[0], f->kernel->param_bytes);
  const sim::Kernel *k = f->kernel;
  launches++;
  return enqueue(s, [=] { return sim::run_grid(*k, copy.get(), g, b, shared) ? OK : LAUNCH_FAILED; });
}
API int cuLaunchKernel(Function *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, Stream *s, void **params, void **) {
  ENTER(true);
  return launch(f, {gx, gy, gz}, {bx, by, bz}, shared, s, params);
}
API int cuLaunchKernelEx(const sim::LaunchConfig *c, Function *f, void **params, void **) {
  ENTER(true);
  // The one attribute that the binding uses.
  if (c->num_attrs != 1 || !c->attrs || c->attrs->id != sim::kProgrammaticSerialization || c->attrs->value[0] != 1) return INVALID_VALUE;
  overlapped++;
  return launch(f, {c->gx, c->gy, c->gz}, {c->bx, c->by, c->bz}, c->shared, reinterpret_cast<Stream *>(c->stream), params);
}

API int cuTensorMapEncodeTiled(void *map, int type, unsigned rank, void *base, const uint64_t *dims, const uint64_t *strides, const uint32_t *box, const uint32_t *steps,
                               int interleave, int swizzle, int promotion, int fill) {
  ENTER(false);
  return sim::encode_tensor_map(map, type, int(rank), base, dims, strides, box, steps, interleave, swizzle, promotion, fill) ? OK : INVALID_VALUE;
}

API int cuMemAlloc_v2(uintptr_t *p, size_t n) {
  ENTER(true);
  if (int e = not_capturing()) return e;
  if (n == 0) return INVALID_VALUE;
  if (n > memory_total - memory_used) return OUT_OF_MEMORY;
  auto *raw = static_cast<unsigned char *>(aligned_alloc(256, (n + 2 * kGuard + 255) / 256 * 256));
  if (!raw) return OUT_OF_MEMORY;
  memset(raw, kGuardByte, kGuard);
  memset(raw + kGuard, 0xff, n);
  memset(raw + kGuard + n, kGuardByte, kGuard);
  *p = reinterpret_cast<uintptr_t>(raw + kGuard);
  allocations[*p] = {raw, n};
  memory_used += n;
  return OK;
}
API int cuMemFree_v2(uintptr_t p) {
  ENTER(true);
  auto it = allocations.find(p);
  if (it == allocations.end()) return INVALID_VALUE;
  drain();
  memory_used -= it->second.bytes;
  free(it->second.raw);
  allocations.erase(it);
  return OK;
}
API int cuMemHostAlloc(void **p, size_t n, unsigned) {
  ENTER(true);
  if (int e = not_capturing()) return e;
  *p = aligned_alloc(4096, (n + 4095) / 4096 * 4096);
  if (!*p) return OUT_OF_MEMORY;
  memset(*p, 0xff, n);
  host_allocations[reinterpret_cast<uintptr_t>(*p)] = n;
  return OK;
}
API int cuMemFreeHost(void *p) {
  ENTER(true);
  if (!host_allocations.erase(reinterpret_cast<uintptr_t>(p))) return INVALID_VALUE;
  drain();
  free(p);
  return OK;
}
API int cuMemHostGetDevicePointer_v2(uintptr_t *d, void *p, unsigned) {
  ENTER(true);
  if (!in_host(reinterpret_cast<uintptr_t>(p), 1)) return INVALID_VALUE;
  *d = reinterpret_cast<uintptr_t>(p);
  return OK;
}
API int cuMemcpyHtoDAsync_v2(uintptr_t d, const void *h, size_t n, Stream *s) {
  ENTER(true);
  if (!in_device(d, n)) return INVALID_VALUE;
  copies++;
  copied_bytes += n;
  void *dst = reinterpret_cast<void *>(d);
  if (in_host(reinterpret_cast<uintptr_t>(h), n)) return enqueue(s, [=] { memcpy(dst, h, n); return OK; });
  // Pageable memory is staged during the call.
  auto staged = std::make_shared<std::string>(static_cast<const char *>(h), n);
  return enqueue(s, [=] { memcpy(dst, staged->data(), n); return OK; });
}
API int cuMemcpyDtoHAsync_v2(void *h, uintptr_t d, size_t n, Stream *s) {
  ENTER(true);
  if (!in_device(d, n)) return INVALID_VALUE;
  copies++;
  copied_bytes += n;
  memset(h, 0xee, n);
  return enqueue(s, [=] { memcpy(h, reinterpret_cast<void *>(d), n); return OK; });
}
API int cuMemcpyDtoDAsync_v2(uintptr_t d, uintptr_t src, size_t n, Stream *s) {
  ENTER(true);
  if (!in_device(d, n) || !in_device(src, n)) return INVALID_VALUE;
  if (d < src + n && src < d + n) return INVALID_VALUE;
  copies++;
  copied_bytes += n;
  return enqueue(s, [=] { memcpy(reinterpret_cast<void *>(d), reinterpret_cast<void *>(src), n); return OK; });
}
API int cuMemsetD8Async(uintptr_t d, unsigned char v, size_t n, Stream *s) {
  ENTER(true);
  if (!in_device(d, n)) return INVALID_VALUE;
  return enqueue(s, [=] { memset(reinterpret_cast<void *>(d), v, n); return OK; });
}

API int cuStreamCreateWithPriority(Stream **s, unsigned, int) { ENTER(true); *s = new Stream; streams.insert(*s); return OK; }
API int cuStreamDestroy_v2(Stream *s) { ENTER(true); if (!streams.count(s)) return INVALID_HANDLE; drain(); streams.erase(s); delete s; return OK; }
API int cuStreamSynchronize(Stream *s) {
  ENTER(true);
  if (!streams.count(s)) return INVALID_HANDLE;
  if (int e = not_capturing()) return e;
  return drain();
}
API int cuStreamQuery(Stream *s) { ENTER(true); if (!streams.count(s)) return INVALID_HANDLE; return drain(); }
API int cuStreamWaitEvent(Stream *s, Event *e, unsigned) { ENTER(true); return streams.count(s) && events.count(e) ? sticky : int(INVALID_HANDLE); }
API int cuStreamBeginCapture_v2(Stream *s, int) {
  ENTER(true);
  if (!streams.count(s)) return INVALID_HANDLE;
  if (s->capturing) return INVALID_VALUE;
  s->capturing = true;
  s->invalid = false;
  s->recorded.clear();
  return OK;
}
API int cuStreamEndCapture(Stream *s, Graph **g) {
  ENTER(true);
  if (!streams.count(s) || !s->capturing) return INVALID_VALUE;
  s->capturing = false;
  if (s->invalid) { *g = nullptr; return CAPTURE_INVALIDATED; }
  *g = new Graph{std::move(s->recorded)};
  graphs.insert(*g);
  return OK;
}

API int cuEventCreate(Event **e, unsigned) { ENTER(true); *e = new Event; events.insert(*e); return OK; }
API int cuEventDestroy_v2(Event *e) { ENTER(true); if (!events.count(e)) return INVALID_HANDLE; drain(); events.erase(e); delete e; return OK; }
API int cuEventRecord(Event *e, Stream *s) {
  ENTER(true);
  if (!events.count(e)) return INVALID_HANDLE;
  e->recorded = true;
  e->reached = false;
  return enqueue(s, [=] { e->reached = true; return OK; });
}
API int cuEventQuery(Event *e) { ENTER(true); if (!events.count(e)) return INVALID_HANDLE; if (int r = drain()) return r; return e->recorded && !e->reached ? int(NOT_READY) : int(OK); }
API int cuEventSynchronize(Event *e) { ENTER(true); if (!events.count(e)) return INVALID_HANDLE; return drain(); }
API int cuEventElapsedTime(float *ms, Event *a, Event *b) {
  ENTER(true);
  if (!events.count(a) || !events.count(b)) return INVALID_HANDLE;
  *ms = 1;  // the simulator has no clock of the device
  return drain();
}

API int cuGraphInstantiateWithFlags(Graph **e, Graph *g, unsigned long long) {
  ENTER(true);
  if (!graphs.count(g)) return INVALID_HANDLE;
  *e = new Graph{g->nodes};
  execs.insert(*e);
  return OK;
}
API int cuGraphLaunch(Graph *e, Stream *s) {
  ENTER(true);
  if (!execs.count(e)) return INVALID_HANDLE;
  for (auto &w : e->nodes)
    if (int r = enqueue(s, w)) return r;
  return OK;
}
API int cuGraphDestroy(Graph *g) { ENTER(true); if (!graphs.erase(g)) return INVALID_HANDLE; delete g; return OK; }
API int cuGraphExecDestroy(Graph *e) { ENTER(true); if (!execs.count(e)) return INVALID_HANDLE; drain(); execs.erase(e); delete e; return OK; }

// Frees everything, for tests of failing clean-up.
API void sim_reset() {
  std::lock_guard<std::recursive_mutex> hold(mu);
  queue.clear();
  for (auto &[p, a] : allocations) free(a.raw);
  for (auto &[p, n] : host_allocations) free(reinterpret_cast<void *>(p));
  for (auto *s : streams) delete s;
  for (auto *e : events) delete e;
  for (auto *m : modules) delete m;
  for (auto *g : graphs) delete g;
  for (auto *g : execs) delete g;
  allocations.clear(); host_allocations.clear(); streams.clear(); events.clear(); modules.clear(); graphs.clear(); execs.clear();
  memory_used = 0;
  for (int &r : retained) r = 0;
  sticky = 0;
  disorder = 0;
}
// The text of the last kernel's failure, eight bytes at a time; zeros end it.
API uint64_t sim_failure(uint64_t word) {
  std::lock_guard<std::recursive_mutex> hold(mu);
  uint64_t bytes = 0;
  const char *text = sim::last_failure();
  if (word * 8 < strlen(text)) memcpy(&bytes, text + word * 8, strnlen(text + word * 8, 8));
  return bytes;
}
// Whether memory accesses are checked: the library was built with -fsanitize=address.
API int sim_sanitized() {
#ifdef __SANITIZE_ADDRESS__
  return 1;
#else
  return 0;
#endif
}
