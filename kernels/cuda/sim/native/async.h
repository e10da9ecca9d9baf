// What the parts of the model of Hopper share: async.cc (barriers and copies),
// tensormap.cc, wgmma.cc.
#pragma once
#include "fiber.h"

namespace sim {

// CUtensorMap as the simulated driver fills it.
struct TensorMap {
  uint32_t mark;
  uint8_t type, rank, swizzle, element_bytes;
  unsigned char *base;
  uint64_t dims[5], strides[4];  // elements; bytes
  uint16_t box[5];
};
static_assert(sizeof(TensorMap) <= 128, "CUtensorMap");

// Bytes between shared memory (offset) and global memory.
struct Piece { uint32_t offset; const unsigned char *global; uint32_t bytes; };

// The map that a kernel gave, checked.
const TensorMap &tensor_map(const void *map, int rank);
uint32_t box_bytes(const TensorMap &m);
// The parts of a box inside the tensor; `address` is the shared address of the box,
// of which the offset is `window` less.
std::vector<Piece> box_pieces(const TensorMap &m, const int *at, uint32_t address, uint32_t window);
// Bits that the swizzle of 128 >> (3 - bits) bytes xors into a shared address.
inline uint32_t swizzled(uint32_t address, int bits) { return address ^ ((address >> 7 & ((1u << bits) - 1)) << 4); }

// Offset in shared memory of bytes at a shared address; ~0 if they are not all inside.
uint32_t shared_offset(const Cta &c, uint32_t address, uint32_t bytes);
std::vector<unsigned char> &view_of(Cta &c);
// Complains if the bytes were written by ordinary stores and not shown by a fence.
void check_visible(Cta &c, uint32_t offset, uint32_t bytes, const char *what);
// Whether a copy to the bytes is under way.
bool arriving(const Cta &c, uint32_t offset, uint32_t bytes);
// Who still reads the bytes, or null: products of a warpgroup, a bulk store.
const char *read_by(const Cta &c, uint32_t offset, uint32_t bytes);

}  // namespace sim
