// Elements in memory and in registers: float, bfloat16, half. Arithmetic is always done in float.
#pragma once
#include <type_traits>

#include "../cuda/simt.cuh"

namespace vdk {
namespace cuda {

// The variance path of half types is bfloat16 whatever the mean's type: sigma^2 = e^-20 and dy e / (2 std)
// need float's range, and fragments of the two types lie alike.
template <class E>
struct VarianceOf {
  using type = BFloat16;
};
template <>
struct VarianceOf<float> {
  using type = float;
};
template <class E>
using Variance = typename VarianceOf<E>::type;

template <class E>
constexpr int kVec = 16 / int(sizeof(E));  // elements of a 16-byte access

struct alignas(16) Words4 {
  uint32_t w[4];
};
struct alignas(8) Words2 {
  uint32_t w[2];
};

template <class E>
VDK_DEVICE float widen(E x) {
  if constexpr (sizeof(E) == 4)
    return x;
  else
    return to_float(x);
}
template <class E>
VDK_DEVICE E narrow(float x) {
  if constexpr (sizeof(E) == 4)
    return x;
  else
    return round_to<E>(x);
}

// kCount elements of E, as wide accesses bring them.
template <class E, int kCount>
VDK_DEVICE void widen_all(const uint32_t* words, float (&v)[kCount]) {
  VDK_UNROLL
  for (int i = 0; i < kCount; ++i) {
    if constexpr (sizeof(E) == 4) {
      v[i] = as_float(words[i]);
    } else if (i % 2 == 0) {
      const float2 two = unpack<E>(words[i / 2]);
      v[i] = two.x;
      v[i + 1] = two.y;
    }
  }
}
template <class E, int kCount>
VDK_DEVICE void narrow_all(const float (&v)[kCount], uint32_t* words) {
  VDK_UNROLL
  for (int i = 0; i < kCount; ++i) {
    if constexpr (sizeof(E) == 4)
      words[i] = as_uint(v[i]);
    else if (i % 2 == 0)
      words[i / 2] = pack<E>(v[i], v[i + 1]);
  }
}

// Four elements of a row, of which `valid` exist: in one access where rows keep its alignment.
template <class E>
using Quad = std::conditional_t<sizeof(E) == 4, Words4, Words2>;

template <class E>
VDK_DEVICE void load_four(const E* from, int valid, bool whole, float (&v)[4]) {
  if (whole) {
    widen_all<E>(load_global<Quad<E>>(from).w, v);
    return;
  }
  VDK_UNROLL
  for (int i = 0; i < 4; ++i) v[i] = i < valid ? widen(load_global<E>(from + i)) : 0.0f;
}
template <class E>
VDK_DEVICE void store_four(E* to, int valid, bool whole, const float (&v)[4]) {
  if (whole) {
    Quad<E> words;
    narrow_all<E>(v, words.w);
    store_global(to, words);
    return;
  }
  VDK_UNROLL
  for (int i = 0; i < 4; ++i)
    if (i < valid) store_global(to + i, narrow<E>(v[i]));
}

}  // namespace cuda
}  // namespace vdk
