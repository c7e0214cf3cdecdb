// Comparisons of vectors as bits of a word, and back.
#pragma once
#include "simd.h"
#if defined(__SSE2__) && !defined(__AVX2__)
#include <emmintrin.h>
#endif

namespace vdk {

typedef int64_t VecL __attribute__((vector_size(VDK_VECTOR_BYTES)));

// Bit i: whether lane i of a comparison holds.
VDK_INLINE uint64_t lane_bits(VecI mask) {
#if defined(__AVX512F__)
  return _mm512_movepi32_mask((__m512i)mask);
#elif defined(__AVX2__)
  return uint32_t(_mm256_movemask_ps((__m256)mask));
#elif defined(__SSE2__)
  return uint32_t(_mm_movemask_ps((__m128)mask));
#else
  uint64_t bits = 0;
  for (int i = 0; i < kLanes<float>; ++i) bits |= uint64_t(mask[i] & 1) << i;
  return bits;
#endif
}
VDK_INLINE uint64_t lane_bits(VecL mask) {
#if defined(__AVX512F__)
  return _mm512_movepi64_mask((__m512i)mask);
#elif defined(__AVX2__)
  return uint32_t(_mm256_movemask_pd((__m256d)mask));
#else
  uint64_t bits = 0;
  for (int i = 0; i < kLanes<double>; ++i) bits |= uint64_t(mask[i] & 1) << i;
  return bits;
#endif
}

// Lanes of v where the lowest bits of `bits` are set, else 0.
template <class T>
VDK_INLINE Vec<T> where_bits(uint64_t bits, Vec<T> v) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) return (Vec<T>)_mm512_maskz_mov_ps(__mmask16(bits), (__m512)v);
  if constexpr (sizeof(T) == 8) return (Vec<T>)_mm512_maskz_mov_pd(__mmask8(bits), (__m512d)v);
#endif
  using Mask = decltype(v < v);
  Mask lane{};
  for (int i = 0; i < kLanes<T>; ++i) lane[i] = 1 << i;
  const int word = int(bits & ((1 << kLanes<T>)-1));
  return (lane & (Mask{} + word)) != 0 ? v : Vec<T>{};
}

}  // namespace vdk
