// Division by a number known at the launch: a multiplication and a shift.
#pragma once
#include "simt.cuh"

namespace vdk {

// Exact below 2^31 (Granlund and Montgomery 1994, figure 4.1); beyond it divides. 1 <= divisor < 2^31.
struct Divisor {
  uint32_t divisor = 1, multiplier = 0;
  int shift = 0;

  Divisor() = default;
  explicit Divisor(int64_t d) : divisor(uint32_t(d)) {
    int log2 = 0;
    while (int64_t(1) << log2 < d) ++log2;
    multiplier = uint32_t(((uint64_t(1) << (31 + log2)) + uint64_t(d) - 1) / uint64_t(d));
    shift = log2 - 1;
  }

  VDK_DEVICE int of(int n) const {
    return divisor == 1 ? n : int(__umulhi(uint32_t(n), multiplier) >> shift);
  }
};

}  // namespace vdk
