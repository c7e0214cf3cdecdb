// Vectors as the compiler sees them: one source for every width. The compiler's vector extensions carry the
// arithmetic; only what they cannot say (square root, masked tails, 32x32 -> 64 bit products) is spelled out.
// Everything is always_inline: see isa.h for why nothing here may be emitted on its own.
#pragma once
#include "scalar.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#define VDK_VECTOR_BYTES 64
#elif defined(__AVX2__)
#include <immintrin.h>
#define VDK_VECTOR_BYTES 32
#else
#define VDK_VECTOR_BYTES 16
#endif

#define VDK_INLINE inline __attribute__((always_inline))

namespace vdk {

typedef float VecF __attribute__((vector_size(VDK_VECTOR_BYTES)));
typedef double VecD __attribute__((vector_size(VDK_VECTOR_BYTES)));
typedef int32_t VecI __attribute__((vector_size(VDK_VECTOR_BYTES)));
typedef uint32_t VecU __attribute__((vector_size(VDK_VECTOR_BYTES)));

template <class T>
struct Simd;
template <>
struct Simd<float> {
  using V = VecF;
};
template <>
struct Simd<double> {
  using V = VecD;
};
template <class T>
using Vec = typename Simd<T>::V;
template <class T>
constexpr int kLanes = VDK_VECTOR_BYTES / sizeof(T);

VDK_INLINE VecF to_float(VecI x) { return __builtin_convertvector(x, VecF); }
VDK_INLINE VecF to_float(VecU x) { return __builtin_convertvector(x, VecF); }
VDK_INLINE VecI as_int(VecU x) { return (VecI)x; }
VDK_INLINE VecI as_int(VecF x) { return (VecI)x; }
VDK_INLINE VecU as_uint(VecF x) { return (VecU)x; }
VDK_INLINE VecF as_float(VecU x) { return (VecF)x; }
VDK_INLINE VecF as_float(VecI x) { return (VecF)x; }

// x in all lanes. Not V{} + x, which would be an addition: -0 + 0 is 0.
template <class V, class T>
VDK_INLINE V filled(T x) {
  return x - V{};
}
template <class T>
VDK_INLINE Vec<T> broadcast(T x) {
  return filled<Vec<T>>(x);
}

template <class T>
VDK_INLINE Vec<T> load(const T* p) {
  Vec<T> v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

template <class T, class V>
VDK_INLINE void store(T* p, V v) {
  static_assert(sizeof v == VDK_VECTOR_BYTES, "a whole vector");
  __builtin_memcpy(p, &v, sizeof v);
}

#if defined(__AVX512F__)
VDK_INLINE VecF load_masked(const float* p, int n) { return (VecF)_mm512_maskz_loadu_ps((1u << n) - 1, p); }
VDK_INLINE VecD load_masked(const double* p, int n) { return (VecD)_mm512_maskz_loadu_pd((1u << n) - 1, p); }
VDK_INLINE void store_masked(float* p, VecF v, int n) { _mm512_mask_storeu_ps(p, (1u << n) - 1, (__m512)v); }
VDK_INLINE void store_masked(double* p, VecD v, int n) {
  _mm512_mask_storeu_pd(p, (1u << n) - 1, (__m512d)v);
}
VDK_INLINE VecF minimum(VecF a, VecF b) { return (VecF)_mm512_min_ps((__m512)a, (__m512)b); }
VDK_INLINE VecF maximum(VecF a, VecF b) { return (VecF)_mm512_max_ps((__m512)a, (__m512)b); }
VDK_INLINE VecF square_root(VecF x) { return (VecF)_mm512_sqrt_ps((__m512)x); }
VDK_INLINE VecF reciprocal(VecF x) {  // an estimate and a Newton step: within 2 ulp, for finite x
  const VecF r = (VecF)_mm512_rcp14_ps((__m512)x);
  return r * (2.0f - x * r);
}
VDK_INLINE VecF reciprocal_root(VecF x) {  // as `reciprocal`, for normal x > 0
  const VecF r = (VecF)_mm512_rsqrt14_ps((__m512)x);
  return r * (1.5f - x * 0.5f * r * r);
}
VDK_INLINE VecD square_root(VecD x) { return (VecD)_mm512_sqrt_pd((__m512d)x); }
#elif defined(__AVX2__)
template <class T>
VDK_INLINE __m256i lane_mask(int n) {  // all ones in the first n lanes
  if constexpr (sizeof(T) == 4)
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  else
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3));
}
VDK_INLINE VecF load_masked(const float* p, int n) {
  return (VecF)_mm256_maskload_ps(p, lane_mask<int32_t>(n));
}
VDK_INLINE VecD load_masked(const double* p, int n) {
  return (VecD)_mm256_maskload_pd(p, lane_mask<int64_t>(n));
}
// By halves: a masked store takes 20 cycles on AMD's CPUs with AVX2.
VDK_INLINE void store_masked(float* p, VecF v, int n) {
  __m128 rest = _mm256_castps256_ps128((__m256)v);
  if (n & 4) {
    _mm_storeu_ps(p, rest);
    rest = _mm256_extractf128_ps((__m256)v, 1);
    p += 4;
  }
  if (n & 2) {
    _mm_storel_pi(reinterpret_cast<__m64*>(p), rest);
    rest = _mm_movehl_ps(rest, rest);
    p += 2;
  }
  if (n & 1) _mm_store_ss(p, rest);
}
VDK_INLINE void store_masked(double* p, VecD v, int n) {
  __m128d rest = _mm256_castpd256_pd128((__m256d)v);
  if (n & 2) {
    _mm_storeu_pd(p, rest);
    rest = _mm256_extractf128_pd((__m256d)v, 1);
    p += 2;
  }
  if (n & 1) _mm_store_sd(p, rest);
}
VDK_INLINE VecF minimum(VecF a, VecF b) { return (VecF)_mm256_min_ps((__m256)a, (__m256)b); }
VDK_INLINE VecF maximum(VecF a, VecF b) { return (VecF)_mm256_max_ps((__m256)a, (__m256)b); }
VDK_INLINE VecF square_root(VecF x) { return (VecF)_mm256_sqrt_ps((__m256)x); }
VDK_INLINE VecF reciprocal(VecF x) {  // an estimate and a Newton step: within 3 ulp, for finite x
  const VecF r = (VecF)_mm256_rcp_ps((__m256)x);
  return r * (2.0f - x * r);
}
VDK_INLINE VecF reciprocal_root(VecF x) {  // as `reciprocal`, for normal x > 0
  const VecF r = (VecF)_mm256_rsqrt_ps((__m256)x);
  return r * (1.5f - x * 0.5f * r * r);
}
VDK_INLINE VecD square_root(VecD x) { return (VecD)_mm256_sqrt_pd((__m256d)x); }
#else
template <class T>
VDK_INLINE Vec<T> load_masked(const T* p, int n) {
  Vec<T> v{};
  for (int i = 0; i < n; ++i) v[i] = p[i];
  return v;
}
template <class T, class V>
VDK_INLINE void store_masked(T* p, V v, int n) {
  for (int i = 0; i < n; ++i) p[i] = v[i];
}
VDK_INLINE VecF minimum(VecF a, VecF b) { return a < b ? a : b; }
VDK_INLINE VecF maximum(VecF a, VecF b) { return a > b ? a : b; }
VDK_INLINE VecF reciprocal(VecF x) { return 1.0f / x; }
VDK_INLINE VecF square_root(VecF x) {
  for (int i = 0; i < kLanes<float>; ++i) x[i] = sqrtf(x[i]);
  return x;
}
VDK_INLINE VecD square_root(VecD x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = sqrt(x[i]);
  return x;
}
VDK_INLINE VecF reciprocal_root(VecF x) { return 1.0f / square_root(x); }
#endif
VDK_INLINE VecD minimum(VecD a, VecD b) { return a < b ? a : b; }
VDK_INLINE VecD maximum(VecD a, VecD b) { return a > b ? a : b; }
VDK_INLINE VecD reciprocal(VecD x) { return 1.0 / x; }

