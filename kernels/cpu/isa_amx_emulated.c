// The tile code of AMX on any machine, slow: for tests.
#define VL 4
#define MC_TILE
#define MC_TILE_EMULATED
#define MC_NAME amx_emulated
#include "mc_body.h"
