// The instruction set that every machine of the architecture has.
#define VL 4
#define MC_NAME base
#include "mc_body.h"
