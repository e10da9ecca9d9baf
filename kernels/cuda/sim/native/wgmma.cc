// Products of warpgroups (wgmma.mma_async, bf16, m64nNk16). Operands are read through
// the real descriptors: see src/hopper.cuh for what their fields mean.
#include "async.h"

namespace sim {

namespace {

constexpr int kM = 64, kK = 16, kMostN = 256;
enum { K_MAJOR = 0, MN_MAJOR = 1 };

// A decoded matrix descriptor.
struct Matrix {
  uint32_t start, leading, stride;
  int bits;  // of the swizzle: its lines have 16 << bits bytes
  int major;
  uint32_t line() const { return 16u << bits; }

  // Address of 16 bytes: K_MAJOR those of row i, columns 8j to 8j+7; MN_MAJOR those of
  // column i, rows 8j to 8j+7.
  uint32_t chunk(uint32_t i, uint32_t j) const {
    if (bits == 0) {
      if (major == K_MAJOR) return start + i % 8 * 16 + i / 8 * stride + j * leading;
      return start + i % 8 * 16 + i / 8 * leading + j * stride;
    }
    uint32_t at = start + i % 8 * line() + i / 8 * stride;
    if (major == K_MAJOR) at += j * 16;
    else at += j % (line() / 16) * 16 + j / (line() / 16) * leading;
    return swizzled(at, bits);
  }
  // Chunks of an operand of that many rows.
  uint32_t lines(int rows) const { return major == K_MAJOR ? uint32_t(rows) : uint32_t(kK); }
  uint32_t per_line(int rows) const { return major == K_MAJOR ? kK / 8 : uint32_t(rows) / 8; }
};

// Empty if the descriptor is one that this model knows.
std::string decode(uint64_t d, int major, int rows, Matrix &m) {
  static const int kBits[] = {0, 3, 2, 1};
  m.start = uint32_t(d & 0x3fff) << 4;
  m.leading = uint32_t(d >> 16 & 0x3fff) << 4;
  m.stride = uint32_t(d >> 32 & 0x3fff) << 4;
  m.bits = kBits[d >> 62];
  m.major = major;
  if (d & 0x3ff1c000c000c000ull) return "bits outside of its fields";
  if (d >> 49 & 7) return "a base offset, which is not modelled";
  if (m.bits && m.start % (m.line() * 8) >= m.line()) return "a swizzled matrix that does not begin with whole units of 8 lines";
  if (m.bits && m.stride % (m.line() * 8) != 0) return "a stride that is not whole units of 8 lines";
  if (m.bits && major == MN_MAJOR && uint32_t(rows) * 2 > m.line() && m.leading % (m.line() * 8) != 0) return "a leading offset that is not whole units of 8 lines";
  return "";
}

// Reads an operand to out[k][row]; false after a complaint.
bool read(Cta &c, uint64_t descriptor, int major, int rows, float (*out)[kMostN], const char *which) {
  Matrix m;
  const std::string wrong = decode(descriptor, major, rows, m);
  if (!wrong.empty()) {
    complain("wgmma: descriptor %#llx of %s has %s", static_cast<unsigned long long>(descriptor), which, wrong.c_str());
    return false;
  }
  for (uint32_t i = 0; i < m.lines(rows); i++)
    for (uint32_t j = 0; j < m.per_line(rows); j++) {
      const uint32_t address = m.chunk(i, j), offset = shared_offset(c, address, 16);
      if (offset == ~0u) {
        complain("wgmma: %s reaches shared address %#x, outside of the dynamic shared memory of %zu bytes", which, address, c.shared_bytes);
        return false;
      }
      if (arriving(c, offset, 16)) {
        complain("wgmma: %s reads shared+%#x of cta %d while a copy to it is under way", which, offset, c.rank);
        return false;
      }
      check_visible(c, offset, 16, "wgmma");
      uint16_t v[8];
      memcpy(v, c.shared + offset, 16);
      for (uint32_t e = 0; e < 8; e++) {
        if (major == K_MAJOR) out[j * 8 + e][i] = bf16_to_float(v[e]);
        else out[i][j * 8 + e] = bf16_to_float(v[e]);
      }
    }
  return true;
}

// Executes the product that the warpgroup of `first` has first in its oldest group.
bool execute(Cta &c, int first, size_t which) {
  Thread *group = &threads[c.first + first];
  const Product &p = group[0].product_groups.front()[which];
  for (int i = 1; i < 128; i++) {
    const Product &q = group[i].product_groups.front()[which];
    if (q.n != p.n || q.a != p.a || q.b != p.b || q.a_major != p.a_major || q.b_major != p.b_major || q.in_registers != p.in_registers || q.accumulate != p.accumulate) {
      complain("wgmma: threads %d and %d of a warpgroup give different operands", first, first + i);
      return false;
    }
  }
  static float a[kK][kMostN], b[kK][kMostN];
  if (!p.in_registers) {
    if (!read(c, p.a, p.a_major, kM, a, "a")) return false;
  } else {
    for (int i = 0; i < 128; i++)
      for (int r = 0; r < 4; r++) {
        const uint32_t v = group[i].product_groups.front()[which].registers[r];
        const int row = i / 32 * 16 + i % 32 / 4 + (r & 1) * 8, k = i % 4 * 2 + (r >> 1) * 8;
        a[k][row] = bf16_to_float(v & 0xffff);
        a[k + 1][row] = bf16_to_float(v >> 16);
      }
  }
  if (!read(c, p.b, p.b_major, p.n, b, "b")) return false;
  for (int row = 0; row < kM; row++) {
    // As mma: the 16 products are added up from zero, then to the sum.
    alignas(16) float s[kMostN];
    for (int n = 0; n < p.n; n += 4) {
      Four sum = {};
      for (int k = 0; k < kK; k++) {
        Four x;
        memcpy(&x, &b[k][n], 16);
        sum += a[k][row] * x;
      }
      memcpy(s + n, &sum, 16);
    }
    for (int t = 0; t < 4; t++) {
      Thread &to = group[row / 16 * 32 + row % 8 * 4 + t];
      float *d = to.sums_of(to.product_groups.front()[which].d).v.data() + row % 16 / 8 * 2;
      for (int j = 0; j < p.n / 8; j++)
        for (int i = 0; i < 2; i++) d[j * 4 + i] = (p.accumulate ? d[j * 4 + i] : 0.f) + s[j * 8 + t * 2 + i];
    }
  }
  return true;
}

// Gives a thread the sums that no product under way goes to any more.
void deliver(Thread &t) {
  for (size_t i = 0; i < t.sums.size();) {
    Sums &s = t.sums[i];
    if (s.pending > 0) {
      i++;
      continue;
    }
    for (size_t j = 0; j < s.v.size(); j++) {
      uint32_t u;
      memcpy(&u, s.d + j, 4);
      if (u != 0xffffffff) return complain("wgmma: thread %d wrote a sum before its product was waited for", t.number);
    }
    memcpy(s.d, s.v.data(), s.v.size() * 4);
    s = std::move(t.sums.back());
    t.sums.pop_back();
    t.fenced = false;
  }
}

bool reads(const Cta &c, const Product &p, uint32_t offset, uint32_t bytes) {
  for (int side = p.in_registers; side < 2; side++) {
    Matrix m;
    const int rows = side ? p.n : kM;
    if (!decode(side ? p.b : p.a, side ? p.b_major : p.a_major, rows, m).empty()) continue;  // execute will complain
    for (uint32_t i = 0; i < m.lines(rows); i++)
      for (uint32_t j = 0; j < m.per_line(rows); j++) {
        const uint32_t at = shared_offset(c, m.chunk(i, j), 16);
        if (at != ~0u && at < offset + bytes && offset < at + 16) return true;
      }
  }
  return false;
}

}  // namespace

const char *read_by(const Cta &c, uint32_t offset, uint32_t bytes) {
  for (int i = 0; i < count; i++) {
    const Thread &t = threads[c.first + i];
    auto stored = [&](const std::vector<Store> &stores) {
      for (const Store &s : stores) {
        const auto at = size_t(s.src - c.shared);
        if (at < offset + bytes && offset < at + s.bytes) return true;
      }
      return false;
    };
    if (stored(t.stores)) return "a bulk store";
    for (auto &g : t.store_groups)
      if (stored(g)) return "a bulk store";
    if (i % 128 != 0) continue;
    for (const Product &p : t.products)
      if (reads(c, p, offset, bytes)) return "a product";
    for (auto &g : t.product_groups)
      for (const Product &p : g)
        if (reads(c, p, offset, bytes)) return "a product";
  }
  return nullptr;
}

// An aligned instruction, as all of wgmma: the lanes of a warp meet at it.
void wgmma_fence() {
  collective(OP_WARP_SYNC, nullptr, 0);
  running->fenced = true;
}

void wgmma(float *d, int n, const uint32_t *a_registers, uint64_t a, int a_major, uint64_t b, int b_major, bool accumulate) {
  Thread &t = *running;
  if (n < 8 || n > kMostN || n % 8 != 0) FAIL("wgmma: %d columns", n);
  const int i = t.number - t.cta->first;
  if (i / 128 * 128 + 128 > count) FAIL("wgmma: thread %d is in no warpgroup of 128", i);
  if (!t.fenced) FAIL("wgmma: no wgmma_fence since registers of the product could be touched");
  Sums *s = t.find_sums(d);
  if (!s) {
    t.sums.emplace_back();
    s = &t.sums.back();
    s->d = d;
    s->v.assign(d, d + n / 2);
    memset(d, 0xff, size_t(n) * 2);
  }
  if (int(s->v.size()) != n / 2) FAIL("wgmma: products of %d and of %zu columns to the same sums", n, s->v.size() * 2);
  s->pending++;
  Product p{};
  p.d = d;
  p.n = n;
  p.in_registers = a_registers;
  p.accumulate = accumulate;
  if (a_registers) memcpy(p.registers, a_registers, 16);
  p.a = a;
  p.b = b;
  p.a_major = a_major;
  p.b_major = b_major;
  t.products.push_back(p);
}

void wgmma_commit() {
  running->product_groups.push_back(std::move(running->products));
  running->products.clear();
}

void wgmma_wait(int pending) {
  Thread &t = *running;
  Cta &c = *t.cta;
  if (int(t.product_groups.size()) <= pending) return;
  const int first = (t.number - c.first) / 128 * 128;
  GroupBarrier &g = c.product_waits[first / 128];
  if (++g.arrived < 128) {
    g.waiters.push_back(t.number);
    park(WAIT_PRODUCTS);
    return;
  }
  g.arrived = 0;
  Thread *group = &threads[c.first + first];
  while (int(t.product_groups.size()) > pending) {
    for (int i = 0; i < 128; i++)
      if (group[i].product_groups.size() != t.product_groups.size() || group[i].product_groups.front().size() != t.product_groups.front().size())
        FAIL("wgmma: threads %d and %d of a warpgroup issued different products", t.number, first + i);
    for (size_t p = 0; p < t.product_groups.front().size(); p++)
      if (!execute(c, first, p)) stop();
    for (int i = 0; i < 128; i++) {
      for (const Product &p : group[i].product_groups.front()) group[i].sums_of(p.d).pending--;
      group[i].product_groups.pop_front();
    }
  }
  for (int i = 0; i < 128; i++) deliver(group[i]);
  wake(g.waiters);
}

}  // namespace sim
