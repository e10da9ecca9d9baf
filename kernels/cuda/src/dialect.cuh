// The dialect in which the kernels are written: a few functions that are PTX on
// the device and plain C++ in the simulator (MC_SIM). No header of the toolkit or
// of the C library is needed on the device.
#pragma once

#ifdef MC_SIM
#include <stdint.h>
#else
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
typedef uint64_t uintptr_t;
#endif

typedef uint16_t bf16;  // bfloat16 bits

#ifdef MC_SIM

#include "dialect.h"  // of sim/native

#else  // device

#define DEVICE static __device__ __forceinline__
#define METHOD __device__ __forceinline__
#define SHARED __shared__
#define GLOBAL_CONSTANT __device__ const
#define DYNAMIC_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]
#define KERNEL(name, P, threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ P p)
// A kernel whose ctas come in pairs that see each other's shared memory (sm_90 on).
#define CLUSTER_KERNEL(name, P, threads, blocks) extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(threads, blocks) name(const __grid_constant__ P p)
#define thread_x int(threadIdx.x)
#define block_x int(blockIdx.x)
#define block_y int(blockIdx.y)
#define block_z int(blockIdx.z)
#define grid_x int(gridDim.x)
#define block_threads int(blockDim.x)
#define UNROLL _Pragma("unroll")

struct __align__(8) Vec2 { uint32_t x, y; };
struct __align__(16) Vec4 { uint32_t x, y, z, w; };

DEVICE float as_float(uint32_t u) { return __uint_as_float(u); }
DEVICE uint32_t as_bits(float f) { return __float_as_uint(f); }
DEVICE void sync_block() { __syncthreads(); }
DEVICE void sync_warp() { __syncwarp(); }
DEVICE uint32_t shuffle(uint32_t v, int from) { return __shfl_sync(0xffffffffu, v, from); }
DEVICE uint32_t shared_address(const void *p) { return uint32_t(__cvta_generic_to_shared(p)); }
// c[16x8] += a[16x16] b[16x8]: bf16 operands, f32 accumulators, fragments as in the PTX manual (mma.m16n8k16).
DEVICE void mma(float *c, const uint32_t *a, uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// Four 8x8 matrices of 16-bit elements; lane i gives the address of row i%8 of matrix i/8.
DEVICE void ldmatrix(uint32_t *r, const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
DEVICE void ldmatrix_t(uint32_t *r, const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
// Asynchronous copy of 16 bytes to shared memory, or 16 zero bytes.
DEVICE void copy16(void *dst, const void *src, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(dst)), "l"(src), "r"(there ? 16 : 0) : "memory");
}
DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> DEVICE void copy_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }
// Dependent launch (sm_90 on): overlap_next lets the next kernel start, wait_previous
// waits until the kernels in front have ended and their writes are visible.
DEVICE void overlap_next() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
DEVICE void wait_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
DEVICE float exp2_fast(float x) { float r; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x)); return r; }
DEVICE float reciprocal_fast(float x) { float r; asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x)); return r; }
// The smaller one; NaN if one is.
DEVICE float min_nan(float a, float b) { float r; asm("min.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b)); return r; }
// Never contracted into a fused multiply-add: for results that must agree between kernels.
DEVICE float add_rn(float a, float b) { return __fadd_rn(a, b); }
DEVICE float mul_rn(float a, float b) { return __fmul_rn(a, b); }
DEVICE uint32_t pack_bf16(float lo, float hi) { uint32_t r; asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo)); return r; }
DEVICE float from_f16(uint16_t h) { float f; asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h)); return f; }

#endif

DEVICE float from_bf16(uint32_t h) { return as_float(h << 16); }
DEVICE float low_bf16(uint32_t pair) { return as_float(pair << 16); }
DEVICE float high_bf16(uint32_t pair) { return as_float(pair & 0xffff0000u); }
DEVICE bf16 to_bf16(float f) { return bf16(pack_bf16(f, 0.f)); }
DEVICE float round_bf16(float f) { return low_bf16(pack_bf16(f, 0.f)); }
DEVICE float shuffle_xor(float v, int mask, int lane) { return as_float(shuffle(as_bits(v), lane ^ mask)); }
DEVICE float warp_sum(float v, int lane) {
  UNROLL for (int m = 16; m > 0; m >>= 1) v = add_rn(v, shuffle_xor(v, m, lane));
  return v;
}
DEVICE float warp_max(float v, int lane) {
  UNROLL for (int m = 16; m > 0; m >>= 1) v = fmaxf(v, shuffle_xor(v, m, lane));
  return v;
}

