// KL of one weight and its derivative, as functions of la = log_alpha (of mu and sigma under a normal prior):
// on vectors and on scalars, float and double, host and device. The formulas and their sources:
// vdropkern/ops/kl/reference.py. Written so that nothing overflows:
// log(1 + 1/alpha) = max(-la, 0) + log1p(exp(-|la|)).
#pragma once
#if defined(__CUDACC__) || defined(VDK_EMULATED)
#include "../cuda/vmath.cuh"
#else
#include "../common/vmath.h"
#endif
#include "prior.h"

namespace vdk {

constexpr double kKlEps = 1e-8;  // la = log_sigma2 - log(mu^2 + eps)

template <class V>
struct KlTerms {
  V value, slope;  // KL, dKL/dla = dKL/dlog_sigma2
};

// What a formula may use of a weight: alpha = s / a. With log_alpha as the parameter, a = 1 and s = alpha.
// Under a normal prior a = mu^2 without eps, and la is log_sigma2.
template <class V>
struct Weight {
  V a, s, la;  // mu^2 + eps, sigma^2, log_alpha
};

// exp(-|la|)
template <class V>
VDK_HD V kl_ratio(const Weight<V>& w) {
  return minimum(w.a, w.s) * reciprocal(maximum(w.a, w.s));
}

// 1/2 log(1 + 1/alpha)
template <class V>
VDK_HD V kl_ard_slope(const Weight<V>& w) {
  return w.a * reciprocal(w.a + w.s) / -2;
}
template <class V>
VDK_HD KlTerms<V> kl_ard(const Weight<V>& w) {
  return {(maximum(V{}, -w.la) + vlog1p_unit(kl_ratio(w))) / 2, kl_ard_slope(w)};
}

// Molchanov et al. 2017 add a bump to the ARD term: k1 sigmoid(-(k2 + k3 la)).
constexpr double kK1 = 0.63576, kK2 = 1.87320, kK3 = 1.48695;
template <class T, class V>
VDK_HD KlTerms<V> kl_bump(V la) {
  constexpr T k1 = T(kK1), k2 = T(kK2), k3 = T(kK3);
  const V e = vexp(minimum(V{} + 80, -(la * k3 + k2)));  // the reciprocal stays normal
  const V q = reciprocal(e + 1), rest = e * q;           // sigmoids of k2 + k3 la and of its negative
  return {rest * k1, rest * q * (-k1 * k3)};
}

// Kingma et al. 2015, a cubic in alpha.
template <class T, class V>
VDK_HD KlTerms<V> kl_kingma(const Weight<V>& w) {
  constexpr T c1 = T(1.16145124), c2 = T(-1.50204118), c3 = T(0.58629921);
  const V a = w.s * reciprocal(w.a);
  return {(c1 + c2 + c3) - (w.la / 2 + a * (a * (a * c3 + c2) + c1)),
          -(a * (a * (a * (3 * c3) + 2 * c2) + c1) + T(0.5))};
}

// Without approximation: series of positive terms with Poisson weights below u = 1/(2 alpha) = cut, the
// asymptotic expansion of Dawson's function above.
template <class T>
struct ExactSeries {
  static constexpr bool kDouble = sizeof(T) == 8;
  static constexpr T kCut = kDouble ? 40 : 20;
  static constexpr int kTerms = kDouble ? 160 : 60, kTail = kDouble ? 28 : 12;
};
template <class T, class V>
VDK_HD KlTerms<V> kl_exact(const Weight<V>& w) {
  using S = ExactSeries<T>;
  const V u = w.a * reciprocal(w.s) / 2;
  const V near = minimum(V{} + S::kCut, u);
  V p = vexp(-near), value{}, slope{};
  T harmonic = 0;
  VDK_UNROLL
  for (int k = 0; k < S::kTerms; ++k) {
    const T odd = T(1) / (2 * k + 1);
    value += p * harmonic;
    slope += p * odd;
    harmonic += odd;
    p *= near * (T(1) / (k + 1));
  }
  const V inverse = (V{} + 1) / maximum(V{} + S::kCut, u);
  V power = V{} + 1, tail_value{}, tail_slope = V{} + T(0.5);
  T a = 1;
  VDK_UNROLL
  for (int k = 1; k < S::kTail; ++k) {
    a *= (2 * k - 1) * T(0.5);
    power *= inverse;
    tail_value += power * (a / (2 * k));
    tail_slope += power * (a / 2);
  }
  constexpr T kConstant = T(0.5 * (0.69314718055994531 + 0.57721566490153286));  // (ln 2 + Euler's gamma) / 2
  const auto far = u > V{} + S::kCut;
  return {far ? kConstant - w.la / 2 - tail_value : value, far ? -tail_slope : -near * slope};
}

// 1/2 (sigma^2 + mu^2) / s^2 - 1/2 - 1/2 log(sigma^2 / s^2)
template <class T, class V>
VDK_HD KlTerms<V> kl_normal(const Weight<V>& w, const NormalPrior<T>& prior) {
  return {((w.s + w.a) * prior.precision - w.la - (prior.log_precision + 1)) / 2,
          (w.s * prior.precision - 1) / 2};
}

template <class T, Prior::Kind kPrior, class V>
VDK_HD KlTerms<V> kl_terms(const Weight<V>& w, const NormalPrior<T>& normal) {
  if constexpr (kPrior == Prior::kNormal)
    return kl_normal<T>(w, normal);
  else if constexpr (kPrior == Prior::kKingma)
    return kl_kingma<T>(w);
  else if constexpr (kPrior == Prior::kExact)
    return kl_exact<T>(w);
  else
    return kl_ard(w);  // of kLogUniform the first part
}

// scale dKL/dmu of a weight whose slope = scale dKL/dla is known; dla/dmu = -2 mu / (mu^2 + eps).
template <class T, class V>
VDK_HD V kl_by_mu(Prior::Kind prior, const NormalPrior<T>& normal, V mu, V slope, T scale) {
  if (prior == Prior::kNormal) return mu * (scale * normal.precision);
  return slope * mu * T(-2) * reciprocal(mu * mu + T(kKlEps));
}

}  // namespace vdk
