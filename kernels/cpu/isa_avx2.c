#if defined(__x86_64__)
#pragma GCC target("avx2,fma,f16c,bmi,bmi2")
#define VL 8
#define MC_AVX2
#define MC_NAME avx2
#include "mc_body.h"
#endif
