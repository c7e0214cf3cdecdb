// Chunks that every thread copies and converts for itself, as the masked products do, with known mistakes: a
// chunk becomes one for each sample that reads its random words, and is then read by all.
#pragma once
#include <cmath>
#include <vector>

#include "cuda/pipeline.cuh"
#include "cuda/launch.cuh"

namespace mutants {

enum class MaskedBug {
  kNone,
  kConvertsOthers,       // chunks that another thread has copied
  kNoWaitBefore,         // converted before they are known to have landed
  kNoBarrierAfter,       // read before all are converted
  kSampleNotTurned,      // every sample has the mask of the first
  kFetchedOneStepAfter,  // a chunk of the next step under the mask of this one
  kTileShort,            // a sample's line too few in shared memory
};

constexpr int kMaskedThreads = 64, kMaskedSamples = 4;

struct Masked {
  const float* x;         // [steps, 4 * kMaskedThreads]
  const uint32_t* words;  // of as many
  float* sums;            // [kMaskedSamples], of what each sample keeps
  int steps;
};

template <MaskedBug kBug>
struct MaskedFeed {
  const Masked& m;
  uint4* buffer;
  float* tile;  // [kMaskedSamples][4 * kMaskedThreads]
  int fetched = 0, converted = 0;

  void fetch(int, int slot) const {
    const int step = fetched + (kBug == MaskedBug::kFetchedOneStepAfter && fetched + 1 < m.steps);
    vdk::cp_async16(buffer + slot * kMaskedThreads + threadIdx.x,
                    m.x + (step * kMaskedThreads + int(threadIdx.x)) * 4, true);
  }
  void advance() { ++fetched; }
  void convert(int slot) {
    const int own =
        kBug == MaskedBug::kConvertsOthers ? kMaskedThreads - 1 - int(threadIdx.x) : int(threadIdx.x);
    const uint4 four = vdk::load_shared<uint4>(buffer + slot * kMaskedThreads + own);
    const uint32_t x[4] = {four.x, four.y, four.z, four.w};
    for (int j = 0; j < 4; ++j) {
      const int at = own * 4 + j;
      const uint32_t word = vdk::load_global<uint32_t>(m.words + converted * 4 * kMaskedThreads + at);
      for (int s = 0; s < kMaskedSamples; ++s) {
        const int turn = kBug == MaskedBug::kSampleNotTurned ? 0 : 8 * s;
        const uint32_t turned = word << turn | word >> (-turn & 31);
        tile[(slot * kMaskedSamples + s) * 4 * kMaskedThreads + at] =
            turned >= 0x80000000u ? vdk::as_float(x[j]) : 0;
      }
    }
    ++converted;
  }
};

template <MaskedBug kBug>
VDK_KERNEL void __launch_bounds__(kMaskedThreads) masked_kernel(Masked m) {
  constexpr int kLine = 4 * kMaskedThreads;
  constexpr int kLines = 2 * kMaskedSamples - (kBug == MaskedBug::kTileShort);
  VDK_SHARED_ARRAY(uint4, buffer, 2 * kMaskedThreads);
  VDK_SHARED_ARRAY(float, tile, kLines* kLine);
  MaskedFeed<kBug> feed{m, buffer, tile};
  float sum = 0;
  const int own = int(threadIdx.x) % kMaskedSamples;
  const auto multiply = [&](int, int slot) {
    for (int i = 0; i < kLine; ++i) sum += tile[(slot * kMaskedSamples + own) * kLine + i];
  };
  if constexpr (kBug == MaskedBug::kNoWaitBefore || kBug == MaskedBug::kNoBarrierAfter) {
    // the steps one after another
    for (int step = 0; step < m.steps; ++step) {
      feed.fetch(0, 0);
      feed.advance();
      vdk::cp_async_commit();
      if constexpr (kBug != MaskedBug::kNoWaitBefore) vdk::cp_async_wait<0>();
      feed.convert(0);
      if constexpr (kBug != MaskedBug::kNoBarrierAfter) __syncthreads();
      multiply(0, 0);
      __syncthreads();
    }
    vdk::cp_async_wait<0>();
  } else {
    vdk::cuda::pipelined(feed, m.steps, [&](int slot) { feed.convert(slot); }, multiply);
  }
  if (threadIdx.x < kMaskedSamples) vdk::store_global(m.sums + own, sum);
}

// The largest error of the sums, which are of small integers; infinite for NaN.
template <MaskedBug kBug>
double error_of_masked() {
  constexpr int kSteps = 5, kCount = kSteps * 4 * kMaskedThreads;
  std::vector<float> x(kCount), sums(kMaskedSamples, NAN);
  std::vector<uint32_t> words(kCount);
  for (int i = 0; i < kCount; ++i) {
    x[size_t(i)] = float(i * 7 % 23);
    words[size_t(i)] = uint32_t(i + 1) * 0x9E3779B1u;
  }
  emu::Buffer buffers[] = {{"x", x.data(), 4 * x.size(), false},
                           {"words", words.data(), 4 * words.size(), false},
                           {"sums", sums.data(), 4 * sums.size(), true}};
  (void)buffers;
  VDK_LAUNCH(masked_kernel<kBug>, vdk::Grid{1}, kMaskedThreads, 0, nullptr,
             Masked{x.data(), words.data(), sums.data(), kSteps});
  double worst = 0;
  for (int s = 0; s < kMaskedSamples; ++s) {
    double exact = 0;
    for (int i = 0; i < kCount; ++i) {
      const uint32_t word = words[size_t(i)], turned = s ? word << 8 * s | word >> (32 - 8 * s) : word;
      if (turned >= 0x80000000u) exact += x[size_t(i)];
    }
    const double error = std::fabs(sums[size_t(s)] - exact);
    worst = std::isnan(error) ? INFINITY : std::fmax(worst, error);
  }
  return worst;
}

}  // namespace mutants