// The first n (1 <= n) lanes, the rest zero; n may exceed the width.
template <class T>
VDK_INLINE Vec<T> load_first(const T* p, int64_t n) {
  return n >= kLanes<T> ? load(p) : load_masked(p, int(n));
}
template <class T, class V>
VDK_INLINE void store_first(T* p, V v, int64_t n) {
  if (n >= kLanes<T>)
    store(p, v);
  else
    store_masked(p, v, int(n));
}

// The first n < kLanes lanes, the rest zero.
template <class T>
VDK_INLINE Vec<T> keep_first(Vec<T> v, int64_t n) {
  for (int lane = int(n); lane < kLanes<T>; ++lane) v[lane] = 0;
  return v;
}

// High and low halves of 32 x 32 bit products.
VDK_INLINE void multiply_wide(VecU a, uint32_t m, VecU& hi, VecU& lo) {
#if defined(__AVX512F__)
  const __m512i f = _mm512_set1_epi32(int(m));
  const __m512i even = _mm512_mul_epu32((__m512i)a, f);
  const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64((__m512i)a, 32), f);
  lo = (VecU)_mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32));
  hi = (VecU)_mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(even, 32), odd);
#elif defined(__AVX2__)
  const __m256i f = _mm256_set1_epi32(int(m));
  const __m256i even = _mm256_mul_epu32((__m256i)a, f);
  const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64((__m256i)a, 32), f);
  lo = (VecU)_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
  hi = (VecU)_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
