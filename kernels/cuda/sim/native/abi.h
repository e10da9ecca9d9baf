// Structures that the driver reads by address, as cuda.h 12.9 lays them out.
#pragma once
#include "sim.h"

namespace sim {

constexpr unsigned kProgrammaticSerialization = 6;

struct LaunchAttribute {
  unsigned id;
  char pad[4];
  unsigned char value[64];
};

struct LaunchConfig {
  unsigned gx, gy, gz, bx, by, bz, shared;
  struct Stream *stream;
  LaunchAttribute *attrs;
  unsigned num_attrs;
};

}  // namespace sim
