// 16 bytes at a time from tensors of any length and alignment.
#pragma once
#include "simt.cuh"

namespace vdk {

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

}  // namespace vdk
