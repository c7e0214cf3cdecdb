// The KL of the priors that contain 1/2 log(1 + 1/alpha), on vectors: many weights share one logarithm, since
// log(1 + 1/alpha) = max(-la, 0) + log(1 + e), e = exp(-|la|), and the sum of the second terms is the
// logarithm of a product.
#pragma once
#include "formulas.h"

namespace vdk {
namespace VDK_ISA {

// The sum of log(1 + e) over e in [0, 1]. Kept is the product less 1: in it little e are not rounded away.
template <class V>
struct SumOfLogs {
  static constexpr int kMost = 64;  // terms, which leave the product of floats far from overflow
  V product{};

  VDK_INLINE void add(V e) { product += product * e + e; }
  VDK_INLINE V sum() const {
    const V p = product + 1;
    return vlog(p) + (product - (p - 1)) * reciprocal(p);
  }
};

template <class V>
struct SplitTerms {
  V value, slope, e;  // KL - 1/2 log(1 + e), dKL/dla
};

template <class V>
VDK_INLINE SplitTerms<V> split_ard(const Weight<V>& w) {
  return {maximum(V{}, -w.la) / 2, kl_ard_slope(w), kl_ratio(w)};
}
VDK_INLINE SplitTerms<VecD> split_log_uniform(const Weight<VecD>& w) {
  const SplitTerms<VecD> ard = split_ard(w);
  const KlTerms<VecD> bump = kl_bump<double>(w.la);
  return {ard.value + bump.value, ard.slope + bump.slope, ard.e};
}
// In float without kl_bump's exponential: with t = 1 / alpha it is t^k3 / exp(k2), and k3 is so close to 3/2
// that a cubic makes up for the rest: exp((3/2 - k3) la) to 2e-8 of the KL. Both sigmoids share a division.
VDK_INLINE SplitTerms<VecF> split_log_uniform(const Weight<VecF>& w) {
  constexpr float k1 = kK1, k3 = kK3, u = 1.5 - kK3, scale = 0.15363125;  // exp(-k2)
  const VecF alpha = minimum(VecF{} + 0x1p124f, maximum(VecF{} + 0x1p-29f, w.s * reciprocal(w.a)));
  const VecF t = reciprocal(alpha);
  // beyond 20 the bump is constant or nothing
  const VecF la = minimum(VecF{} + 20, maximum(VecF{} - 20, w.la));
  const VecF power = ((la * (scale * u * u * u / 6) + scale * u * u / 2) * la + scale * u) * la + scale;
  const VecF bump = t * square_root(t) * power;
  const VecF a1 = alpha + 1, b1 = bump + 1, r = reciprocal(a1 * b1);
  const VecF q = a1 * r, rest = bump * q;  // sigmoids of k2 + k3 la and of its negative
  return {maximum(VecF{}, -w.la) * 0.5f + rest * k1, b1 * r * -0.5f - rest * q * (k1 * k3),
          minimum(alpha, t)};
}

template <Prior::Kind kPrior, class V>
VDK_INLINE SplitTerms<V> split_terms(const Weight<V>& w) {
  if constexpr (kPrior == Prior::kArd)
    return split_ard(w);
  else
    return split_log_uniform(w);
}

}  // namespace VDK_ISA
}  // namespace vdk
