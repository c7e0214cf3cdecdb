// Thresholds of rows too long for a block's registers: a digit of eight bits a pass, from the top. A pass
// counts the digits of the magnitudes that agree with the threshold so far, span by span; a block a row then
// adds the spans and finds where the index falls.
#pragma once
#include "cuda.cuh"

namespace vdk {
namespace cuda {

constexpr int kBins = kMaskThreads;
constexpr int kSpanBatches = 4, kSpanBatch = 4;  // groups of four, a thread
constexpr int64_t kSpan = int64_t(4) * kMaskThreads * kSpanBatches * kSpanBatch;

// The bits of a row's threshold found so far, and its index among what agrees with them.
struct MaskState {
  uint64_t prefix;
  int64_t left;
};

template <class E>
struct MaskDigitArgs {
  const E* w;
  int64_t rows, cols, spans;
  bool wide;
  int shift, width;  // of the digit
  const MaskNumbers* numbers;
  MaskState* states;        // [rows]
  int32_t* counts;          // [rows, spans, kBins]
  ComputeOf<E>* threshold;  // [rows], written with the last digit
};

template <class E>
VDK_KERNEL void __launch_bounds__(kMaskThreads) mask_count(MaskDigitArgs<E> a) {
  using K = KeyOf<E>;
  VDK_SHARED_ARRAY(int32_t, counts, kBins);
  const int64_t row = blockIdx.x / a.spans, span = blockIdx.x - row * a.spans;
  const int top = a.shift + a.width;
  const K agreed = top == kMagnitudeBits<E> ? K(0) : K(load_for_warp(&a.states[row].prefix)) >> top;
  counts[threadIdx.x] = 0;
  __syncthreads();
  VDK_ROLLED
  for (int batch = 0; batch < kSpanBatches; ++batch) {
    Four<E> w[kSpanBatch];
    int n[kSpanBatch];
    VDK_UNROLL
    for (int i = 0; i < kSpanBatch; ++i) {
      const int64_t col = span * kSpan + 4 * (threadIdx.x + (batch * kSpanBatch + i) * int64_t(kMaskThreads));
      const int64_t left = a.cols - col;
      n[i] = left < 4 ? left > 0 ? int(left) : 0 : 4;
      w[i] = load_four(a.w + row * a.cols + col, n[i], a.wide);
    }
    VDK_UNROLL
    for (int i = 0; i < kSpanBatch; ++i) {
      VDK_UNROLL
      for (int j = 0; j < 4; ++j) {
        const K magnitude = magnitude_of(w[i].v[j]);
        if (j < n[i] && magnitude >> top == agreed)
          atomicAdd(counts + (magnitude >> a.shift & ((K(1) << a.width) - 1)), int32_t(1));
      }
    }
  }
  __syncthreads();
  store_global(a.counts + int64_t(blockIdx.x) * kBins + threadIdx.x, counts[threadIdx.x]);
}

template <class E>
VDK_KERNEL void __launch_bounds__(kBins) mask_digit(MaskDigitArgs<E> a) {
  using K = KeyOf<E>;
  VDK_SHARED_ARRAY(int64_t, sums, kBins);
  const int64_t row = blockIdx.x;
  const int digit = threadIdx.x;
  int64_t sum = 0;
  for (int64_t span = 0; span < a.spans; ++span)
    sum += load_global<int32_t>(a.counts + (row * a.spans + span) * kBins + digit);
  sums[digit] = sum;
  for (int step = 1; step < kBins; step *= 2) {
    __syncthreads();
    const int64_t before = digit < step ? 0 : sums[digit - step];
    __syncthreads();
    sums[digit] += before;
  }
  __syncthreads();
  const bool first = a.shift + a.width == kMagnitudeBits<E>;
  const int64_t left = first ? load_for_warp(&a.numbers->rank) : load_for_warp(&a.states[row].left);
  const uint64_t prefix = first ? 0 : load_for_warp(&a.states[row].prefix);
  const int64_t before = digit == 0 ? 0 : sums[digit - 1];
  // every barrier lies behind: what follows is written where another thread of the block has read
  __syncthreads();
  if (before > left || (left >= sums[digit] && digit < kBins - 1)) return;
  const int most = (1 << a.width) - 1;  // beyond the last there is nothing: all bits are set
  const uint64_t found = prefix | uint64_t(digit < most ? digit : most) << a.shift;
  if (a.shift > 0) {
    store_global(&a.states[row].prefix, found);
    store_global(&a.states[row].left, left - before);
  } else {
    const K bits = K(found) < kInfiniteBits<E> ? K(found) : kInfiniteBits<E>;
    store_global(a.threshold + row, computed(of_bits<E>(bits)));
  }
}

}  // namespace cuda
}  // namespace vdk
