// The two concrete kinds on vectors and on scalars, host and device: gates and their derivatives by location.
#pragma once
#if defined(__CUDACC__) || defined(VDK_EMULATED)
#include "../cuda/vmath.cuh"
#else
#include "../common/elementary.h"
#endif
#include "double_math.h"
#include "kinds.h"

namespace vdk {

#ifdef VDK_ISA
VDK_HD VecF exponential(VecF x) { return exp_f32(x); }
VDK_HD VecD exponential(VecD x) { return exp_f64(x); }
#elif defined(__CUDACC__) || defined(VDK_EMULATED)
VDK_DEVICE float exponential(float x) { return exp_compensated(x); }
VDK_DEVICE double exponential(double x) { return exp_f64(x); }
#endif

// 1 / (1 + e^-x) and 1 / (1 + e^x), each exact where it is small, and 0 where its exponential is not normal.
template <class T, class V>
VDK_HD void sigmoids(V x, V& of_x, V& of_minus_x) {
  constexpr T kMost = sizeof(T) == 4 ? 87 : 700;
  const auto positive = x > V{};
  const V size = positive ? x : V{} - x;
  const V e = size > V{} + kMost ? V{} : exponential(V{} - size);  // of NaN it is NaN
  const V large = reciprocal(1 + e), small = e * large;
  of_x = positive ? large : small;
  of_minus_x = positive ? small : large;
}

template <class T>
struct ConcreteNumbers {
  T per_temperature, low, width, slope;  // width = high - low, slope = width / temperature

  ConcreteNumbers(double temperature, double low, double high)
      : per_temperature(T(1 / temperature)),
        low(T(low)),
        width(T(high - low)),
        slope(T((high - low) / temperature)) {}
};

// With `odds` the logarithm of u / (1 - u).
template <class T, class V>
VDK_HD void concrete_draw(GateKind kind, const ConcreteNumbers<T>& n, V odds, V location, V& theta,
                          V& slope) {
  V s, rest;
  sigmoids<T>((odds + location) * n.per_temperature, s, rest);
  if (kind == GateKind::kHardConcrete) {
    const V stretched = s * n.width + n.low, zero{}, one = zero + 1;
    theta = minimum(one, maximum(zero, stretched));
    slope = (stretched > zero) & (stretched < one) ? s * rest * n.slope : zero;
    theta = stretched == stretched ? theta : stretched;  // NaN stays NaN
  } else {
    V p, keep;
    sigmoids<T>(location, p, keep);
    theta = rest * (1 + exponential(location));
    slope = theta * (p - s * n.per_temperature);
  }
}

}  // namespace vdk
