// Panels: some rows of x or y, transposed, so that vectors run over the batch.
#pragma once
#include <utility>

#include "tile.h"

namespace vdk {
namespace VDK_ISA {

typedef float Vec4 __attribute__((vector_size(16)));

// A vector of four(0), four(1), ..., four floats each, which come from memory.
template <class V, class F>
VDK_INLINE V of_fours(F&& four) {
  static_assert(kLanesOf<V> == 8 || kLanesOf<V> == 16, "vector width");
  if constexpr (kLanesOf<V> == 8) {
    return __builtin_shufflevector(four(0), four(1), 0, 1, 2, 3, 4, 5, 6, 7);
  } else {
#if defined(__AVX512F__)
    __m512 v = _mm512_castps128_ps512((__m128)four(0));  // the compiler would shuffle registers
    v = _mm512_insertf32x4(v, (__m128)four(1), 1);
    v = _mm512_insertf32x4(v, (__m128)four(2), 2);
    return (V)_mm512_insertf32x4(v, (__m128)four(3), 3);
#endif
  }
}

// Each four of the result from those of a and b at its place: 0 to 3 are a's, 4 to 7 b's.
template <int k0, int k1, int k2, int k3, class V, int... kLane>
VDK_INLINE V pick_fours(V a, V b, std::integer_sequence<int, kLane...>) {
  constexpr int k[] = {k0, k1, k2, k3};
  return __builtin_shufflevector(a, b,
                                 (kLane / 4 * 4 + k[kLane % 4] % 4 + k[kLane % 4] / 4 * kLanesOf<V>)...);
}

// Squares of four by four floats turned, each where it stands among the fours of the vectors.
template <class V>
VDK_INLINE void turn_fours(V (&r)[4]) {
  constexpr std::make_integer_sequence<int, kLanesOf<V>> lanes{};
  const V t0 = pick_fours<0, 4, 1, 5>(r[0], r[1], lanes), t1 = pick_fours<0, 4, 1, 5>(r[2], r[3], lanes);
  const V t2 = pick_fours<2, 6, 3, 7>(r[0], r[1], lanes), t3 = pick_fours<2, 6, 3, 7>(r[2], r[3], lanes);
  r[0] = pick_fours<0, 1, 4, 5>(t0, t1, lanes), r[1] = pick_fours<2, 3, 6, 7>(t0, t1, lanes);
  r[2] = pick_fours<0, 1, 4, 5>(t2, t3, lanes), r[3] = pick_fours<2, 3, 6, 7>(t2, t3, lanes);
}

// r[j] = {row 0's j-th, row 1's j-th, ...}, of rows of four floats; those from `rows` on count as zero.
template <class V>
VDK_INLINE void turn_rows(const float* from, int64_t stride, int64_t rows, V (&r)[4]) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i)  // loads by fours stand in for the shuffles across them
    r[i] = of_fours<V>([&](int j) __attribute__((always_inline)) {
      const int row = 4 * j + i;
      return row < rows ? load_as<Vec4>(from + row * stride) : Vec4{};
    });
  turn_fours(r);
}

// As `turn_rows`, of eight rows of eight floats.
VDK_INLINE void transpose_eight(const float* from, int64_t stride, int64_t rows, Vec8 (&r)[8]) {
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {
    Vec8 four[4];
    turn_rows(from + 4 * half, stride, rows, four);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) r[4 * half + i] = four[i];
  }
}

// Columns [begin, end) of as many rows of x as V has lanes, of which there are `rows`, into so many floats
// each at `panel`, `stride` floats apart.
template <class V>
VDK_INLINE void rows_to_panel(const float* x, int64_t ldx, int64_t rows, int64_t begin, int64_t end,
                              float* panel, int64_t stride) {
  int64_t k = begin;
  const auto four = [&](int64_t count) __attribute__((always_inline)) {
    V r[4];
    turn_rows(x + k, ldx, count, r);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) store_as(panel + i * stride, r[i]);
  };
  if (rows >= kLanesOf<V>)
    for (; k + 4 <= end; k += 4, panel += 4 * stride) four(kLanesOf<V>);
  else
    for (; k + 4 <= end; k += 4, panel += 4 * stride) four(rows);
  for (; k < end; ++k, panel += stride)
    for (int i = 0; i < kLanesOf<V>; ++i) panel[i] = i < rows ? x[i * ldx + k] : 0;
}

// The way back.
VDK_INLINE void panel_to_rows(const float* panel, int64_t stride, int64_t begin, int64_t end, float* y,
                              int64_t ldy, int64_t rows) {
  int64_t k = begin;
  for (; k + 8 <= end; k += 8) {
    Vec8 r[8];
    transpose_eight(panel + k * stride, stride, 8, r);
    if (rows >= 8)
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) store_as(y + i * ldy + k, r[i]);
    else
      for (int i = 0; i < rows; ++i) store_as(y + i * ldy + k, r[i]);
  }
  for (; k < end; ++k)
    for (int i = 0; i < rows; ++i) y[i * ldy + k] = panel[k * stride + i];
}

}  // namespace VDK_ISA
}  // namespace vdk
