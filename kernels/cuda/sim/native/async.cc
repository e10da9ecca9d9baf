// What Hopper adds: barriers in shared memory, the copy engine and its tensor maps,
// clusters, products of warpgroups.
//
// Everything asynchronous happens as late as it may: a copy when no fibre can go on
// without it, a product when its warpgroup waits for it. Until then its destination
// is poisoned (shared memory, sums) and its sources must not change. So a wait that
// is missing, a slot released too early, sums touched too early show as wrong results
// or are errors.
#include "async.h"

namespace sim {

namespace {

// Shared addresses begin here: 0 is none, and a swizzle repeats after 1 KiB.
constexpr uint32_t kWindow = 1024;
constexpr uint64_t kMark = 0x6d62617272696572;  // in the memory of a barrier
constexpr long kMostBytes = (1 << 20) - 1;      // of a barrier's count of bytes

// Something on its way to the shared memory of a cta: bytes, or only an arrival.
struct Copy {
  Cta *to;
  uint64_t done;              // place of the barrier
  uint32_t offset, bytes;     // what is poisoned meanwhile
  std::vector<Piece> pieces;  // of the bytes; the rest are zero
  std::vector<PendingCopy> copies;
  int thread = -1;  // of an arrival after cp.async: by that thread
};
std::deque<Copy> under_way;

int cluster_phase, cluster_arrived;
std::vector<int> at_cluster;

// A barrier's place: its offset in the cta's shared memory, or its address if it is
// a variable (which all ctas share; their barriers are told apart by the cta).
uint64_t place_of(const Cta &c, const void *p) {
  const auto *at = static_cast<const unsigned char *>(p);
  return at >= c.shared && at < c.shared + c.shared_bytes ? uint64_t(at - c.shared) : reinterpret_cast<uintptr_t>(p);
}
uint64_t *memory_of(const Cta &c, uint64_t place) {
  return reinterpret_cast<uint64_t *>(place < c.shared_bytes ? reinterpret_cast<uintptr_t>(c.shared) + place : place);
}

std::string name_of(const Cta &c, uint64_t place) {
  char text[80];
  auto it = c.barriers.find(place);
  const int number = it == c.barriers.end() ? -1 : it->second.number;
  if (place < c.shared_bytes) snprintf(text, sizeof text, "barrier %d (shared+%#llx) of cta %d", number, static_cast<unsigned long long>(place), c.rank);
  else snprintf(text, sizeof text, "barrier %d (a variable) of cta %d", number, c.rank);
  return text;
}

// The barrier at a place; null after a complaint.
Barrier *find(Cta &c, uint64_t place) {
  auto it = c.barriers.find(place);
  if (it == c.barriers.end()) complain("%s is used and was not initialised", name_of(c, place).c_str());
  else if (*memory_of(c, place) != kMark) complain("the memory of %s was overwritten", name_of(c, place).c_str());
  else if (c.alive == 0) complain("%s is used after its cta has ended", name_of(c, place).c_str());
  else return &it->second;
  return nullptr;
}

bool ended(const Barrier &b, uint32_t parity) { return (b.phase & 1) != parity; }

void update(Cta &c, uint64_t place, Barrier &b, int arrivals, long bytes) {
  b.pending -= arrivals;
  b.bytes += bytes;
  if (b.pending < 0) return complain("%s: more than its %d arrivals in a phase", name_of(c, place).c_str(), b.arrivals);
  if (b.bytes > kMostBytes || b.bytes < -kMostBytes) return complain("%s: %ld bytes exceed what it can count", name_of(c, place).c_str(), b.bytes);
  if (b.pending == 0 && b.bytes == 0) {
    b.phase++;
    b.pending = b.arrivals;
    wake(b.waiters);
  }
}

bool overlaps(uint32_t a, uint32_t an, uint32_t b, uint32_t bn) { return a < b + bn && b < a + an; }

// Offset in the cta's shared memory of bytes that a copy reads or writes.
uint32_t offset_of(const Cta &c, const void *p, size_t n, size_t alignment, const char *what) {
  const auto *at = static_cast<const unsigned char *>(p);
  if (at < c.shared || at + n > c.shared + c.shared_bytes) FAIL("%s: %zu bytes at %p are outside the dynamic shared memory of cta %d", what, n, p, c.rank);
  const auto offset = size_t(at - c.shared);
  if (offset % alignment != 0) FAIL("%s: shared+%#zx is not on a multiple of %zu bytes", what, offset, alignment);
  return uint32_t(offset);
}

void start_copy(Copy copy) {
  Cta &c = *copy.to;
  if (c.alive == 0) FAIL("a copy to shared memory of cta %d, which has ended", c.rank);
  for (const Copy &other : under_way)
    if (other.to == &c && other.bytes && overlaps(copy.offset, copy.bytes, other.offset, other.bytes))
      FAIL("a copy to shared+%#x..%#x of cta %d while another to the same bytes is under way", copy.offset, copy.offset + copy.bytes, c.rank);
  if (const char *reader = read_by(c, copy.offset, copy.bytes)) FAIL("a copy to shared+%#x..%#x of cta %d while %s reads there", copy.offset, copy.offset + copy.bytes, c.rank, reader);
  memset(c.shared + copy.offset, 0xff, copy.bytes);
  view_of(c);
  memset(c.async_view.data() + copy.offset, 0xff, copy.bytes);
  under_way.push_back(std::move(copy));
}

void finish(Copy &copy) {
  Cta &c = *copy.to;
  Barrier *b = find(c, copy.done);
  if (!b) return;
  finish_copies(copy.copies);
  if (copy.thread >= 0) return update(c, copy.done, *b, 1, 0);
  memset(c.shared + copy.offset, 0, copy.bytes);
  for (const Piece &p : copy.pieces) memcpy(c.shared + p.offset, p.global, p.bytes);
  memcpy(c.async_view.data() + copy.offset, c.shared + copy.offset, copy.bytes);
  update(c, copy.done, *b, 0, -long(copy.bytes));
}

}  // namespace

std::vector<unsigned char> &view_of(Cta &c) {
  if (c.async_view.empty()) c.async_view.assign(c.shared_bytes, 0xff);  // as shared memory starts
  return c.async_view;
}

void check_visible(Cta &c, uint32_t offset, uint32_t bytes, const char *what) {
  auto &view = view_of(c);
  if (memcmp(view.data() + offset, c.shared + offset, bytes) == 0) return;
  if (!c.fenced) return complain("%s reads shared+%#x of cta %d, written without fence_async", what, offset, c.rank);
  memcpy(view.data(), c.shared, c.shared_bytes);
  c.fenced = false;
}

bool arriving(const Cta &c, uint32_t offset, uint32_t bytes) {
  for (const Copy &copy : under_way)
    if (copy.to == &c && overlaps(offset, bytes, copy.offset, copy.bytes)) return true;
  return false;
}

void async_begin() {
  under_way.clear();
  cluster_phase = cluster_arrived = 0;
  at_cluster.clear();
}

bool async_advance() {
  if (under_way.empty()) return false;
  const auto which = under_way.begin() + any(uint32_t(under_way.size()));
  Copy copy = std::move(*which);
  under_way.erase(which);
  finish(copy);
  return true;
}

void async_flush(const Thread &t) {
  for (size_t i = 0; i < under_way.size();) {
    if (under_way[i].thread != t.number) {
      i++;
      continue;
    }
    Copy copy = std::move(under_way[i]);
    under_way.erase(under_way.begin() + long(i));
    finish(copy);
  }
}

void async_thread_end(Thread &t) {
  if (!t.products.empty() || !t.product_groups.empty()) complain("a thread ended with products nobody waited for");
  if (!t.stores.empty() || !t.store_groups.empty()) complain("a thread ended with bulk stores nobody waited for");
}

void async_cta_end(Cta &c) {
  for (const Copy &copy : under_way)
    if (copy.to == &c) return complain("cta %d ended while a copy to shared+%#x is under way: nobody waited for %s", c.rank, copy.offset, name_of(c, copy.done).c_str());
  // Registers taken must have been given.
  const int most = 65536 / (kernel->max_threads * kernel->blocks) / 8 * 8, each = most < 255 ? most : 248;
  int sum = 0;
  for (int i = 0; i < count; i++) {
    const int n = threads[c.first + i].registers;
    sum += n ? n : each;
    if (n != threads[c.first + i / 128 * 128].registers) return complain("thread %d has not the registers of its warpgroup", i);
  }
  if (sum > each * count) complain("the warpgroups take %d registers of %d", sum, each * count);
}

void async_end() {
  for (Cta &c : ctas)
    for (auto &[place, b] : c.barriers)
      if (b.bytes != 0) return complain("%s ends with %ld bytes announced that no copy brought", name_of(c, place).c_str(), b.bytes);
}

std::string waits_text(const Thread &t) {
  switch (t.waits) {
    case WAIT_BLOCK: return "for all threads of the cta";
    case WAIT_GROUP: {
      const GroupBarrier &g = t.cta->groups[t.id];
      return "for named barrier " + std::to_string(t.id) + ", " + std::to_string(g.arrived) + " of " + std::to_string(g.threads) + " threads arrived";
    }
    case WAIT_CLUSTER: return "for all threads of the cluster";
    case WAIT_BARRIER: {
      const uint64_t place = place_of(*t.cta, t.waits_for);
      auto it = t.cta->barriers.find(place);
      if (it == t.cta->barriers.end()) return "for a barrier";
      const Barrier &b = it->second;
      return "for " + name_of(*t.cta, place) + ", parity " + std::to_string(t.parity) + ": in phase " + std::to_string(b.phase) + " of it " +
             std::to_string(b.pending) + " of " + std::to_string(b.arrivals) + " arrivals and " + std::to_string(b.bytes) + " bytes are missing";
    }
    case WAIT_COLLECTIVE: return "in a warp collective (" + std::to_string(t.id) + ") for other lanes";
    case WAIT_PRODUCTS: return "in wgmma_wait for its warpgroup";
    default: return "for nothing";
  }
}

uint32_t shared_address(const void *p) { return offset_of(*running->cta, p, 1, 1, "shared_address") + kWindow; }
uint32_t shared_offset(const Cta &c, uint32_t address, uint32_t bytes) {
  return address < kWindow || address - kWindow + bytes > c.shared_bytes ? ~0u : address - kWindow;
}

void cluster_arrive() {
  Thread &t = *running;
  if (t.cluster_phase == cluster_phase + 1) FAIL("cluster_arrive twice without cluster_wait");
  t.cluster_phase = cluster_phase + 1;
  cluster_arrived++;
  release_cluster();
}

void cluster_wait() {
  if (running->cluster_phase == cluster_phase + 1) {
    at_cluster.push_back(running->number);
    park(WAIT_CLUSTER);
  }
}

void release_cluster() {
  int alive = 0;
  for (Cta &c : ctas) alive += c.alive;
  if (cluster_arrived == 0 || cluster_arrived < alive) return;
  cluster_arrived = 0;
  cluster_phase++;
  wake(at_cluster);
}

void sync_group(int id, int arrivals, bool wait) {
  if (id < 1 || id > 15 || arrivals <= 0 || arrivals % 32 != 0 || arrivals > count) FAIL("named barrier %d of %d threads", id, arrivals);
  GroupBarrier &g = running->cta->groups[id];
  if (g.arrived == 0) g.threads = arrivals;
  if (g.threads != arrivals) FAIL("named barrier %d is of %d threads for some and of %d for others", id, g.threads, arrivals);
  if (++g.arrived == g.threads) {
    g.arrived = 0;
    wake(g.waiters);
  } else if (wait) {
    g.waiters.push_back(running->number);
    park(WAIT_GROUP, nullptr, 0, id);
  }
}

void set_registers(int n) {
  if (n < 24 || n > 256 || n % 8 != 0) FAIL("%d registers a thread: want a multiple of 8 from 24 to 256", n);
  running->registers = n;
}

void barrier_init(uint64_t *b, int arrivals) {
  Cta &c = *running->cta;
  const uint64_t place = place_of(c, b);
  if (arrivals < 1 || arrivals > kMostBytes || place % 8 != 0) FAIL("barrier_init: %d arrivals at %p", arrivals, static_cast<void *>(b));
  if (c.barriers.count(place)) FAIL("%s is initialised twice", name_of(c, place).c_str());
  const int number = int(c.barriers.size());
  Barrier &made = c.barriers[place];
  made.number = number;
  made.arrivals = made.pending = arrivals;
  *b = kMark;
}

void barrier_arrive(uint64_t *b, int rank, int bytes) {
  if (rank < 0 || rank >= int(ctas.size()) || bytes < 0) FAIL("arrival at cta %d of a cluster of %zu, %d bytes", rank, ctas.size(), bytes);
  const uint64_t place = place_of(*running->cta, b);
  Cta &c = ctas[size_t(rank)];
  Barrier *at = find(c, place);
  if (!at) stop();
  // The bytes count before the arrival, which else could end the phase.
  at->bytes += bytes;
  update(c, place, *at, 1, 0);
}

bool barrier_try(uint64_t *b, uint32_t parity) {
  Cta &c = *running->cta;
  Barrier *at = find(c, place_of(c, b));
  if (!at || parity > 1) FAIL("barrier_try: parity %u", parity);
  if (ended(*at, parity)) return true;
  poll(b, parity);
  return ended(*at, parity);
}

void barrier_wait(uint64_t *b, uint32_t parity) {
  Cta &c = *running->cta;
  Barrier *at = find(c, place_of(c, b));
  if (!at || parity > 1) FAIL("barrier_wait: parity %u", parity);
  if (ended(*at, parity)) return;
  at->waiters.push_back(running->number);
  park(WAIT_BARRIER, b, parity);
}

void copy_arrive(uint64_t *b) {
  Thread &t = *running;
  Copy copy{};
  copy.to = t.cta;
  copy.done = place_of(*t.cta, b);
  copy.thread = t.number;
  for (auto &g : t.groups) {
    copy.copies.insert(copy.copies.end(), g.begin(), g.end());
    g.clear();
  }
  copy.copies.insert(copy.copies.end(), t.open.begin(), t.open.end());
  t.open.clear();
  under_way.push_back(std::move(copy));
}

void copy_bytes(void *dst, const void *src, int bytes, uint64_t *done) {
  Cta &c = *running->cta;
  if (bytes <= 0 || bytes % 16 != 0 || reinterpret_cast<uintptr_t>(src) % 16 != 0) FAIL("copy_bytes: %d bytes from %p: want multiples of 16", bytes, src);
  if (!in_global(src, size_t(bytes))) FAIL("copy_bytes reads %d bytes at %p, which are not allocated", bytes, src);
  Copy copy{};
  copy.to = &c;
  copy.done = place_of(c, done);
  copy.offset = offset_of(c, dst, size_t(bytes), 16, "copy_bytes");
  copy.bytes = uint32_t(bytes);
  copy.pieces.push_back({copy.offset, static_cast<const unsigned char *>(src), copy.bytes});
  start_copy(std::move(copy));
}

void copy_box(void *dst, const void *map, uint64_t *done, unsigned mask, const int *at, int rank) {
  Cta &own = *running->cta;
  if (mask == 0 || mask >> ctas.size()) FAIL("copy_box: to ctas %#x of a cluster of %zu", mask, ctas.size());
  const TensorMap &m = tensor_map(map, rank);
  const uint32_t bytes = box_bytes(m), offset = offset_of(own, dst, bytes, 128, "copy_box");
  const std::vector<Piece> pieces = box_pieces(m, at, offset + kWindow, kWindow);
  for (Cta &c : ctas)
    if (mask >> c.rank & 1) {
      Copy copy{};
      copy.to = &c;
      copy.done = place_of(own, done);
      copy.offset = offset;
      copy.bytes = bytes;
      copy.pieces = pieces;
      start_copy(std::move(copy));
    }
}

void store_box(const void *map, const void *src, const int *at, int rank) {
  Cta &c = *running->cta;
  const TensorMap &m = tensor_map(map, rank);
  const uint32_t bytes = box_bytes(m), offset = offset_of(c, src, bytes, 128, "store_box");
  for (const Piece &p : box_pieces(m, at, offset + kWindow, kWindow))
    running->stores.push_back({const_cast<unsigned char *>(p.global), c.shared + p.offset, p.bytes});
}

void store_bytes(void *dst, const void *src, int bytes) {
  Cta &c = *running->cta;
  if (bytes <= 0 || bytes % 16 != 0 || reinterpret_cast<uintptr_t>(dst) % 16 != 0) FAIL("store_bytes: %d bytes to %p: want multiples of 16", bytes, dst);
  if (!in_global(dst, size_t(bytes))) FAIL("store_bytes writes %d bytes at %p, which are not allocated", bytes, dst);
  const uint32_t offset = offset_of(c, src, size_t(bytes), 16, "store_bytes");
  running->stores.push_back({dst, c.shared + offset, size_t(bytes)});
}

void store_commit() {
  running->store_groups.push_back(std::move(running->stores));
  running->stores.clear();
}

void store_wait(int pending) {
  Thread &t = *running;
  Cta &c = *t.cta;
  for (; int(t.store_groups.size()) > pending; t.store_groups.pop_front())
    for (const Store &s : t.store_groups.front()) {
      check_visible(c, uint32_t(s.src - c.shared), uint32_t(s.bytes), "a bulk store");
      memcpy(s.dst, s.src, s.bytes);
    }
}

void fence_async() { running->cta->fenced = true; }

}  // namespace sim
