// The 36 products of matrices: any number of rows, panels of kCols columns.
#pragma once
#include "../common/gemm.h"

namespace vdk {
namespace VDK_ISA {

constexpr int kPanel = Tile<float>::kCols;
constexpr int kRowStep = Tile<float>::kRows / 3;  // rows come in multiples of it: 4 or 2

// c[kRows][kVectors vectors] (+)= sum over k of a[k][kRows] b[k][kPanel]: rows that lie side by side.
template <int kRows, int kVectors>
__attribute__((noinline)) void outer_microkernel(int64_t k, const float* a, int64_t lda, const float* b,
                                                 float* c, int64_t ldc, bool accumulate) {
  constexpr int kL = kLanes<float>;
  VecF acc[kRows][kVectors];
#pragma GCC unroll 12
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; ++j) acc[i][j] = VecF{};
  if (accumulate) {
    const float* from = c;
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i, from = unseen(from + ldc))
#pragma GCC unroll 2
      for (int j = 0; j < kVectors; ++j) acc[i][j] = load(from + j * kL);
  }
#pragma GCC unroll 4
  for (; k > 0; --k) {
    VecF bv[kVectors];
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; ++j) bv[j] = load(b + j * kL);
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 2
      for (int j = 0; j < kVectors; ++j) acc[i][j] += a[i] * bv[j];
    a += lda;
    b += kPanel;
  }
#pragma GCC unroll 12
  for (int i = 0; i < kRows; ++i, c = unseen(c + ldc))
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; ++j) store(c + j * kL, acc[i][j]);
}

// Calls f(first row, std::integral_constant of rows) until `rows` are done.
template <int kRows>
struct RowCount {
  static constexpr int kCount = kRows;
};
template <class F>
VDK_INLINE void for_row_blocks(int64_t rows, F&& f) {
  int64_t i = 0;
  for (; i + 3 * kRowStep <= rows; i += 3 * kRowStep) f(i, RowCount<3 * kRowStep>());
  if (rows - i == 2 * kRowStep) f(i, RowCount<2 * kRowStep>());
  if (rows - i == kRowStep) f(i, RowCount<kRowStep>());
}

// c[rows][cols] = a[rows][k] b, rows of a contiguous in k; b in panels `panel` apart.
VDK_INLINE void multiply(int64_t rows, int64_t cols, int64_t k, const float* a, int64_t lda, const float* b,
                         int64_t panel, float* c, int64_t ldc) {
  for (int64_t j = 0; j < cols; j += kPanel, b += panel) {
    const bool half = cols - j <= kLanes<float>;
    for_row_blocks(rows, [&](int64_t i, auto n) __attribute__((always_inline)) {
      constexpr int kRows = decltype(n)::kCount;
      const auto kernel = half ? microkernel<float, 1, float, kRows> : microkernel<float, 2, float, kRows>;
      kernel(k, a + i * lda, lda, b, c + i * ldc + j, ldc, false);
    });
  }
}

// c[rows][cols] (+)= a[k][rows]^T b, b in panels `panel` apart.
VDK_INLINE void multiply_outer(int64_t rows, int64_t cols, int64_t k, const float* a, int64_t lda,
                               const float* b, int64_t panel, float* c, int64_t ldc, bool accumulate) {
  for (int64_t j = 0; j < cols; j += kPanel, b += panel) {
    const bool half = cols - j <= kLanes<float>;
    for_row_blocks(rows, [&](int64_t i, auto n) __attribute__((always_inline)) {
      constexpr int kRows = decltype(n)::kCount;
      const auto kernel = half ? outer_microkernel<kRows, 1> : outer_microkernel<kRows, 2>;
      kernel(k, a + i, lda, b, c + i * ldc + j, ldc, accumulate);
    });
  }
}

}  // namespace VDK_ISA
}  // namespace vdk