// Element types as in the parameter blocks.
enum { DT_F32 = 0, DT_BF16 = 1, DT_F16 = 2, DT_Q8 = 3, DT_Q4 = 4 };

DEVICE int dtype_bytes(int dt) { return dt == DT_F32 ? 4 : 2; }
DEVICE const unsigned char *element(const void *p, int dt, int64_t i) { return static_cast<const unsigned char *>(p) + i * dtype_bytes(dt); }
DEVICE unsigned char *element(void *p, int dt, int64_t i) { return static_cast<unsigned char *>(p) + i * dtype_bytes(dt); }

DEVICE float load(const void *p, int dt, int64_t i) {
  if (dt == DT_F32) return static_cast<const float *>(p)[i];
  const uint16_t h = static_cast<const uint16_t *>(p)[i];
  return dt == DT_BF16 ? from_bf16(h) : from_f16(h);
}
DEVICE void store(void *p, int dt, int64_t i, float v) {
  if (dt == DT_F32) static_cast<float *>(p)[i] = v;
  else static_cast<bf16 *>(p)[i] = to_bf16(v);
}
// Eight neighbouring elements; the address must be a multiple of 16 bytes.
DEVICE void load8(const void *p, int dt, int64_t i, float *v) {
  if (dt == DT_F32) {
    const float *f = static_cast<const float *>(p) + i;
    UNROLL for (int j = 0; j < 8; j += 4) {
      const Vec4 q = *reinterpret_cast<const Vec4 *>(f + j);
      v[j] = as_float(q.x); v[j + 1] = as_float(q.y); v[j + 2] = as_float(q.z); v[j + 3] = as_float(q.w);
    }
    return;
  }
  const Vec4 q = *reinterpret_cast<const Vec4 *>(static_cast<const bf16 *>(p) + i);
  v[0] = low_bf16(q.x); v[1] = high_bf16(q.x); v[2] = low_bf16(q.y); v[3] = high_bf16(q.y);
  v[4] = low_bf16(q.z); v[5] = high_bf16(q.z); v[6] = low_bf16(q.w); v[7] = high_bf16(q.w);
}
DEVICE void store8(void *p, int dt, int64_t i, const float *v) {
  if (dt == DT_F32) {
    float *f = static_cast<float *>(p) + i;
    UNROLL for (int j = 0; j < 8; j += 4) {
      const Vec4 q = {as_bits(v[j]), as_bits(v[j + 1]), as_bits(v[j + 2]), as_bits(v[j + 3])};
      *reinterpret_cast<Vec4 *>(f + j) = q;
    }
    return;
  }
  const Vec4 q = {pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7])};
  *reinterpret_cast<Vec4 *>(static_cast<bf16 *>(p) + i) = q;
}

// Elementwise functions, numbered as kernels.Act.
enum { ACT_NONE = 0, ACT_GELU = 1, ACT_QUICK_GELU = 2, ACT_SILU = 3 };
DEVICE float sigmoid(float x) { return reciprocal_fast(1.f + exp2_fast(-1.4426950408889634f * x)); }
DEVICE float silu(float x) { return x * sigmoid(x); }
// x/2 (1 + erf(x/sqrt 2)) = max(x,0) - |x| 2^q(|x|), q(t) = log2(erfc(t/sqrt 2)/2). The polynomial minimises
// the largest of two errors for t up to 9: 1e-7 of the result, and 2e-3 of the small results of negative x.
// Behind 14 the power is zero.
DEVICE float gelu(float x) {
  const float t = min_nan(fabsf(x), 14.f);
  float q = fmaf(-1.267232391910511e-06f, t, 5.1165141485398635e-05f);
  q = fmaf(q, t, -0.0008619260624982417f);
  q = fmaf(q, t, 0.008306397125124931f);
  q = fmaf(q, t, -0.05369237810373306f);
  q = fmaf(q, t, -0.4585970938205719f);
  q = fmaf(q, t, -1.1512495279312134f);
  q = fmaf(q, t, -0.9999889135360718f);
  return fmaf(-t, exp2_fast(q), fmaxf(x, 0.f));
}
DEVICE float activate(float x, int act) {
  switch (act) {
    case ACT_GELU: return gelu(x);
    case ACT_QUICK_GELU: return x * sigmoid(1.702f * x);
    case ACT_SILU: return silu(x);
  }
  return x;
}
