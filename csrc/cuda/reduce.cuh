// Sums in a fixed order: the same bits in every run, on every device, and no atomics.
#pragma once
#include "launch.cuh"

namespace vdk {

// A sum and what rounding took from it (Knuth's two-sum), so that a float adds up millions without drift.
template <class T>
struct Compensated {
  T sum, rest;

  VDK_DEVICE void add(T x) {
    const T s = sum + x, part = s - sum;
    rest += (sum - (s - part)) + (x - part);
    sum = s;
  }
  VDK_DEVICE T value() const { return sum + rest; }
};

template <class T>
VDK_DEVICE T warp_sum(T x) {
  VDK_UNROLL
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
  return x;
}

// The sum over a block of kThreads, in thread 0.
template <int kThreads, class T>
VDK_DEVICE T block_sum(T x) {
  constexpr int kWarps = kThreads / 32;
  VDK_SHARED_ARRAY(T, of_warp, kWarps);
  x = warp_sum(x);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;
  __syncthreads();
  if (threadIdx.x >= 32) return x;
  return warp_sum(threadIdx.x < kWarps ? of_warp[threadIdx.x] : T(0));
}

constexpr int kPartsThreads = 256;

template <class T>
struct PartsArgs {
  const T* partial;  // [parts, n]
  int64_t parts, n;
  T* sums;  // [n]
};

// Many sums at once, each part after part by a thread of its own.
template <class T>
VDK_KERNEL void __launch_bounds__(kPartsThreads) sum_parts_kernel(PartsArgs<T> a) {
  const int64_t i = int64_t(blockIdx.x) * kPartsThreads + threadIdx.x;
  if (i >= a.n) return;
  Compensated<T> sum{0, 0};
  for (int64_t part = 0; part < a.parts; ++part) sum.add(load_global<T>(a.partial + part * a.n + i));
  store_global(a.sums + i, sum.value());
}

constexpr int kSumThreads = 512;

template <class T>
struct SumArgs {
  const T* x;  // [n]
  int64_t n;
  T* sum;  // [1]
};

// One block, the second stage of a reduction: each thread's share and then the block's with compensation,
// since the partial sums of equal terms are off all one way.
template <class T>
VDK_KERNEL void __launch_bounds__(kSumThreads) sum_kernel(SumArgs<T> a) {
  Compensated<T> mine{0, 0};
  for (int64_t i = threadIdx.x; i < a.n; i += kSumThreads) mine.add(load_global<T>(a.x + i));
  VDK_SHARED_ARRAY(T, sums, kSumThreads);
  VDK_SHARED_ARRAY(T, rests, kSumThreads);
  sums[threadIdx.x] = mine.sum;
  rests[threadIdx.x] = mine.rest;
  for (unsigned half = kSumThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x >= half) continue;
    mine.add(sums[threadIdx.x + half]);
    mine.rest += rests[threadIdx.x + half];
    sums[threadIdx.x] = mine.sum;
    rests[threadIdx.x] = mine.rest;
  }
  if (threadIdx.x == 0) store_global(a.sum, mine.value());
}

}  // namespace vdk
