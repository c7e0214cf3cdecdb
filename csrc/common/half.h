// Storage types of 16 bits, and vectors of them read as float and written rounded to the nearest.
#pragma once
#include <cstdint>
#ifdef VDK_ISA
#include "simd.h"
#endif

namespace vdk {

struct alignas(2) Float16 {
  uint16_t bits;
};
struct alignas(2) BFloat16 {
  uint16_t bits;
};

#ifdef VDK_ISA
namespace VDK_ISA {

// What a storage type is computed in.
template <class E>
struct ComputeOf {
  using T = float;
};
template <>
struct ComputeOf<double> {
  using T = double;
};

typedef uint16_t HalfLanes __attribute__((vector_size(VDK_VECTOR_BYTES / 2)));

VDK_INLINE VecU float_bits(HalfLanes h, BFloat16) { return __builtin_convertvector(h, VecU) << 16; }
VDK_INLINE HalfLanes half_bits(VecF v, BFloat16) {
  const VecU bits = as_uint(v);
  const VecU rounded = (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;  // to even; overflows into infinity
  return __builtin_convertvector(v == v ? rounded : bits >> 16 | 0x40u, HalfLanes);  // NaN stays NaN
}

#if defined(__AVX512F__)
VDK_INLINE VecU float_bits(HalfLanes h, Float16) { return (VecU)_mm512_cvtph_ps((__m256i)h); }
VDK_INLINE HalfLanes half_bits(VecF v, Float16) { return (HalfLanes)_mm512_cvtps_ph((__m512)v, 0); }
#elif defined(__AVX2__)
VDK_INLINE VecU float_bits(HalfLanes h, Float16) { return (VecU)_mm256_cvtph_ps((__m128i)h); }
VDK_INLINE HalfLanes half_bits(VecF v, Float16) { return (HalfLanes)_mm256_cvtps_ph((__m256)v, 0); }
#else
VDK_INLINE VecU float_bits(HalfLanes h, Float16) {
  const VecU wide = __builtin_convertvector(h, VecU), magnitude = wide & 0x7FFFu,
             sign = (wide & 0x8000u) << 16;
  // the exponent is rebased by a product, which makes subnormals normal
  const VecU finite = as_uint(as_float(magnitude << 13) * 0x1p112f);
  return (magnitude >= VecU{} + 0x7C00u ? magnitude << 13 | 0x7F800000u : finite) | sign;
}
VDK_INLINE HalfLanes half_bits(VecF v, Float16) {
  const VecU bits = as_uint(v), magnitude = bits & 0x7FFFFFFFu, sign = bits >> 16 & 0x8000u;
  const VecU normal = (magnitude + 0xC8000FFFu + (magnitude >> 13 & 1u)) >> 13;  // rebased by -112, to even
  // adding a half makes the sum's last bit worth a subnormal's
  const VecU subnormal = as_uint(as_float(magnitude) + 0.5f) - 0x3F000000u;
  VecU r = magnitude < VecU{} + 0x38800000u ? subnormal : normal;
  r = magnitude >= VecU{} + 0x477FF000u ? VecU{} + 0x7C00u : r;  // rounds to 2^16 and beyond
  return __builtin_convertvector((v == v ? r : VecU{} + 0x7E00u) | sign, HalfLanes);
}
#endif

// The first n (1 <= n) elements, the rest zero; n may exceed the width.
template <class E>
VDK_INLINE Vec<typename ComputeOf<E>::T> load_as_compute(const E* p, int64_t n) {
  if constexpr (sizeof(E) == 2) {
    HalfLanes h{};
    if (n >= kLanes<float>)
      __builtin_memcpy(&h, p, sizeof h);
    else
      for (int64_t i = 0; i < n; ++i) h[i] = p[i].bits;
    return as_float(float_bits(h, E{}));
  } else {
    return load_first(p, n);
  }
}
template <class E>
VDK_INLINE void store_rounded(E* p, Vec<typename ComputeOf<E>::T> v, int64_t n) {
  if constexpr (sizeof(E) == 2) {
    const HalfLanes h = half_bits(v, E{});
    if (n >= kLanes<float>)
      __builtin_memcpy(p, &h, sizeof h);
    else
      for (int64_t i = 0; i < n; ++i) p[i].bits = h[i];
  } else {
    store_first(p, v, n);
  }
}

}  // namespace VDK_ISA
#endif

}  // namespace vdk