#else
  for (int i = 0; i < kLanes<float>; ++i) {
    uint32_t h, l;
    multiply_wide(a[i], m, h, l);
    hi[i] = h;
    lo[i] = l;
  }
#endif
}

// Halves are added to each other: one lane after the other would wait as often as there are lanes.
template <class T, class V>
VDK_INLINE T sum_lanes(V v) {
  constexpr int n = sizeof(V) / sizeof(T);
  if constexpr (n == 2)
    return v[0] + v[1];
  else if constexpr (n == 4)
    return (v[0] + v[2]) + (v[1] + v[3]);
  else if constexpr (n == 8)
    return sum_lanes<T>(__builtin_shufflevector(v, v, 0, 1, 2, 3) +
                        __builtin_shufflevector(v, v, 4, 5, 6, 7));
  else {
    static_assert(n == 16, "vector width");
    return sum_lanes<T>(__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
                        __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15));
  }
}

// a0 b0 a1 b1 ... from the lower (upper) halves of a and b.
template <class V>
VDK_INLINE void zip(V a, V b, V& lower, V& upper) {
  constexpr int n = sizeof(V) / sizeof(a[0]);
  if constexpr (n == 2) {
    lower = __builtin_shufflevector(a, b, 0, 2);
    upper = __builtin_shufflevector(a, b, 1, 3);
  } else if constexpr (n == 4) {
    lower = __builtin_shufflevector(a, b, 0, 4, 1, 5);
    upper = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  } else if constexpr (n == 8) {
    lower = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
    upper = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
  } else {
    static_assert(n == 16, "vector width");
    lower = __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    upper = __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  }
}

// The other way round: a0 a2 ... b0 b2 ... and a1 a3 ... b1 b3 ...
template <class V>
VDK_INLINE void unzip(V a, V b, V& even, V& odd) {
  constexpr int n = sizeof(V) / sizeof(a[0]);
  if constexpr (n == 2) {
    even = __builtin_shufflevector(a, b, 0, 2);
    odd = __builtin_shufflevector(a, b, 1, 3);
  } else if constexpr (n == 4) {
    even = __builtin_shufflevector(a, b, 0, 2, 4, 6);
    odd = __builtin_shufflevector(a, b, 1, 3, 5, 7);
  } else if constexpr (n == 8) {
    even = __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14);
    odd = __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
  } else {
    static_assert(n == 16, "vector width");
    even = __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    odd = __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  }
}

// Transpose a square of kLanes vectors in registers, by zipping the halves log2 times.
template <class T>
VDK_INLINE void transpose(Vec<T> (&r)[kLanes<T>]) {
  constexpr int n = kLanes<T>;
  for (int step = 1; step < n; step *= 2) {
    Vec<T> t[n];
    for (int i = 0; i < n / 2; ++i) zip(r[i], r[i + n / 2], t[2 * i], t[2 * i + 1]);
    for (int i = 0; i < n; ++i) r[i] = t[i];
  }
}

}  // namespace vdk
