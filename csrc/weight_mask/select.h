// The k-th smallest of n numbers >= 0 without sorting them: how many are below a pivot is one pass over
// memory that is in cache, and the pivots close in on the answer by interpolation. Exact, whatever the
// numbers are.
#pragma once
#include <limits>

#include "../common/simd.h"

namespace vdk {
namespace VDK_ISA {

template <class T>
constexpr int64_t kSelectUnit = 4 * kLanes<T>;  // numbers a step of the pass

template <class T>
struct BitsOf;
template <>
struct BitsOf<float> {
  using U = uint32_t;
};
template <>
struct BitsOf<double> {
  using U = uint64_t;
};
// Numbers >= 0 rise with their bits.
template <class T>
VDK_INLINE typename BitsOf<T>::U bits_of(T x) {
  typename BitsOf<T>::U u;
  __builtin_memcpy(&u, &x, sizeof u);
  return u;
}
template <class T>
VDK_INLINE T of_bits(typename BitsOf<T>::U u) {
  T x;
  __builtin_memcpy(&x, &u, sizeof x);
  return x;
}
template <class T>
VDK_INLINE T next_up(T x) {
  return of_bits<T>(bits_of(x) + 1);
}

// Numbers >= 0, NaN among them, in `padded` places: those from n on are infinite.
template <class T>
struct Magnitudes {
  T* of;
  int64_t n, padded;

  static int64_t places(int64_t n) { return (n + kSelectUnit<T> - 1) / kSelectUnit<T> * kSelectUnit<T>; }

  VDK_INLINE void set(const T* w, T* to, int64_t count) {
    of = to;
    n = count;
    padded = places(n);
    for (int64_t i = 0; i < n; ++i) to[i] = w[i] < 0 ? -w[i] : w[i];
    for (int64_t i = n; i < padded; ++i) to[i] = std::numeric_limits<T>::infinity();
  }

  VDK_INLINE int64_t below(T pivot) const {
    using Mask = decltype(Vec<T>{} < Vec<T>{});
    const Vec<T> p = broadcast(pivot);
    Mask counts[4] = {};
    for (int64_t i = 0; i < padded; i += kSelectUnit<T>)
      for (int j = 0; j < 4; ++j) counts[j] -= load(of + i + j * kLanes<T>) < p;
    const Mask sum = (counts[0] + counts[1]) + (counts[2] + counts[3]);
    int64_t total = 0;
    for (int lane = 0; lane < kLanes<T>; ++lane) total += sum[lane];
    return total;
  }

  // The smallest that is >= bound (above = true), or the largest below it.
  template <bool kAbove>
  VDK_INLINE T nearest(T bound) const {
    const Vec<T> b = broadcast(bound), none = broadcast(kAbove ? std::numeric_limits<T>::infinity() : T(0));
    Vec<T> best = none;
    for (int64_t i = 0; i < padded; i += kLanes<T>) {
      const Vec<T> v = load(of + i);
      best = kAbove ? minimum(v >= b ? v : none, best) : maximum(v < b ? v : none, best);
    }
    T found = best[0];
    for (int lane = 1; lane < kLanes<T>; ++lane)
      found = (kAbove ? best[lane] < found : best[lane] > found) ? best[lane] : found;
    return found;
  }
};

// The one of index k in rising order, infinity where that is infinite or NaN, or k is n or more.
template <class T>
T kth_smallest(const Magnitudes<T>& a, int64_t k) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  T low = 0, high = kInfinity;  // the answer is in [low, high): below(low) <= k < below(high)
  int64_t below_low = 0, below_high = a.below(high);
  if (k >= below_high) return kInfinity;
  high = next_up(a.template nearest<false>(high));
  for (int stalls = 0;;) {
    if (below_low == k) return a.template nearest<true>(low);
    if (below_high == k + 1) return a.template nearest<false>(high);
    if (bits_of(high) - bits_of(low) == 1) return low;
    const int64_t inside = below_high - below_low;
    T pivot = low + (high - low) * (T(k - below_low) + T(0.5)) / T(inside);
    if (stalls % 2 == 1) {  // many may be equal
      const T least = a.template nearest<true>(low);
      pivot = next_up(least);
      if (a.below(pivot) > k) return least;
    } else if (stalls > 0) {
      pivot = of_bits<T>(bits_of(low) + (bits_of(high) - bits_of(low)) / 2);
    }
    if (!(pivot > low)) pivot = next_up(low);
    if (!(pivot < high)) pivot = of_bits<T>(bits_of(high) - 1);
    const int64_t below = a.below(pivot);
    if (below <= k) {
      low = pivot;
      below_low = below;
    } else {
      high = pivot;
      below_high = below;
    }
    stalls = 2 * (below_high - below_low) > inside ? stalls + 1 : 0;
  }
}

}  // namespace VDK_ISA
}  // namespace vdk
