// 16 bytes, or four elements, at a time from tensors of any length and alignment.
#pragma once
#include <type_traits>

#include "simt.cuh"
#include "types.h"

namespace vdk {

// An element as it is computed with, and back.
template <class E>
VDK_DEVICE ComputeOf<E> computed(E x) {
  if constexpr (sizeof(E) == 8)
    return x;
  else
    return to_float(x);
}
template <class E>
VDK_DEVICE E stored(ComputeOf<E> x) {
  if constexpr (sizeof(E) == 8)
    return x;
  else
    return round_to<E>(x);
}

template <class T>
constexpr int kPer16 = 16 / sizeof(T);

template <class... Pointers>
bool all_aligned16(const Pointers*... p) {  // null is aligned
  return ((reinterpret_cast<uintptr_t>(p) % 16 == 0) && ...);
}

// Elements i ... of p [n] into v, one access where they are whole and `wide` (aligned); the rest become
// `fill`.
template <class T>
VDK_DEVICE void load_vector(T (&v)[kPer16<T>], const T* p, int64_t i, int64_t n, bool wide, T fill) {
  if (wide && i + kPer16<T> <= n) {
    const uint4 bits = load_global<uint4>(p + i);
    memcpy(v, &bits, sizeof bits);
    return;
  }
  VDK_UNROLL
  for (int j = 0; j < kPer16<T>; ++j) v[j] = i + j < n ? load_global<T>(p + i + j) : fill;
}

template <class T>
VDK_DEVICE void store_vector(T* p, const T (&v)[kPer16<T>], int64_t i, int64_t n, bool wide) {
  if (wide && i + kPer16<T> <= n) {
    uint4 bits;
    memcpy(&bits, v, sizeof bits);
    store_global(p + i, bits);
    return;
  }
  VDK_UNROLL
  for (int j = 0; j < kPer16<T>; ++j)
    if (i + j < n) store_global(p + i + j, v[j]);
}

// Four elements, or the `n` there are.
template <class T>
struct alignas(sizeof(T) == 2 ? 8 : 16) Four {
  T v[4];
};
template <class T>
VDK_DEVICE Four<T> load_four(const T* p, int n, bool wide) {
  using Word = std::conditional_t<sizeof(T) == 2, uint2, uint4>;
  Four<T> four{};
  if (wide && n >= 4) {
    constexpr int kWords = sizeof(four) / sizeof(Word);
    Word words[kWords];
    VDK_UNROLL
    for (int i = 0; i < kWords; ++i) words[i] = load_global<Word>(reinterpret_cast<const Word*>(p) + i);
    memcpy(&four, words, sizeof four);
    return four;
  }
  VDK_UNROLL
  for (int j = 0; j < 4; ++j)
    if (j < n) four.v[j] = load_global<T>(p + j);
  return four;
}
// Four elements at a multiple of their size, by `store_global_whole`.
template <class T>
VDK_DEVICE void store_whole_four(T* p, const Four<T>& four) {
  using Word = std::conditional_t<sizeof(T) == 2, uint2, uint4>;
  constexpr int kWords = sizeof(four) / sizeof(Word);
  Word words[kWords];
  memcpy(words, &four, sizeof four);
  VDK_UNROLL
  for (int i = 0; i < kWords; ++i) store_global_whole(reinterpret_cast<Word*>(p) + i, words[i]);
}
template <class T>
VDK_DEVICE void store_four(T* p, const Four<T>& four, int n, bool wide) {
  using Word = std::conditional_t<sizeof(T) == 2, uint2, uint4>;
  if (wide && n >= 4) {
    constexpr int kWords = sizeof(four) / sizeof(Word);
    Word words[kWords];
    memcpy(words, &four, sizeof four);
    VDK_UNROLL
    for (int i = 0; i < kWords; ++i) store_global(reinterpret_cast<Word*>(p) + i, words[i]);
    return;
  }
  VDK_UNROLL
  for (int j = 0; j < 4; ++j)
    if (j < n) store_global(p + j, four.v[j]);
}

}  // namespace vdk
