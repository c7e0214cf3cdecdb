// What kinds of gates there are, and how x lies in memory.
#pragma once
#include <cstdint>

namespace vdk {

enum class GateKind { kNormal, kLogNormal, kHardConcrete, kConcrete, kSwitch };

// x is [rows, channels, spatial], or [rows, spatial, channels] where channels are last in memory.
struct GateShape {
  int64_t rows, channels, spatial;
  bool channels_last;
};

}  // namespace vdk
