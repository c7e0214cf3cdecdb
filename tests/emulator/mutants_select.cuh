// The k-th smallest of small numbers, as in `weight_mask`, with known mistakes: a digit by counts in shared
// memory, the rest bit by bit, by sums over the block with one barrier each.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "cuda/launch.cuh"

namespace mutants {

enum class SelectBug {
  kNone,
  kNoBarrierBeforeCount,  // counts are made 0 while others count
  kNoBarrierAfterCount,   // and read while others count
  kPlainCount,            // += by many threads
  kOneBuffer,             // a sum is overwritten while others still read the one before
};

constexpr int kSelectThreads = 64, kSelectWarps = kSelectThreads / 32;

struct Select {
  const uint32_t* x;  // [n], below 256
  uint32_t* found;    // [1]
  int n, k;
};

template <SelectBug kBug>
VDK_KERNEL void __launch_bounds__(kSelectThreads) select_kernel(Select s) {
  VDK_SHARED_ARRAY(int, counts, 16);
  VDK_SHARED_ARRAY(int, of_warp, 2 * kSelectWarps);
  const int tid = int(threadIdx.x);
  if (tid < 16) counts[tid] = 0;
  if constexpr (kBug != SelectBug::kNoBarrierBeforeCount) __syncthreads();
  for (int i = tid; i < s.n; i += kSelectThreads) {
    const uint32_t digit = vdk::load_global<uint32_t>(s.x + i) >> 4;
    if constexpr (kBug == SelectBug::kPlainCount)
      counts[digit] += 1;
    else
      atomicAdd(counts + digit, 1);
  }
  if constexpr (kBug != SelectBug::kNoBarrierAfterCount) __syncthreads();
  int digit = 0;
  for (int before = counts[0]; digit < 15 && before <= s.k; before += counts[digit]) ++digit;
  uint32_t found = uint32_t(digit) << 4;
  for (int bit = 3; bit >= 0; --bit) {
    const uint32_t tried = found | 1u << bit;
    int below = 0;
    for (int i = tid; i < s.n; i += kSelectThreads) below += vdk::load_global<uint32_t>(s.x + i) < tried;
    for (int step = 16; step > 0; step /= 2) below += __shfl_xor_sync(~0u, below, step);
    int* const sums = of_warp + (kBug == SelectBug::kOneBuffer ? 0 : bit % 2) * kSelectWarps;
    if (tid % 32 == 0) sums[tid / 32] = below;
    __syncthreads();
    if (sums[0] + sums[1] <= s.k) found = tried;
  }
  // by the warp that a lost sum would lead astray as soon as the other
  if (tid == kSelectThreads - 1) vdk::store_global(s.found, found);
}

// The largest error of some indices.
template <SelectBug kBug>
double error_of_select() {
  std::vector<uint32_t> x;
  for (uint32_t i = 0; i < 300; ++i) x.push_back(i * 37 % 251);
  std::vector<uint32_t> rising = x;
  std::sort(rising.begin(), rising.end());
  double worst = 0;
  for (int k = 5; k < 300; k += 29) {
    uint32_t found = ~0u;
    emu::Buffer buffers[] = {{"x", x.data(), 4 * x.size(), false}, {"found", &found, 4, true}};
    (void)buffers;
    VDK_LAUNCH(select_kernel<kBug>, vdk::Grid{1}, kSelectThreads, 0, nullptr,
               Select{x.data(), &found, int(x.size()), k});
    worst = std::fmax(worst, std::fabs(double(found) - double(rising[size_t(k)])));
  }
  return worst;
}

}  // namespace mutants
