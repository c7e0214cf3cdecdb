// KL of one weight and its derivative summed over runs of weights, on vectors of float or double.
#pragma once
#include "formulas.h"
#include "prior.h"
#include "split.h"

namespace vdk {
namespace VDK_ISA {

// What a caller wants of a block; what it does not want is not computed.
enum class KlWants { kValue, kSlopes, kBoth };

// Lanes are summed in T over a block, blocks in double.
constexpr int64_t kKlBlock = VDK_VECTOR_BYTES == 16 ? 256 : 512;
static_assert(kKlBlock / kLanes<float> <= SumOfLogs<VecF>::kMost, "one logarithm a block");

// f(i, left) for every vector of n elements; where it is whole, `left` is a constant and masks are none.
template <class T, class F>
VDK_INLINE void for_vectors(int64_t n, const F& f) {
  int64_t i = 0;
  for (; i + kLanes<T> <= n; i += kLanes<T>) f(i, int64_t{kLanes<T>});
  if (i < n) f(i, n - i);
}

// At most kKlBlock weights, contiguous: mu is null where `log` is log_alpha itself. exp_log is exp(log),
// given or else written here. Returns the KL, if wanted. emit(i, left, weight, slope, pull), if slopes are
// wanted, gets each vector of weights, mu^2 without eps under a normal prior, with slope = dKL/dla and
// pull = dKL/dmu / mu.
//
// Two loops through buffers in L1: one loop over the whole formula is a chain too long for the processor to
// overlap with the next one.
template <class T, Prior::Kind kPrior, KlWants kWants, class Emit>
VDK_INLINE double kl_block(const Prior& prior, const T* mu, const T* log, int64_t n, T* exp_log, bool given,
                           const Emit& emit) {
  using V = Vec<T>;
  constexpr bool kValue = kWants != KlWants::kSlopes, kSlopes = kWants != KlWants::kValue;
  constexpr bool kNormal = kPrior == Prior::kNormal;
  constexpr bool kSplit = kPrior == Prior::kLogUniform || kPrior == Prior::kArd;
  constexpr bool kLogAlpha = kValue || (kPrior != Prior::kArd && !kNormal);
  const NormalPrior<T> normal = normal_prior<T>(prior);
  alignas(64) T a_of[kKlBlock], la[kLogAlpha ? kKlBlock : 1];
  for_vectors<T>(n, [&](int64_t i, int64_t left) __attribute__((always_inline)) {
    const V l = load_first(log + i, left);
    V a = V{} + 1, log_alpha = l;
    if (mu) {
      const V m = load_first(mu + i, left);
      a = kNormal ? m * m : m * m + T(kKlEps);
      if constexpr (kLogAlpha && !kNormal) log_alpha -= vlog(a);
    }
    store(a_of + i, a);
    if constexpr (kLogAlpha) store(la + i, log_alpha);
    if (!given) store(exp_log + i, vexp(l));
  });
  V sum{};
  SumOfLogs<V> logs;
  for_vectors<T>(n, [&](int64_t i, int64_t left) __attribute__((always_inline)) {
    Weight<V> weight{load(a_of + i), load(exp_log + i), V{}};
    if constexpr (kLogAlpha) weight.la = load(la + i);
    SplitTerms<V> terms;
    if constexpr (kSplit) {
      terms = split_terms<kPrior>(weight);
    } else {
      const KlTerms<V> whole = kl_terms<T, kPrior>(weight, normal);
      terms = {whole.value, whole.slope, V{}};
    }
    if constexpr (kValue) {
      if (left < kLanes<T>) {
        terms.value = keep_first<T>(terms.value, left);
        terms.e = keep_first<T>(terms.e, left);
      }
      sum += terms.value;
      if constexpr (kSplit) logs.add(terms.e);
    }
    if constexpr (kSlopes) {
      const V pull = kNormal ? V{} + normal.precision : terms.slope * T(-2) * reciprocal(weight.a);
      emit(i, left, weight, terms.slope, pull);
    }
  });
  if constexpr (kValue && kSplit) sum += logs.sum() / 2;
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
    total +=
        kl_block<KlWants::kValue>(prior, mu ? mu + i : nullptr, log + i, n - i < kKlBlock ? n - i : kKlBlock,
                                  exp_log ? exp_log + i : own, exp_log != nullptr,
                                  [](int64_t, int64_t, const Weight<Vec<T>>&, Vec<T>, Vec<T>) {});
  return total;
}

}  // namespace VDK_ISA
}  // namespace vdk
