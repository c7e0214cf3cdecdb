// Compiled once per instruction set.
#include "vectors.h"

#include "../common/vmath.h"

namespace vdk {
namespace VDK_ISA {
namespace {

template <class F>
VDK_INLINE void each_vector(const float* x, float* y, int64_t n, F&& f) {
  for (int64_t i = 0; i < n; i += kLanes<float>) store(y + i, f(load(x + i)));
}

}  // namespace

void exp_of(const float* x, float* y, int64_t n) {
  each_vector(x, y, n, [](VecF v) __attribute__((always_inline)) { return vexp(v); });
}
void log_of(const float* x, float* y, int64_t n) {
  each_vector(x, y, n, [](VecF v) __attribute__((always_inline)) { return vlog(v); });
}
void log1p_unit_of(const float* x, float* y, int64_t n) {
  each_vector(x, y, n, [](VecF v) __attribute__((always_inline)) { return vlog1p_unit(v); });
}

}  // namespace VDK_ISA
}  // namespace vdk
