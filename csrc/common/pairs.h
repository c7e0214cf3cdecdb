// What a packed variance operand is made of: elements of T, or pairs of bfloat16, neighbours along k, which
// one instruction multiplies and adds at twice the rate of float. Only the scale of the noise passes through
// it.
#pragma once
#include "simd.h"

namespace vdk {
namespace VDK_ISA {

struct Pair {
  uint32_t bits;  // the lower half is the element of even k
};

template <class V>
constexpr int kPerElement = 1;  // steps of k an element holds
template <>
inline constexpr int kPerElement<Pair> = 2;

// c[i][j] of the microkernel: a's element times b's vector, over kPerElement<V> steps of k.
template <class T>
VDK_INLINE void multiply_add(Vec<T>& acc, const T* a, Vec<T> b) {
  acc += *a * b;
}
template <class T>
VDK_INLINE Vec<T> load_panel(const T* p) {
  return load(p);
}

// A row of A, k along it: kLanes<T> elements from k on.
template <class T>
VDK_INLINE void store_along(T* row, int64_t k, Vec<T> v, int64_t room) {
  store_first(row + k, v, room - k);
}

// A panel of B, k from row to row: the vectors of k (even) and k + 1.
template <class T>
VDK_INLINE void store_two(T* panel, int64_t k, int cols, int64_t at, Vec<T> even, Vec<T> odd) {
  store(panel + k * cols + at, even);
  store(panel + (k + 1) * cols + at, odd);
}

#ifdef __AVX512BF16__
#define VDK_HAS_PAIRS 1

VDK_INLINE void multiply_add(VecF& acc, const Pair* a, VecF b) {
  acc = (VecF)_mm512_dpbf16_ps((__m512)acc, (__m512bh)_mm512_set1_epi32(int(a->bits)), (__m512bh)b);
}
VDK_INLINE VecF load_panel(const Pair* p) { return load(reinterpret_cast<const float*>(p)); }

// k and `room` are multiples of the vector's length
VDK_INLINE void store_along(Pair* row, int64_t k, VecF v, int64_t) {
  const __m256bh half = _mm512_cvtneps_pbh((__m512)v);
  __builtin_memcpy(row + k / 2, &half, sizeof half);
}
VDK_INLINE void store_two(Pair* panel, int64_t k, int cols, int64_t at, VecF even, VecF odd) {
  const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)even));
  const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)odd));
  const __m512i pairs = _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
  __builtin_memcpy(panel + k / 2 * cols + at, &pairs, sizeof pairs);
}
#endif

}  // namespace VDK_ISA
}  // namespace vdk
