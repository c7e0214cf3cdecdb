// KL of one weight and its derivative summed over runs of weights, on vectors of float or double.
#pragma once
#include "formulas.h"
#include "prior.h"

namespace vdk {
namespace VDK_ISA {

// What a caller wants of a block; what it does not want is not computed.
enum class KlWants { kValue, kSlopes, kBoth };

constexpr int64_t kKlBlock = 512;  // lanes are summed in T over a block, blocks in double

// At most kKlBlock weights, contiguous: mu is null where `log` is log_alpha itself. exp_log is exp(log),
// given or else written here. Returns the KL, if wanted. emit(i, weight, slope), if slopes are wanted, gets
// each vector of weights, mu^2 without eps under a normal prior, with dKL/dla.
//
// Two loops through buffers in L1: one loop over the whole formula is a chain too long for the processor to
// overlap with the next one.
template <class T, Prior::Kind kPrior, KlWants kWants, class Emit>
VDK_INLINE double kl_block(const Prior& prior, const T* mu, const T* log, int64_t n, T* exp_log, bool given,
                           const Emit& emit) {
  using V = Vec<T>;
  constexpr bool kValue = kWants != KlWants::kSlopes, kSlopes = kWants != KlWants::kValue;
  constexpr bool kNormal = kPrior == Prior::kNormal;
  constexpr bool kLogAlpha = kValue || (kPrior != Prior::kArd && !kNormal);
  const NormalPrior<T> normal = normal_prior<T>(prior);
  const auto mu2 = [&](int64_t i) __attribute__((always_inline)) {
    if (!mu) return V{} + 1;
    const V m = load_first(mu + i, n - i);
    return kNormal ? m * m : m * m + T(kKlEps);
  };
  alignas(64) T la[kLogAlpha ? kKlBlock : 1];
  for (int64_t i = 0; i < n; i += kLanes<T>) {
    const V l = load_first(log + i, n - i);
    if constexpr (kLogAlpha) store(la + i, mu && !kNormal ? l - vlog(mu2(i)) : l);
    if (!given) store(exp_log + i, vexp(l));
  }
  V sum{};
  for (int64_t i = 0; i < n; i += kLanes<T>) {
    V l{};
    if constexpr (kLogAlpha) l = load(la + i);
    const Weight<V> weight{mu2(i), load(exp_log + i), l};
    KlTerms<V> terms = kl_terms<T, kPrior>(weight, normal);
    if constexpr (kPrior == Prior::kLogUniform) {
      const KlTerms<V> bump = kl_bump<T>(l);
      terms.value += bump.value, terms.slope += bump.slope;
    }
    if constexpr (kValue) {
      if (n - i >= kLanes<T>)
        sum += terms.value;
      else
        sum += keep_first<T>(terms.value, n - i);
    }
    if constexpr (kSlopes) emit(i, weight, terms.slope);
  }
  return kValue ? double(sum_lanes<T>(sum)) : 0;
}

template <KlWants kWants, class T, class Emit>
VDK_INLINE double kl_block(const Prior& prior, const T* mu, const T* log, int64_t n, T* exp_log, bool given,
                           const Emit& emit) {
  switch (prior) {
    case Prior::kLogUniform:
      return kl_block<T, Prior::kLogUniform, kWants>(prior, mu, log, n, exp_log, given, emit);
    case Prior::kKingma:
      return kl_block<T, Prior::kKingma, kWants>(prior, mu, log, n, exp_log, given, emit);
    case Prior::kExact:
      return kl_block<T, Prior::kExact, kWants>(prior, mu, log, n, exp_log, given, emit);
    case Prior::kArd:
      return kl_block<T, Prior::kArd, kWants>(prior, mu, log, n, exp_log, given, emit);
    case Prior::kNormal:
      return kl_block<T, Prior::kNormal, kWants>(prior, mu, log, n, exp_log, given, emit);
    case Prior::kNone:
      break;
  }
  return 0;
}

// The KL of a run of any length; exp_log holds exp(log) where the caller has it.
template <class T>
__attribute__((noinline)) double kl_value(const Prior& prior, const T* mu, const T* log, int64_t n,
                                          T* exp_log = nullptr) {
  alignas(64) T own[kKlBlock];
  double total = 0;
  for (int64_t i = 0; i < n; i += kKlBlock)
    total += kl_block<KlWants::kValue>(prior, mu ? mu + i : nullptr, log + i,
                                       n - i < kKlBlock ? n - i : kKlBlock, exp_log ? exp_log + i : own,
                                       exp_log != nullptr, [](int64_t, const Weight<Vec<T>>&, Vec<T>) {});
  return total;
}

}  // namespace VDK_ISA
}  // namespace vdk
