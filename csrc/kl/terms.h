// KL of one weight and its derivative, as functions of la = log_alpha, on vectors of float or double.
// The formulas and their sources: vdropkern/ops/kl/reference.py. Written so that nothing overflows:
// log(1 + 1/alpha) = max(-la, 0) + log1p(exp(-|la|)).
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

// What a formula may use of a weight: alpha = s / a. With log_alpha as the parameter, a = 1 and s = alpha.
template <class V>
struct Weight {
  V a, s, la;  // mu^2 + eps, sigma^2, log_alpha
};

// 1/2 log(1 + 1/alpha)
template <class V>
VDK_INLINE KlTerms<V> kl_ard(const Weight<V>& w) {
  const V e = minimum(w.a, w.s) * reciprocal(maximum(w.a, w.s));  // exp(-|la|)
  return {(maximum(V{}, -w.la) + vlog1p_unit(e)) / 2, w.a * reciprocal(w.a + w.s) / -2};
}

// Molchanov et al. 2017 add a bump to the ARD term: k1 sigmoid(-(k2 + k3 la)).
template <class T, class V>
VDK_INLINE KlTerms<V> kl_bump(V la) {
  constexpr T k1 = T(0.63576), k2 = T(1.87320), k3 = T(1.48695);
  const V e = vexp(minimum(V{} + 80, maximum(V{} - 80, -(la * k3 + k2))));
  const V q = reciprocal(e + 1), rest = e * q;  // sigmoids of k2 + k3 la and of its negative
  return {rest * k1, rest * q * (-k1 * k3)};
}

// Kingma et al. 2015, a cubic in alpha.
template <class T, class V>
VDK_INLINE KlTerms<V> kl_kingma(const Weight<V>& w) {
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
VDK_INLINE KlTerms<V> kl_exact(const Weight<V>& w) {
  using S = ExactSeries<T>;
  const V u = w.a * reciprocal(w.s) / 2;
  const V near = minimum(V{} + S::kCut, u);
  V p = vexp(-near), value{}, slope{};
  T harmonic = 0;
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

template <class T, Prior kPrior, class V>
VDK_INLINE KlTerms<V> kl_terms(const Weight<V>& w) {
  if constexpr (kPrior == Prior::kKingma)
    return kl_kingma<T>(w);
  else if constexpr (kPrior == Prior::kExact)
    return kl_exact<T>(w);
  else
    return kl_ard(w);  // of kLogUniform the first part
}

// What a caller wants of a block; what it does not want is not computed.
enum class KlWants { kValue, kSlopes, kBoth };

constexpr int64_t kKlBlock = 512;  // lanes are summed in T over a block, blocks in double

// At most kKlBlock weights, contiguous: mu is null where `log` is log_alpha itself. exp_log is exp(log),
// given or else written here. Returns the KL, if wanted; slope[i], if wanted, becomes dKL/dla. Writes whole
// vectors.
//
// Short loops through buffers in L1: one loop over the whole formula is a chain of 300 cycles, too long for
// the processor to overlap with the next one (measured: 1.6 times slower).
template <class T, Prior kPrior, KlWants kWants>
double kl_block(const T* mu, const T* log, int64_t n, T* exp_log, bool given, T* slope) {
  using V = Vec<T>;
  constexpr bool kValue = kWants != KlWants::kSlopes, kSlopes = kWants != KlWants::kValue;
  constexpr bool kLogAlpha = kValue || kPrior != Prior::kArd;
  const auto mu2 = [&](int64_t i) __attribute__((always_inline)) {
    if (!mu) return V{} + 1;
    const V m = load_first(mu + i, n - i);
    return m * m + T(kKlEps);
  };
  alignas(64) T la[kLogAlpha ? kKlBlock : 1];
  for (int64_t i = 0; i < n; i += kLanes<T>) {
    const V l = load_first(log + i, n - i);
    if constexpr (kLogAlpha) store(la + i, mu ? l - vlog(mu2(i)) : l);
    if (!given) store(exp_log + i, vexp(l));
  }
  V sum{};
  const auto add = [&](V value, int64_t i) __attribute__((always_inline)) {
    for (int lane = int(n - i); lane < kLanes<T>; ++lane) value[lane] = 0;  // padding
    sum += value;
  };
  for (int64_t i = 0; i < n; i += kLanes<T>) {
    V l{};
    if constexpr (kLogAlpha) l = load(la + i);
    const KlTerms<V> terms = kl_terms<T, kPrior>(Weight<V>{mu2(i), load_first(exp_log + i, n - i), l});
    if constexpr (kValue) add(terms.value, i);
    if constexpr (kSlopes) store(slope + i, terms.slope);
  }
  if constexpr (kPrior == Prior::kLogUniform)
    for (int64_t i = 0; i < n; i += kLanes<T>) {
      const KlTerms<V> terms = kl_bump<T>(load(la + i));
      if constexpr (kValue) add(terms.value, i);
      if constexpr (kSlopes) store(slope + i, load(slope + i) + terms.slope);
    }
  return kValue ? double(sum_lanes<T>(sum)) : 0;
}

template <KlWants kWants, class T>
VDK_INLINE double kl_block(Prior prior, const T* mu, const T* log, int64_t n, T* exp_log, bool given,
                           T* slope) {
  switch (prior) {
    case Prior::kLogUniform:
      return kl_block<T, Prior::kLogUniform, kWants>(mu, log, n, exp_log, given, slope);
    case Prior::kKingma:
      return kl_block<T, Prior::kKingma, kWants>(mu, log, n, exp_log, given, slope);
    case Prior::kExact:
      return kl_block<T, Prior::kExact, kWants>(mu, log, n, exp_log, given, slope);
    case Prior::kArd:
      return kl_block<T, Prior::kArd, kWants>(mu, log, n, exp_log, given, slope);
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

// The KL of a run of any length; exp_log holds exp(log) where the caller has it.
template <class T>
double kl_value(Prior prior, const T* mu, const T* log, int64_t n, T* exp_log = nullptr) {
  alignas(64) T own[kKlBlock];
  double total = 0;
  for (int64_t i = 0; i < n; i += kKlBlock)
    total +=
        kl_block<KlWants::kValue>(prior, mu ? mu + i : nullptr, log + i, n - i < kKlBlock ? n - i : kKlBlock,
                                  exp_log ? exp_log + i : own, exp_log != nullptr, static_cast<T*>(nullptr));
  return total;
}

}  // namespace VDK_ISA
}  // namespace vdk
