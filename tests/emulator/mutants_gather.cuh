// Rows gathered by parts of a warp, as in sparse products, with known mistakes: parts go through rows of
// different lengths, stage the columns that they are to read, and fill up with a row of zeros.
#pragma once
#include <cmath>
#include <vector>

#include "cuda/launch.cuh"

namespace mutants {

enum class GatherBug {
  kNone,
  kNoSyncBeforeRead,   // others' columns are read before they are known to be there
  kNoSyncBeforeWrite,  // and overwritten while others still read
  kSyncOfOtherPart,    // by a mask that the caller is not in
  kStageShort,         // a column too few in shared memory
  kZeroRowMissing,     // what fills up is one row too far
};

constexpr int kGatherLanes = 8, kGatherThreads = 64, kGatherParts = kGatherThreads / kGatherLanes;

struct Gather {
  const int32_t *cols, *rows;  // [nnz], [out + 1]
  const float* x;              // [in + 1, kGatherLanes], the last row zeros
  float* y;                    // [out, kGatherLanes]
  int out, in;
};

template <GatherBug kBug>
VDK_KERNEL void __launch_bounds__(kGatherThreads) gather_kernel(Gather g) {
  constexpr int kStage = kGatherParts * kGatherLanes - (kBug == GatherBug::kStageShort);
  VDK_SHARED_ARRAY(int, staged, kStage);
  const int lane = int(threadIdx.x) % kGatherLanes, part = int(threadIdx.x) / kGatherLanes;
  const int row = int(blockIdx.x) * kGatherParts + part;
  if (row >= g.out) return;
  const unsigned mine = 0xFFu << int(threadIdx.x) % 32 / kGatherLanes * kGatherLanes;
  const unsigned mask = kBug == GatherBug::kSyncOfOtherPart ? mine << 8 | mine >> 24 : mine;
  const int end = vdk::load_global<int32_t>(g.rows + row + 1);
  float sum = 0;
  for (int k = vdk::load_global<int32_t>(g.rows + row); k < end; k += kGatherLanes) {
    const int none = g.in + (kBug == GatherBug::kZeroRowMissing);
    const int col = k + lane < end ? vdk::load_global<int32_t>(g.cols + k + lane) : none;
    if constexpr (kBug != GatherBug::kNoSyncBeforeWrite) __syncwarp(mask);
    staged[part * kGatherLanes + lane] = col;
    if constexpr (kBug != GatherBug::kNoSyncBeforeRead) __syncwarp(mask);
    for (int i = 0; i < kGatherLanes; ++i)
      sum += vdk::load_global<float>(g.x + staged[part * kGatherLanes + i] * kGatherLanes + lane);
  }
  vdk::store_global(g.y + row * kGatherLanes + lane, sum);
}

// The largest error of the sums; infinite for NaN.
template <GatherBug kBug>
double error_of_gather() {
  constexpr int kOut = 16, kIn = 40;
  std::vector<int32_t> cols, rows{0};
  for (int o = 0; o < kOut; ++o) {
    for (int i = 0; i < kIn; ++i)
      if ((i * 5 + o) % (2 + o % 4 * 3) == 0) cols.push_back(i);
    rows.push_back(int32_t(cols.size()));
  }
  std::vector<float> x(size_t(kIn + 1) * kGatherLanes, 0), y(size_t(kOut) * kGatherLanes, NAN);
  for (size_t i = 0; i < size_t(kIn) * kGatherLanes; ++i) x[i] = float(i % 13) - 5;
  emu::Buffer buffers[] = {{"cols", cols.data(), 4 * cols.size(), false},
                           {"rows", rows.data(), 4 * rows.size(), false},
                           {"x", x.data(), 4 * x.size(), false},
                           {"y", y.data(), 4 * y.size(), true}};
  (void)buffers;
  VDK_LAUNCH(gather_kernel<kBug>, vdk::Grid{vdk::ceil_div(kOut, kGatherParts)}, kGatherThreads, 0, nullptr,
             Gather{cols.data(), rows.data(), x.data(), y.data(), kOut, kIn});
  double worst = 0;
  for (int o = 0; o < kOut; ++o)
    for (int lane = 0; lane < kGatherLanes; ++lane) {
      double exact = 0;
      for (int k = rows[size_t(o)]; k < rows[size_t(o) + 1]; ++k)
        exact += x[size_t(cols[size_t(k)] * kGatherLanes + lane)];
      const double error = std::fabs(y[size_t(o * kGatherLanes + lane)] - exact);
      worst = std::isnan(error) ? INFINITY : std::fmax(worst, error);
    }
  return worst;
}

}  // namespace mutants
