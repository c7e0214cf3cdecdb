// Panels: some rows of x or y, transposed, so that vectors run over the batch.
#pragma once
#include "tile.h"

namespace vdk {
namespace VDK_ISA {

typedef float Vec4 __attribute__((vector_size(16)));

// r[j] = {row 0's j-th, ..., row 7's j-th}, of rows of eight floats; those from `rows` on count as zero.
VDK_INLINE void transpose_eight(const float* from, int64_t stride, int64_t rows, Vec8 (&r)[8]) {
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {
    Vec8 a[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {  // two loads stand in for the shuffles across halves
      const float* const p = from + i * stride + 4 * half;
      const Vec4 low = i < rows ? load_as<Vec4>(p) : Vec4{};
      const Vec4 high = i + 4 < rows ? load_as<Vec4>(p + 4 * stride) : Vec4{};
      a[i] = __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7);
    }
    const Vec8 t0 = __builtin_shufflevector(a[0], a[1], 0, 8, 1, 9, 4, 12, 5, 13);
    const Vec8 t1 = __builtin_shufflevector(a[2], a[3], 0, 8, 1, 9, 4, 12, 5, 13);
    const Vec8 t2 = __builtin_shufflevector(a[0], a[1], 2, 10, 3, 11, 6, 14, 7, 15);
    const Vec8 t3 = __builtin_shufflevector(a[2], a[3], 2, 10, 3, 11, 6, 14, 7, 15);
    r[4 * half + 0] = __builtin_shufflevector(t0, t1, 0, 1, 8, 9, 4, 5, 12, 13);
    r[4 * half + 1] = __builtin_shufflevector(t0, t1, 2, 3, 10, 11, 6, 7, 14, 15);
    r[4 * half + 2] = __builtin_shufflevector(t2, t3, 0, 1, 8, 9, 4, 5, 12, 13);
    r[4 * half + 3] = __builtin_shufflevector(t2, t3, 2, 3, 10, 11, 6, 7, 14, 15);
  }
}

// Columns [begin, end) of eight rows of x, of which there are `rows`, into eight floats each at `panel`,
// `stride` floats apart.
VDK_INLINE void rows_to_panel(const float* x, int64_t ldx, int64_t rows, int64_t begin, int64_t end,
                              float* panel, int64_t stride) {
  int64_t k = begin;
  const auto eight = [&](int64_t count) __attribute__((always_inline)) {
    Vec8 r[8];
    transpose_eight(x + k, ldx, count, r);
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) store_as(panel + i * stride, r[i]);
  };
  if (rows >= 8)
    for (; k + 8 <= end; k += 8, panel += 8 * stride) eight(8);
  else
    for (; k + 8 <= end; k += 8, panel += 8 * stride) eight(rows);
  for (; k < end; ++k, panel += stride)
    for (int i = 0; i < 8; ++i) panel[i] = i < rows ? x[i * ldx + k] : 0;
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
