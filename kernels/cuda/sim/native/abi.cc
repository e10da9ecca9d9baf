// What a driver promises beyond its calls: which prototype a symbol has since
// which CUDA version (cuGetProcAddress), and the layout of what is passed by address.
//
// With the real cuda.h on the include path and -DSIM_CUDA_H the layouts below are
// compared with it at compile time (TestCudaHeader).
#include <dlfcn.h>

#include "abi.h"

#ifdef SIM_CUDA_H
#include <cuda.h>
#define SAME(ours, a, theirs, b) static_assert(offsetof(ours, a) == offsetof(theirs, b) && sizeof(ours::a) == sizeof(((theirs *)0)->b), #b)
static_assert(sizeof(sim::LaunchConfig) == sizeof(CUlaunchConfig), "CUlaunchConfig");
SAME(sim::LaunchConfig, gx, CUlaunchConfig, gridDimX);
SAME(sim::LaunchConfig, gy, CUlaunchConfig, gridDimY);
SAME(sim::LaunchConfig, gz, CUlaunchConfig, gridDimZ);
SAME(sim::LaunchConfig, bx, CUlaunchConfig, blockDimX);
SAME(sim::LaunchConfig, by, CUlaunchConfig, blockDimY);
SAME(sim::LaunchConfig, bz, CUlaunchConfig, blockDimZ);
SAME(sim::LaunchConfig, shared, CUlaunchConfig, sharedMemBytes);
SAME(sim::LaunchConfig, stream, CUlaunchConfig, hStream);
SAME(sim::LaunchConfig, attrs, CUlaunchConfig, attrs);
SAME(sim::LaunchConfig, num_attrs, CUlaunchConfig, numAttrs);
static_assert(sizeof(sim::LaunchAttribute) == sizeof(CUlaunchAttribute), "CUlaunchAttribute");
SAME(sim::LaunchAttribute, id, CUlaunchAttribute, id);
SAME(sim::LaunchAttribute, value, CUlaunchAttribute, value);
static_assert(sim::kProgrammaticSerialization == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION, "attribute id");
static_assert(sizeof(CUtensorMap) == 128 && alignof(CUtensorMap) == 64, "CUtensorMap");
static_assert(CU_TENSOR_MAP_DATA_TYPE_UINT32 == 2 && CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 == 9 && CU_TENSOR_MAP_SWIZZLE_128B == 3 && CU_TENSOR_MAP_L2_PROMOTION_L2_256B == 3, "tensor map enumerators");
static_assert(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES == 8 && CU_STREAM_NON_BLOCKING == 1 && CU_EVENT_DISABLE_TIMING == 2, "flags");
static_assert(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL == 1, "capture mode");
static_assert(CU_MEMHOSTALLOC_PORTABLE == 1 && CU_MEMHOSTALLOC_DEVICEMAP == 2, "host memory flags");
static_assert(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK == 8 && CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT == 16 && CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE == 38 &&
              CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR == 75 && CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR == 76 &&
              CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR == 81 && CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN == 97, "attributes");
static_assert(CUDA_ERROR_OUT_OF_MEMORY == 2 && CUDA_ERROR_NO_DEVICE == 100 && CUDA_ERROR_NO_BINARY_FOR_GPU == 209 && CUDA_ERROR_NOT_FOUND == 500 &&
              CUDA_ERROR_NOT_READY == 600 && CUDA_ERROR_ILLEGAL_ADDRESS == 700 && CUDA_ERROR_LAUNCH_FAILED == 719, "result codes");
#else  // cuda.h declares cuGetProcAddress in a newer form

namespace {

// Versions in which the prototype that the simulator implements appeared (cudaTypedefs.h).
struct Versioned { const char *name, *symbol; int since; };
const Versioned kVersioned[] = {
    {"cuDeviceTotalMem", "cuDeviceTotalMem_v2", 3020},
    {"cuDevicePrimaryCtxRelease", "cuDevicePrimaryCtxRelease_v2", 11000},
    {"cuMemGetInfo", "cuMemGetInfo_v2", 3020},
    {"cuMemAlloc", "cuMemAlloc_v2", 3020},
    {"cuMemFree", "cuMemFree_v2", 3020},
    {"cuMemHostGetDevicePointer", "cuMemHostGetDevicePointer_v2", 3020},
    {"cuMemcpyHtoDAsync", "cuMemcpyHtoDAsync_v2", 3020},
    {"cuMemcpyDtoHAsync", "cuMemcpyDtoHAsync_v2", 3020},
    {"cuMemcpyDtoDAsync", "cuMemcpyDtoDAsync_v2", 3020},
    {"cuStreamDestroy", "cuStreamDestroy_v2", 4000},
    {"cuEventDestroy", "cuEventDestroy_v2", 4000},
    {"cuStreamBeginCapture", "cuStreamBeginCapture_v2", 10010},
    {"cuLaunchKernelEx", "cuLaunchKernelEx", 11060},
    {"cuGraphInstantiateWithFlags", "cuGraphInstantiateWithFlags", 11040},
    {"cuTensorMapEncodeTiled", "cuTensorMapEncodeTiled", 12000},
};

int old_prototype(...) { return 1; }  // CUDA_ERROR_INVALID_VALUE: nobody may call it

}  // namespace

// A caller that asks for an older version than the prototype's gets the older
// prototype on a real driver; here it gets a function that fails.
extern "C" __attribute__((visibility("default"))) int cuGetProcAddress(const char *name, void **fn, int version, unsigned long long) {
  const char *symbol = name;
  for (auto &v : kVersioned)
    if (!strcmp(v.name, name)) {
      if (version < v.since) { *fn = reinterpret_cast<void *>(&old_prototype); return 0; }
      symbol = v.symbol;
    }
  Dl_info self;
  if (!dladdr(reinterpret_cast<void *>(&cuGetProcAddress), &self)) return 500;
  void *lib = dlopen(self.dli_fname, RTLD_NOW | RTLD_NOLOAD);
  *fn = lib ? dlsym(lib, symbol) : nullptr;
  if (lib) dlclose(lib);
  return *fn ? 0 : 500;  // CUDA_ERROR_NOT_FOUND
}
#endif
