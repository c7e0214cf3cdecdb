// Magnitudes as integers. Those of floats that are not negative rise with their bits, so that the k-th
// smallest is found bit by bit, exactly, whatever the numbers are.
#pragma once
#include <type_traits>

#include "../cuda/vector.cuh"

namespace vdk {
namespace cuda {

template <class E>
using KeyOf = std::conditional_t<sizeof(E) == 8, uint64_t, uint32_t>;
template <class E>
constexpr int kMagnitudeBits = 8 * sizeof(E) - 1;
template <class E>
constexpr KeyOf<E> kInfiniteBits = 0x7F800000u;
template <>
inline constexpr uint64_t kInfiniteBits<double> = uint64_t(0x7FF0) << 48;
template <>
inline constexpr uint32_t kInfiniteBits<Float16> = 0x7C00;
template <>
inline constexpr uint32_t kInfiniteBits<BFloat16> = 0x7F80;

template <class E>
VDK_DEVICE KeyOf<E> bits_of(E x) {
  if constexpr (sizeof(E) == 2) {
    return x.bits;
  } else {
    KeyOf<E> bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
  }
}
template <class E>
VDK_DEVICE E of_bits(KeyOf<E> bits) {
  if constexpr (sizeof(E) == 2) {
    return E{uint16_t(bits)};
  } else {
    E x;
    memcpy(&x, &bits, sizeof x);
    return x;
  }
}
template <class E>
VDK_DEVICE KeyOf<E> magnitude_of(E x) {
  return bits_of(x) & ((KeyOf<E>(1) << kMagnitudeBits<E>)-1);
}

// A number in one register, its sign last: keys below twice a magnitude are those of smaller numbers.
template <class E>
VDK_DEVICE KeyOf<E> key_of(E x) {
  return magnitude_of(x) << 1 | bits_of(x) >> kMagnitudeBits<E>;
}
template <class E>
VDK_DEVICE E of_key(KeyOf<E> key) {
  return of_bits<E>(key >> 1 | (key & 1) << kMagnitudeBits<E>);
}

// Of what a warp's lanes share one of them asks memory.
template <class T>
VDK_DEVICE T load_for_warp(const T* p) {
  T x{};
  if (threadIdx.x % 32 == 0) x = load_global<T>(p);
  return __shfl_sync(~0u, x, 0);
}

}  // namespace cuda
}  // namespace vdk
