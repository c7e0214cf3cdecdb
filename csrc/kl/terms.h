// KL of one weight and its derivative, as functions of la = log_alpha, on vectors of float or double.
// The formulas and their sources: vdropkern/ops/kl/reference.py. Written so that nothing overflows: e is
// exp(-|la|) and log(1 + 1/alpha) = max(-la, 0) + log1p(e).
#pragma once
#include "../common/vmath.h"
#include "prior.h"

namespace vdk {
namespace VDK_ISA {

constexpr double kKlEps = 1e-8;  // la = log_sigma2 - log(mu^2 + eps)

template <class V>
struct KlTerms {
  V value, slope;  // KL, dKL/dla
};

template <class V>
struct SoftplusOfMinus {
  V value, sigmoid;  // log(1 + e^-la), 1 / (1 + e^la)
};
template <class V>
VDK_INLINE SoftplusOfMinus<V> softplus_of_minus(V la) {
  const V zero = V{};
  const V e = vexp(minimum(la, -la));
  const V q = reciprocal(e + 1);
  return {maximum(-la, zero) + vlog1p_unit(e), la < zero ? q : e * q};
}

template <class V>
VDK_INLINE KlTerms<V> kl_ard(V la) {
  const auto s = softplus_of_minus(la);
  return {s.value / 2, s.sigmoid / -2};
}

// Molchanov et al. 2017 add a bump to the ARD term: k1 sigmoid(-(k2 + k3 la)).
template <class T, class V>
VDK_INLINE KlTerms<V> kl_bump(V la) {
  constexpr T k1 = T(0.63576), k2 = T(1.87320), k3 = T(1.48695);
  const V e = vexp(minimum(maximum(-(la * k3 + k2), V{} - 80), V{} + 80));
  const V q = reciprocal(e + 1), rest = e * q;  // sigmoids of k2 + k3 la and of its negative
  return {rest * k1, rest * q * (-k1 * k3)};
}

// Kingma et al. 2015, a cubic in alpha.
template <class T, class V>
VDK_INLINE KlTerms<V> kl_kingma(V la) {
  constexpr T c1 = T(1.16145124), c2 = T(-1.50204118), c3 = T(0.58629921);
  const V a = vexp(la);
  return {(c1 + c2 + c3) - (la / 2 + a * (a * (a * c3 + c2) + c1)), -(a * (a * (a * (3 * c3) + 2 * c2) + c1) + T(0.5))};
}

// Without approximation: series of positive terms with Poisson weights below u = 1/(2 alpha) = cut, the
// asymptotic expansion of Dawson's function above.
template <class T>
struct ExactSeries {
  static constexpr bool kDouble = sizeof(T) == 8;
  static constexpr T kCut = kDouble ? 40 : 20;
  static constexpr int kTerms = kDouble ? 160 : 60, kTail = kDouble ? 16 : 12;
};
template <class T, class V>
VDK_INLINE KlTerms<V> kl_exact(V la) {
  using S = ExactSeries<T>;
  const V u = vexp(minimum(-la, V{} + 80)) / 2;
  const V near = minimum(u, V{} + S::kCut);
  V p = vexp(-near), value{}, slope{};
  T harmonic = 0;
  for (int k = 0; k < S::kTerms; ++k) {
    const T odd = T(1) / (2 * k + 1);
    value += p * harmonic;
    slope += p * odd;
    harmonic += odd;
    p *= near * (T(1) / (k + 1));
  }
  const V inverse = (V{} + 1) / maximum(u, V{} + S::kCut);
  V power = V{} + 1, tail_value{}, tail_slope = V{} + T(0.5);
  T a = 1;
  for (int k = 1; k < S::kTail; ++k) {
    a *= (2 * k - 1) * T(0.5);
    power *= inverse;
    tail_value += power * (a / (2 * k));
    tail_slope += power * (a / 2);
  }
  constexpr T kConstant = T(0.5 * (0.69314718055994531 + 0.57721566490153286));  // (ln 2 + Euler's gamma) / 2
  const auto far = u > V{} + S::kCut;
  return {far ? kConstant - la / 2 - tail_value : value, far ? -tail_slope : -near * slope};
}

template <class T, Prior kPrior, class V>
VDK_INLINE KlTerms<V> kl_terms(V la) {
  if constexpr (kPrior == Prior::kKingma)
    return kl_kingma<T>(la);
  else if constexpr (kPrior == Prior::kExact)
    return kl_exact<T>(la);
  else
    return kl_ard(la);
}

// One run of weights, contiguous: mu is null where `log` is log_alpha itself. Returns the KL, if wanted; dmu and
// dlog, if wanted, get scale * gradient, added to what stands there if `accumulate`.
//
// Short loops through buffers in L1: one loop over the whole formula is a chain of 300 cycles, too long for the
// processor to overlap with the next one (measured: 1.6 times slower).
// What a caller wants of a block; what it does not want is not computed.
enum class KlWants { kValue, kSlopes, kBoth };

constexpr int64_t kKlBlock = 512;  // lanes are summed in T over a block, blocks in double

// At most kKlBlock weights, contiguous: mu is null where `log` is log_alpha itself. Returns their KL, if wanted;
// slope[i], if wanted, becomes dKL/dla and is written in whole vectors.
//
// Short loops through buffers in L1: one loop over the whole formula is a chain of 300 cycles, too long for the
// processor to overlap with the next one (measured: 1.6 times slower).
template <class T, Prior kPrior, KlWants kWants>
double kl_block(const T* mu, const T* log, int64_t n, T* slope) {
  using V = Vec<T>;
  constexpr bool kValue = kWants != KlWants::kSlopes, kSlopes = kWants != KlWants::kValue;
  constexpr T kNoKl = kPrior == Prior::kKingma ? 0 : 80;  // the log_alpha of padding
  alignas(64) T la[kKlBlock];
  for (int64_t i = 0; i < n; i += kLanes<T>) {
    V v = load_first(log + i, n - i);
    if (mu) {
      const V m = load_first(mu + i, n - i);
      v -= vlog(m * m + T(kKlEps));
    }
    for (int lane = int(n - i); lane < kLanes<T>; ++lane) v[lane] = kNoKl;
    store(la + i, v);
  }
  V sum{};
  for (int64_t i = 0; i < n; i += kLanes<T>) {
    const KlTerms<V> terms = kl_terms<T, kPrior>(load(la + i));
    if constexpr (kValue) sum += terms.value;
    if constexpr (kSlopes) store(slope + i, terms.slope);
  }
  if constexpr (kPrior == Prior::kLogUniform)
    for (int64_t i = 0; i < n; i += kLanes<T>) {
      const KlTerms<V> terms = kl_bump<T>(load(la + i));
      if constexpr (kValue) sum += terms.value;
      if constexpr (kSlopes) store(slope + i, load(slope + i) + terms.slope);
    }
  return kValue ? double(sum_lanes<T>(sum)) : 0;
}

template <KlWants kWants, class T>
VDK_INLINE double kl_block(Prior prior, const T* mu, const T* log, int64_t n, T* slope) {
  switch (prior) {
    case Prior::kLogUniform:
      return kl_block<T, Prior::kLogUniform, kWants>(mu, log, n, slope);
    case Prior::kKingma:
      return kl_block<T, Prior::kKingma, kWants>(mu, log, n, slope);
    case Prior::kExact:
      return kl_block<T, Prior::kExact, kWants>(mu, log, n, slope);
    case Prior::kArd:
      return kl_block<T, Prior::kArd, kWants>(mu, log, n, slope);
    case Prior::kNone:
      break;
  }
  return 0;
}

// dla/dmu = -2 mu / (mu^2 + eps)
template <class T, class V>
VDK_INLINE V log_alpha_by_mu(V mu) {
  return mu * T(-2) / (mu * mu + T(kKlEps));
}

// The KL of a run of any length.
template <class T>
double kl_value(Prior prior, const T* mu, const T* log, int64_t n) {
  double total = 0;
  for (int64_t i = 0; i < n; i += kKlBlock)
    total += kl_block<KlWants::kValue>(prior, mu ? mu + i : nullptr, log + i, n - i < kKlBlock ? n - i : kKlBlock,
                                       static_cast<T*>(nullptr));
  return total;
}

}  // namespace VDK_ISA
}  // namespace vdk
