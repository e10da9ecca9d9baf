#if defined(__x86_64__)
#pragma GCC target("avx2,fma,f16c,bmi,bmi2,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni")
#define VL 16
#define MC_AVX512
#define MC_DOT_BF16
#define MC_TILE
#define MC_NAME amx
#include "mc_body.h"
#endif
