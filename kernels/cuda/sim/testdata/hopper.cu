// Kernels that show whether the model of Hopper does what it says.
#include "hopper.cuh"

namespace {

struct ProductParams {
  tensormap a_map;
  tensormap b_map;
  ptr b;
  ptr out;
  i32 a_kind;     // A_*
  i32 b_major;    // K_MAJOR, MN_MAJOR
  i32 b_swizzle;  // of the descriptor
};

enum { A_SHARED = 0, A_REGISTERS = 1, A_TRANSPOSED = 2 };
constexpr int kN = 128, kK = 64;  // of the product; 64 rows

template <int B> void multiply(const ProductParams &p, unsigned char *a, float (&d)[kN / 2], uint64_t b, int k, uint32_t *registers) {
  if (p.a_kind == A_SHARED) wgmma<B>(d, descriptor(shared_address(a)) + k * 2, b, k);
  else if (p.a_kind == A_TRANSPOSED) wgmma<B, MN_MAJOR>(d, descriptor(shared_address(a) + k * 2048, 16, 1024, SWIZZLE_128), b, k);
  else wgmma<B>(d, registers, b, k);
}

// out[64][128] = a[64][64] b[128][64]^T, with every way to give the operands. a: one box
// of 64 lines; b: as many boxes as its lines of 128, 64 or 32 bytes need.
void product(const ProductParams &p) {
  DYNAMIC_SHARED(shared);
  uint64_t *full = reinterpret_cast<uint64_t *>(shared);
  unsigned char *a = shared + 1024, *b = a + 64 * 128;
  const int span = p.b_swizzle == SWIZZLE_128 ? 128 : p.b_swizzle == SWIZZLE_64 ? 64 : 32, lines = p.b_major == K_MAJOR ? kN : kK;
  const int wide = p.b_major == K_MAJOR ? kK : kN, boxes = wide * 2 / span;
  if (thread_x == 0) {
    barrier_init(full, 1);
    barrier_init_fence();
  }
  sync_block();
  if (p.b_swizzle == SWIZZLE_NONE) {
    // Units of 8 lines of 16 bytes: neighbours along the rows (n), then along k.
    const bf16 *from = static_cast<const bf16 *>(p.b);
    for (int i = thread_x; i < kN * kK; i += 128) {
      const int n = i / kK, k = i % kK, unit = k / 8 * (kN / 8) + n / 8;
      const int in = p.b_major == K_MAJOR ? n % 8 * 8 + k % 8 : k % 8 * 8 + n % 8;
      reinterpret_cast<bf16 *>(b)[unit * 64 + in] = p.b_major == K_MAJOR ? from[n * kK + k] : from[k * kN + n];
    }
    fence_async();
    sync_block();
  }
  if (thread_x == 0) {
    barrier_expect(full, 64 * 128 + (p.b_swizzle == SWIZZLE_NONE ? 0 : kN * kK * 2));
    copy_box(a, &p.a_map, full, 0, 0);
    if (p.b_swizzle != SWIZZLE_NONE)
      for (int i = 0; i < boxes; i++) copy_box(b + i * lines * span, &p.b_map, full, i * span / 2, 0);
  }
  barrier_wait(full, 0);
  const int lane = thread_x & 31, warp = thread_x >> 5;
  uint32_t registers[4][4];
  for (int k = 0; k < 4; k++) {
    const int row = warp * 16 + (lane & 15), chunk = k * 2 + (lane >> 4);
    if (p.a_kind == A_REGISTERS) ldmatrix(registers[k], a + row * 128 + ((chunk ^ (row & 7)) << 4));
  }
  float d[kN / 2];
  wgmma_fence();
  for (int k = 0; k < 4; k++) {
    const uint32_t at = shared_address(b);
    if (p.b_major == K_MAJOR) {
      const uint32_t in = uint32_t(k * 32 / span * lines * span + k * 32 % span);
      const uint64_t m = p.b_swizzle == SWIZZLE_NONE ? descriptor(at + uint32_t(k * 2 * kN * 16), kN * 16, 128, SWIZZLE_NONE) : descriptor(at + in, 16, 8 * span, p.b_swizzle);
      multiply<K_MAJOR>(p, a, d, m, k, registers[k]);
    } else {
      const uint64_t m = p.b_swizzle == SWIZZLE_NONE ? descriptor(at + uint32_t(k * 2 * kN * 16), kN * 16, 128, SWIZZLE_NONE)
                                                     : descriptor(at + uint32_t(k * 16 * span), lines * span, 8 * span, p.b_swizzle);
      multiply<MN_MAJOR>(p, a, d, m, k, registers[k]);
    }
  }
  wgmma_commit();
  wgmma_wait<0>();
  pin(d);
  float *out = static_cast<float *>(p.out);
  for (int j = 0; j < kN / 8; j++)
    for (int i = 0; i < 4; i++) out[(warp * 16 + lane / 4 + i / 2 * 8) * kN + j * 8 + lane % 4 * 2 + i % 2] = d[j * 4 + i];
}

struct MoveParams {
  tensormap from;  // bf16 [32][64], boxes of 64 x 16, no swizzle
  tensormap to;
  ptr in;
  ptr out;
};

// Two ctas; cta r copies rows 16r.. to both, then: cta 0 stores all by boxes, one line
// beyond the tensor at each end; cta 1 by bytes, turned twice through registers. A
// producer warp and a consumer warpgroup pass the slots on in both ctas.
void move(const MoveParams &p) {
  DYNAMIC_SHARED(shared);
  uint64_t *full = reinterpret_cast<uint64_t *>(shared), *empty = full + 1, *late = full + 2;
  unsigned char *rows = shared + 1024, *copy = rows + 4096;
  const int rank = cluster_rank();
  if (thread_x == 0) {
    barrier_init(full, 1);
    barrier_init(empty, 2);
    barrier_init(late, 32);
    barrier_init_fence();
  }
  cluster_sync();
  if (thread_x < 32) {  // producer
    for (int turn = 0; turn < 3; turn++) {
      if (turn > 0) barrier_wait(empty, (turn - 1) & 1);
      if (thread_x == 0) {
        barrier_expect(full, 4096);
        copy_box_to(3, rows + rank * 2048, &p.from, full, 0, rank * 16);
      }
    }
    // cp.async tells by a barrier too.
    copy16(copy + 4096 + thread_x * 16, static_cast<const unsigned char *>(p.in) + thread_x * 16, true);
    copy_arrive(late);
  } else if (thread_x >= 128) {
    const int in = thread_x - 128, lane = in & 31, warp = in >> 5;
    for (int turn = 0; turn < 3; turn++) {
      while (!barrier_try(full, turn & 1)) {}
      uint32_t r[4];
      const int at = warp * 1024 + lane / 8 * 16 + lane % 8 * 128;  // four 8 x 8 matrices of a warp's 8 rows
      for (int half = 0; half < 2; half++) {
        ldmatrix_t(r, rows + at + half * 64);
        stmatrix_t(copy + at + half * 64, r);
      }
      sync_group(1, 128);
      if (in < 2) barrier_arrive_at(empty, in);
    }
    barrier_wait(late, 0);
    for (int i = in; i < 512; i += 128)
      if (copy[4096 + i] != static_cast<const unsigned char *>(p.in)[i]) copy[i] = 0xee;
    fence_async();
    sync_group(2, 128);
    if (in == 0) {
      if (rank == 0) {
        store_box(&p.to, copy, 0, -1);
        store_box(&p.to, copy + 2048, 0, 15);
      } else {
        store_bytes(p.out, copy, 4096);
      }
      store_commit();
      store_wait_read<0>();
    }
  }
  cluster_sync();
}

struct MistakeParams {
  tensormap map;  // bf16 [64][64], the box all of it
  ptr out;
  i32 which;
};

// One mistake a call, after which the simulator stops the kernel.
void mistake(const MistakeParams &p) {
  DYNAMIC_SHARED(shared);
  uint64_t *full = reinterpret_cast<uint64_t *>(shared), *other = full + 3;
  unsigned char *a = shared + 1024, *b = a + 8192;
  if (thread_x == 0) {
    barrier_init(full, 1);
    barrier_init(full + 1, 1);
    barrier_init_fence();
  }
  sync_block();
  const uint64_t x = descriptor(shared_address(a)), y = descriptor(shared_address(b));
  float d[32];
  auto load = [&](unsigned char *to, uint64_t *done, int bytes) {
    if (thread_x != 0) return;
    barrier_expect(done, bytes);
    copy_box(to, &p.map, done, 0, 0);
  };
  auto start = [&](uint64_t left, uint64_t right) {
    wgmma_fence();
    wgmma(d, left, right, 0);
    wgmma_commit();
  };
  auto both = [&] {
    load(a, full, 8192);
    load(b, full + 1, 8192);
    barrier_wait(full, 0);
    barrier_wait(full + 1, 0);
  };
  switch (p.which) {
    case 0: barrier_wait(full + 1, 0); break;
    case 1:
      load(a, full, 8192 + 16);
      barrier_wait(full, 0);
      break;
    case 2:
      load(a, full, 8192 - 16);
      barrier_wait(full, 0);
      break;
    case 3:
      if (thread_x < 2) barrier_expect(full, 16);
      break;
    case 4: barrier_arrive(other); break;
    case 5:
      load(a, full, 8192);
      load(b, full + 1, 8192);
      barrier_wait(full + 1, 0);
      sync_block();
      load(b, full, 8192);
      start(x, y);
      wgmma_wait<0>();
      break;
    case 6:
      both();
      start(x, y);
      sync_block();
      load(b, full, 8192);
      wgmma_wait<0>();
      break;
    case 7:
      both();
      a[thread_x] = 0;
      sync_block();
      start(x, y);
      wgmma_wait<0>();
      break;
    case 8:
      both();
      wgmma(d, x, y, 0);
      break;
    case 9:
      both();
      start(x, y);
      d[3] = 1;
      wgmma_wait<0>();
      break;
    case 10:
      both();
      start(x, y);
      break;
    case 11:
      both();
      start(x, y + (thread_x == 70 ? 2 : 0));
      wgmma_wait<0>();
      break;
    case 12:
      both();
      start(x, descriptor(shared_address(b) + 128));
      wgmma_wait<0>();
      break;
    case 13:
      both();
      start(x, descriptor(shared_address(b) + 4096));
      wgmma_wait<0>();
      break;
    case 14:
      load(a, full, 8192);
      load(a, full + 1, 8192);
      break;
    case 15: load(a, full, 8192); break;
    case 16: load(a + 64, full, 8192); break;
    case 17:
      if (thread_x < 64) sync_group(1, 96);
      else sync_group(1, 128);
      break;
    case 18: take_registers<256>(); break;
    case 19:
      if (thread_x == 0) {
        store_bytes(p.out, a, 64);
        store_commit();
      }
      break;
    case 20:
      *full = 0;
      barrier_arrive(full);
      break;
    case 21:
      if (thread_x >= 32) sync_group(3, 128);
      break;
    case 22:
      both();
      if (thread_x < 64) {
        start(x, y);
        wgmma_wait<0>();
      }
      break;
    case 23:
      load(a, full, 8192);
      while (!barrier_try(full + 1, 0)) {}
      break;
    case 24:
      if (thread_x == 0) {
        a[0] = 1;
        store_bytes(p.out, a, 16);
        store_commit();
        store_wait<0>();
      }
      break;
  }
}

}  // namespace

KERNEL(product_ways, ProductParams, 128, 1) { product(p); }
CLUSTER_KERNEL(move_ways, MoveParams, 256, 1) { move(p); }
KERNEL(mistakes, MistakeParams, 128, 2) { mistake(p); }
