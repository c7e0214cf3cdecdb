#pragma once
#include <cmath>
#include <cstdint>
#include <vector>

#include "common/scalar.h"
#include "linear_lrt/cuda.h"

namespace emu {

using vdk::cuda::Number;

// Numbers of a type in memory. Half types are cut, not rounded: the truth is computed from what was stored.
struct Array {
  Number type;
  std::vector<float> floats;
  std::vector<uint16_t> halves;

  Array(Number type, size_t n) : type(type), floats(n, NAN), halves(n, 0x7fff) {}
  void* data() { return type == Number::kFloat ? static_cast<void*>(floats.data()) : halves.data(); }
  void set(size_t i, double x) {
    const uint32_t bits = vdk::as_uint(float(x));
    floats[i] = float(x);
    if (type == Number::kBFloat16) halves[i] = uint16_t(bits >> 16);
    if (type == Number::kHalf)
      halves[i] =
          x == 0
              ? 0
              : uint16_t((bits >> 16 & 0x8000) | (((bits >> 23 & 0xff) - 112) << 10) | (bits >> 13 & 0x3ff));
  }
  double get(size_t i) const {
    if (type == Number::kFloat) return floats[i];
    const uint32_t h = halves[i];
    if (type == Number::kBFloat16) return vdk::as_float(h << 16);
    const double size =
        std::ldexp(double((h & 0x3ff) + (h & 0x7c00 ? 1024 : 0)), int(h >> 10 & 31) - (h & 0x7c00 ? 25 : 24));
    return h & 0x8000 ? -size : size;
  }
};

}  // namespace emu
