// Tensor maps: what the driver encodes and the copy engine makes of it.
#include "async.h"

namespace sim {

namespace {

constexpr uint32_t kMapMark = 0x70616d74;
const int kElementBytes[] = {1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4};  // by CUtensorMapDataType
constexpr int kMostBox = 256;

int swizzle_bits(const TensorMap &m) { return m.swizzle; }          // 0: none, 1: 32 bytes, 2: 64, 3: 128
uint32_t swizzle_span(const TensorMap &m) { return 16u << m.swizzle; }

}  // namespace

bool encode_tensor_map(void *map, int type, int rank, void *base, const uint64_t *dims, const uint64_t *strides, const uint32_t *box,
                       const uint32_t *steps, int interleave, int swizzle, int promotion, int fill) {
  const auto address = reinterpret_cast<uintptr_t>(base);
  if (!map || reinterpret_cast<uintptr_t>(map) % 64 != 0 || type < 0 || size_t(type) >= sizeof kElementBytes / sizeof *kElementBytes) return false;
  if (rank < 1 || rank > 5 || address % 16 != 0 || interleave != 0 || swizzle < 0 || swizzle > 3 || promotion < 0 || promotion > 3 || fill != 0) return false;
  TensorMap m{};
  m.mark = kMapMark;
  m.type = uint8_t(type);
  m.rank = uint8_t(rank);
  m.swizzle = uint8_t(swizzle);
  m.element_bytes = uint8_t(kElementBytes[type]);
  m.base = static_cast<unsigned char *>(base);
  for (int i = 0; i < rank; i++) {
    if (dims[i] < 1 || dims[i] > 1ull << 32 || box[i] < 1 || box[i] > kMostBox || steps[i] != 1) return false;
    m.dims[i] = dims[i];
    m.box[i] = uint16_t(box[i]);
  }
  for (int i = 0; i + 1 < rank; i++) {
    if (strides[i] % 16 != 0 || strides[i] >= 1ull << 40) return false;
    m.strides[i] = strides[i];
  }
  const uint32_t row = box[0] * m.element_bytes;
  if (row % 16 != 0 || (swizzle && row > swizzle_span(m))) return false;
  memcpy(map, &m, sizeof m);
  return true;
}

const TensorMap &tensor_map(const void *map, int rank) {
  const TensorMap &m = *static_cast<const TensorMap *>(map);
  if (reinterpret_cast<uintptr_t>(map) % 64 != 0 || m.mark != kMapMark) FAIL("no tensor map at %p", map);
  if (m.rank != rank) FAIL("a box at %d coordinates of a tensor of %d dimensions", rank, m.rank);
  if (m.swizzle && uint32_t(m.box[0]) * m.element_bytes != swizzle_span(m)) FAIL("rows of a box of %d bytes in a swizzle of %u are not modelled", m.box[0] * m.element_bytes, swizzle_span(m));
  return m;
}

uint32_t box_bytes(const TensorMap &m) {
  uint32_t n = m.element_bytes;
  for (int i = 0; i < m.rank; i++) n *= m.box[i];
  return n;
}

std::vector<Piece> box_pieces(const TensorMap &m, const int *at, uint32_t address, uint32_t window) {
  std::vector<Piece> pieces;
  const uint32_t row_bytes = uint32_t(m.box[0]) * m.element_bytes, rows = box_bytes(m) / row_bytes, chunk = 16u / m.element_bytes;
  for (uint32_t row = 0; row < rows; row++) {
    const unsigned char *from = m.base;
    bool inside = true;
    uint32_t rest = row;
    for (int i = 1; i < m.rank; i++) {
      const int64_t c = int64_t(at[i]) + rest % m.box[i];
      rest /= m.box[i];
      inside = inside && c >= 0 && c < int64_t(m.dims[i]);
      from += c * int64_t(m.strides[i - 1]);
    }
    if (!inside) continue;
    for (uint32_t e = 0; e < m.box[0]; e += chunk) {
      const int64_t c = int64_t(at[0]) + e, first = c < 0 ? 0 : c, last = c + chunk < int64_t(m.dims[0]) ? c + chunk : int64_t(m.dims[0]);
      if (first >= last) continue;
      const auto bytes = uint32_t(last - first) * m.element_bytes;
      const unsigned char *global = from + first * m.element_bytes;
      if (!in_global(global, bytes)) FAIL("a tensor map reaches %u bytes at %p, which are not allocated", bytes, static_cast<const void *>(global));
      const uint32_t to = swizzled(address + row * row_bytes + e * m.element_bytes, swizzle_bits(m));
      pieces.push_back({to - window + uint32_t(first - c) * m.element_bytes, global, bytes});
    }
  }
  return pieces;
}

}  // namespace sim
