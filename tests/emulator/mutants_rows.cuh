// Rows scaled and summed by warps in groups of four, as the gradients of a parameter that a row shares, with
// known mistakes.
#pragma once
#include <cmath>
#include <vector>

#include "cuda/reduce.cuh"
#include "cuda/vector.cuh"

namespace mutants {

enum class RowBug {
  kNone,
  kTailSummed,      // what lies beyond a row's last group is taken for its own
  kScaleNotShared,  // by the lane that loads it
  kPartsOverlap,    // by a group
  kWideRagged,      // whole groups are loaded where rows do not keep their alignment
  kPartOfRow,       // sums lie row by row, not part by part
};

constexpr int kRowThreads = 64, kRowPart = 32;  // groups of a part

struct RowSums {
  const float *x, *scale;  // [rows, cols], [rows]
  float *y, *sums;         // [rows, cols], [parts, rows]
  int rows, cols;
};

template <RowBug kBug>
VDK_KERNEL void __launch_bounds__(kRowThreads) row_sums_kernel(RowSums a) {
  const int row = int(blockIdx.x) * (kRowThreads / 32) + int(threadIdx.x) / 32, part = int(blockIdx.y);
  if (row >= a.rows) return;
  const int lane = int(threadIdx.x) % 32, groups = (a.cols + 3) / 4;
  float scale = lane == 0 ? vdk::load_global<float>(a.scale + row) : 0;
  if constexpr (kBug != RowBug::kScaleNotShared) scale = __shfl_sync(~0u, scale, 0);
  int end = (part + 1) * kRowPart + (kBug == RowBug::kPartsOverlap);
  if (end > groups) end = groups;
  float sum = 0;
  for (int group = part * kRowPart + lane; group < end; group += 32) {
    const int left = a.cols - 4 * group, n = left < 4 && kBug != RowBug::kTailSummed ? left : 4;
    const int64_t at = int64_t(row) * a.cols + 4 * group;
    vdk::Four<float> four = vdk::load_four(a.x + at, n, kBug == RowBug::kWideRagged);
    for (int j = 0; j < 4; ++j) {
      four.v[j] *= scale;
      if (j < n) sum += four.v[j];
    }
    vdk::store_four(a.y + at, four, left < 4 ? left : 4, false);
  }
  sum = vdk::warp_sum(sum);
  const int place = kBug == RowBug::kPartOfRow ? row * int(gridDim.y) + part : part * a.rows + row;
  if (lane == 0) vdk::store_global(a.sums + place, sum);
}

// The largest error of y and of the sums, which are of small integers; infinite for NaN.
template <RowBug kBug>
double error_of_rows() {
  constexpr int kRows = 5, kCols = 4 * kRowPart + 37, kParts = 2;
  std::vector<float> x(size_t(kRows * kCols)), y(x.size(), NAN), scale, sums(size_t(kParts * kRows), NAN);
  for (size_t i = 0; i < x.size(); ++i) x[i] = float(i * 7 % 19) + 1;
  for (int row = 0; row < kRows; ++row) scale.push_back(float(row + 2));
  emu::Buffer buffers[] = {{"x", x.data(), 4 * x.size(), false},
                           {"scale", scale.data(), 4 * scale.size(), false},
                           {"y", y.data(), 4 * y.size(), true},
                           {"sums", sums.data(), 4 * sums.size(), true}};
  (void)buffers;
  const vdk::Grid grid{vdk::ceil_div(kRows, kRowThreads / 32), kParts};
  VDK_LAUNCH(row_sums_kernel<kBug>, grid, kRowThreads, 0, nullptr,
             RowSums{x.data(), scale.data(), y.data(), sums.data(), kRows, kCols});
  double worst = 0;
  const auto hold = [&](double found, double exact) {
    const double error = std::fabs(found - exact);
    worst = std::isnan(error) ? INFINITY : std::fmax(worst, error);
  };
  for (int row = 0; row < kRows; ++row)
    for (int part = 0; part < kParts; ++part) {
      double exact = 0;
      for (int col = part * 4 * kRowPart; col < kCols && col < (part + 1) * 4 * kRowPart; ++col) {
        const size_t i = size_t(row * kCols + col);
        exact += double(x[i]) * double(scale[size_t(row)]);
        hold(double(y[i]), double(x[i]) * double(scale[size_t(row)]));
      }
      hold(double(sums[size_t(part * kRows + row)]), exact);
    }
  return worst;
}

}  // namespace mutants
