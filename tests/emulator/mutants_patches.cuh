// Patches gathered from an image a number at a time, as in convolutions, with known mistakes: a row of outputs
// of three weights a channel, with zeros around the image.
#pragma once
#include <cmath>
#include <vector>

#include "cuda/launch.cuh"

namespace mutants {

enum class PatchBug {
  kNone,
  kEdgeMissing,     // what lies beside the image is copied as if it were part of it
  kZerosMissing,    // nothing is copied there, and what the last channel left stays
  kReadBeforeWait,  // copies are used while they are on their way
};

constexpr int kPatchThreads = 32, kPatchTaps = 3;

struct Patches {
  const float *x, *w;  // [channels, width], [channels, kPatchTaps]
  float* y;            // [width]
  int channels, width;
};

template <PatchBug kBug>
VDK_KERNEL void __launch_bounds__(kPatchThreads) patch_kernel(Patches p) {
  VDK_SHARED_ARRAY(float, staged, kPatchThreads + kPatchTaps - 1);
  const int lane = int(threadIdx.x), col = int(blockIdx.x) * kPatchThreads + lane;
  float sum = 0;
  for (int c = 0; c < p.channels; ++c) {
    for (int i = lane; i < kPatchThreads + kPatchTaps - 1; i += kPatchThreads) {
      const int at = int(blockIdx.x) * kPatchThreads + i - 1;
      const bool there = at >= 0 && at < p.width;
      if (kBug == PatchBug::kZerosMissing && !there) continue;
      const bool copied = there || kBug == PatchBug::kEdgeMissing;
      vdk::cp_async4(staged + i, p.x + (copied ? c * p.width + at : 0), copied);
    }
    vdk::cp_async_commit();
    if constexpr (kBug != PatchBug::kReadBeforeWait) vdk::cp_async_wait<0>();
    __syncthreads();
    for (int i = 0; i < kPatchTaps; ++i)
      sum += staged[lane + i] * vdk::load_global<float>(p.w + c * kPatchTaps + i);
    if constexpr (kBug == PatchBug::kReadBeforeWait) vdk::cp_async_wait<0>();
    __syncthreads();
  }
  if (col < p.width) vdk::store_global(p.y + col, sum);
}

// The largest error of the sums; infinite for NaN.
template <PatchBug kBug>
double error_of_patches() {
  constexpr int kChannels = 3, kWidth = 45;
  std::vector<float> x(kChannels * kWidth), w(kChannels * kPatchTaps), y(kWidth, NAN);
  for (size_t i = 0; i < x.size(); ++i) x[i] = float(i % 13) - 5;
  for (size_t i = 0; i < w.size(); ++i) w[i] = float(i % 5) - 1;
  emu::Buffer buffers[] = {{"x", x.data(), 4 * x.size(), false},
                           {"w", w.data(), 4 * w.size(), false},
                           {"y", y.data(), 4 * y.size(), true}};
  (void)buffers;
  VDK_LAUNCH(patch_kernel<kBug>, vdk::Grid{vdk::ceil_div(kWidth, kPatchThreads)}, kPatchThreads, 0, nullptr,
             Patches{x.data(), w.data(), y.data(), kChannels, kWidth});
  double worst = 0;
  for (int col = 0; col < kWidth; ++col) {
    double exact = 0;
    for (int c = 0; c < kChannels; ++c)
      for (int i = 0; i < kPatchTaps; ++i) {
        const int at = col + i - 1;
        if (at >= 0 && at < kWidth) exact += x[size_t(c * kWidth + at)] * w[size_t(c * kPatchTaps + i)];
      }
    const double error = std::fabs(y[size_t(col)] - exact);
    worst = std::isnan(error) ? INFINITY : std::fmax(worst, error);
  }
  return worst;
}

}  // namespace mutants
