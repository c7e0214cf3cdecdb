// Memory-bound. A row that fits into a block's registers is read once: its threshold is found bit by bit,
// each bit set if no more than k magnitudes lie below what that gives, and the row is masked where it lies.
// Longer rows are read once a digit of eight bits (digits.cuh) and once more to be masked. Integers decide,
// so that ties and the order of threads change nothing.
#pragma once
#include <cmath>

#include "../cuda/reduce.cuh"
#include "../random/noise.cuh"
#include "cuda.h"
#include "keys.cuh"

namespace vdk {
namespace cuda {

constexpr int kMaskThreads = 256;
constexpr int kMaskGroups = 4;  // of four weights, a lane, where the threshold is known

// What gamma and alpha come to: a candidate is dropped where its random word is below `below`, 2^32: always.
struct MaskNumbers {
  int64_t rank, below;
};

struct MaskNumbersArgs {
  const double *gamma, *alpha;  // gamma may be null
  int64_t n;                    // of which gamma is a share
  MaskNumbers* numbers;
};

// int(gamma n), of a gamma that may be short of the number meant by a rounding of float; int(alpha 2^32).
VDK_KERNEL void __launch_bounds__(32) mask_numbers(MaskNumbersArgs a) {
  if (threadIdx.x > 0) return;
  const auto held = [](double x, int64_t most) { return x >= double(most) ? most : x > 0 ? int64_t(x) : 0; };
  const double gamma = a.gamma ? load_global<double>(a.gamma) : 0;
  store_global(&a.numbers->rank, held(gamma * double(a.n) * (1 + 0x1p-22), a.n));
  store_global(&a.numbers->below, held(load_global<double>(a.alpha) * 0x1p32, int64_t(1) << 32));
}

template <class E>
struct MaskKernelArgs {
  using C = ComputeOf<E>;
  const E *w, *given;
  E* out;
  int64_t rows, cols;
  bool wide;
  const int64_t* seed;
  const MaskNumbers* numbers;
  C* threshold;
  const C *norms, *bound;  // of units, or null: thresholds are made of them
};

VDK_DEVICE bool is_dropped(uint32_t word, int64_t below) { return int64_t(word) < below; }

// The sum over the threads of a row, a warp or the block, to all of them. `turn` is 0 and 1 by turns: one
// barrier between two sums is enough.
template <int kThreads>
VDK_DEVICE int sum_of_row(int x, int turn) {
  x = warp_sum(x);
  if constexpr (kThreads > 32) {
    constexpr int kWarps = kThreads / 32;
    VDK_SHARED_ARRAY(int, of_warp, 2 * kWarps);
    const int lane = threadIdx.x % 32;
    if (lane == 0) of_warp[turn * kWarps + threadIdx.x / 32] = x;
    __syncthreads();
    x = warp_sum(lane < kWarps ? of_warp[turn * kWarps + lane] : 0);
  }
  return x;
}

// Rows of up to 4 kThreads kGroups numbers. kMask: thresholds of rows, and rows without what is dropped; else
// the one threshold of numbers.
template <class E, int kThreads, int kGroups, bool kMask>
VDK_KERNEL void __launch_bounds__(kThreads < kMaskThreads ? kMaskThreads : kThreads)
    mask_select(MaskKernelArgs<E> a) {
  using K = KeyOf<E>;
  constexpr int kRows = kThreads < kMaskThreads ? kMaskThreads / kThreads : 1;  // a block
  const int64_t row = int64_t(blockIdx.x) * kRows + threadIdx.x / kThreads;
  if (row >= a.rows) return;  // warps as a whole
  const int mine = threadIdx.x % kThreads;
  K keys[kGroups][4];
  VDK_UNROLL
  for (int i = 0; i < kGroups; ++i) {
    const int64_t col = 4 * (mine + int64_t(i) * kThreads), left = a.cols - col;
    const int n = left < 4 ? left > 0 ? int(left) : 0 : 4;
    const Four<E> w = load_four(a.w + row * a.cols + col, n, a.wide);
    VDK_UNROLL
    for (int j = 0; j < 4; ++j) keys[i][j] = j < n ? key_of(w.v[j]) : ~K(0);  // is below nothing
  }
  const int64_t rank = load_for_warp(&a.numbers->rank);
  K found = 0;
  VDK_ROLLED
  for (int bit = kMagnitudeBits<E> - 1; bit >= 0; --bit) {
    const K tried = found | K(1) << bit;
    int below = 0;
    VDK_UNROLL
    for (int i = 0; i < kGroups; ++i) {
      VDK_UNROLL
      for (int j = 0; j < 4; ++j) below += keys[i][j] < tried << 1;
    }
    if (sum_of_row<kThreads>(below, bit % 2) <= rank) found = tried;
  }
  found = found < kInfiniteBits<E> ? found : kInfiniteBits<E>;
  if (mine == 0) store_global(a.threshold + row, computed(of_bits<E>(found)));
  if constexpr (kMask) {
    const int64_t below = load_for_warp(&a.numbers->below);
    const NoiseKey key = noise_key(a.seed);
    const bool some = found > 0 && below > 0;
    VDK_UNROLL
    for (int i = 0; i < kGroups; ++i) {
      const int64_t col = 4 * (mine + int64_t(i) * kThreads), left = a.cols - col;
      const int n = left < 4 ? left > 0 ? int(left) : 0 : 4;
      uint32_t words[4] = {};
      if (some && n > 0) noise_words(key, uint64_t(row * groups_of(a.cols) + col / 4), words);
      Four<E> out;
      VDK_UNROLL
      for (int j = 0; j < 4; ++j) {
        const bool gone = some && keys[i][j] < found << 1 && is_dropped(words[j], below);
        out.v[j] = of_key<E>(gone ? K(0) : keys[i][j]);
      }
      store_four(a.out + row * a.cols + col, out, n, a.wide);
    }
  }
}

template <class E>
struct MaskNormsArgs {
  const E* w;
  int64_t rows, cols;
  bool wide;
  ComputeOf<E>* norms;
};
// L2 norms of rows, by a warp or a block each, summed in double, so that any order of summing rounds to the
// same float.
template <class E, bool kBlock>
VDK_KERNEL void __launch_bounds__(kMaskThreads) mask_row_norms(MaskNormsArgs<E> a) {
  constexpr int kThreads = kBlock ? kMaskThreads : 32;
  const int64_t row = int64_t(blockIdx.x) * (kMaskThreads / kThreads) + threadIdx.x / kThreads;
  if (row >= a.rows) return;
  const int mine = threadIdx.x % kThreads;
  const int64_t groups = groups_of(a.cols);
  double sum = 0;
  for (int64_t group = mine; group < groups; group += kThreads) {
    const int64_t left = a.cols - 4 * group;
    const Four<E> w = load_four(a.w + row * a.cols + 4 * group, left < 4 ? int(left) : 4, a.wide);
    VDK_UNROLL
    for (int j = 0; j < 4; ++j) {
      const double x = computed(w.v[j]);  // 0 beyond the row
      sum += x * x;
    }
  }
  sum = kBlock ? block_sum<kMaskThreads>(sum) : warp_sum(sum);
  if (mine == 0) store_global(a.norms + row, ComputeOf<E>(sqrt(sum)));
}

// What is given, without what is dropped: a warp takes a part of a row whose threshold is known. kUnit: one
// word drops a row.
template <class E, bool kUnit>
VDK_KERNEL void __launch_bounds__(kMaskThreads) mask_apply(MaskKernelArgs<E> a) {
  using C = ComputeOf<E>;
  constexpr int kPart = 32 * kMaskGroups;
  const int64_t groups = groups_of(a.cols), parts = (groups + kPart - 1) / kPart;
  const int64_t unit = int64_t(blockIdx.x) * (kMaskThreads / 32) + threadIdx.x / 32;
  const int64_t row = parts == 1 ? unit : unit / parts, first = (unit - row * parts) * kPart;
  if (row >= a.rows) return;  // warps as a whole
  const int lane = threadIdx.x % 32;
  C threshold;
  if (a.norms) {
    threshold = load_for_warp(a.norms + row) < load_for_warp(a.bound) ? C(INFINITY) : C(0);
    if (first == 0 && lane == 0) store_global(a.threshold + row, threshold);
  } else {
    threshold = load_for_warp(a.threshold + row);
  }
  const int64_t below = load_for_warp(&a.numbers->below);
  const NoiseKey key = noise_key(a.seed);
  bool some = threshold > 0 && below > 0;
  if (kUnit && some) {
    uint32_t words[4];
    noise_words(key, uint64_t(row / 4), words);
    some = is_dropped(word_of(words, int(row % 4)), below);
  }
  Four<E> given[kMaskGroups], w[kMaskGroups];
  int n[kMaskGroups];
  VDK_UNROLL
  for (int i = 0; i < kMaskGroups; ++i) {
    const int64_t col = 4 * (first + lane + 32 * i), left = a.cols - col, at = row * a.cols + col;
    n[i] = left < 4 ? left > 0 ? int(left) : 0 : 4;
    given[i] = load_four(a.given + at, n[i], a.wide);
    w[i] = some && a.given != a.w ? load_four(a.w + at, n[i], a.wide) : given[i];
  }
  VDK_UNROLL
  for (int i = 0; i < kMaskGroups; ++i) {
    const int64_t group = first + lane + 32 * i;
    if (some && n[i] > 0) {
      uint32_t words[4] = {};
      if (!kUnit) noise_words(key, uint64_t(row * groups + group), words);
      VDK_UNROLL
      for (int j = 0; j < 4; ++j) {
        const C x = computed(w[i].v[j]);
        const bool candidate = x < threshold && -x < threshold;
        if (candidate && (kUnit || is_dropped(words[j], below))) given[i].v[j] = of_bits<E>(0);
      }
    }
    store_four(a.out + row * a.cols + 4 * group, given[i], n[i], a.wide);
  }
}

}  // namespace cuda
}  // namespace vdk
