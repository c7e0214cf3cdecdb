// Gradients of stored weights, a product of dense matrices sampled where the sparse one has something, and of
// the bias. Both read inputs and gradients with the batch side by side.
#pragma once
#include "product.cuh"

namespace vdk {
namespace cuda {

constexpr int kSampledLanes = 8;            // that take the batch: 128 bytes at a time
constexpr int kSampledRun = kSampledLanes;  // nonzeros after each other, of which each lane keeps a sum

template <class E>
struct SampledArgs {
  const int32_t *cols, *rows;
  int64_t nnz, out, pitch;
  const E *x, *dy;  // [in, pitch], [out, pitch]; zeros behind the batch
  float* dvalues;   // [nnz]
};

// The row of nonzero k: the last that begins at k or before.
VDK_DEVICE int row_of(const int32_t* rows, int out, int k) {
  int low = 0, high = out;  // rows[low] <= k < rows[high]
  while (high - low > 1) {
    const int middle = low + (high - low) / 2;
    (load_global<int32_t>(rows + middle) <= k ? low : high) = middle;
  }
  return low;
}

template <class E>
VDK_KERNEL void __launch_bounds__(kSpmmThreads) spmm_sampled(SampledArgs<E> a) {
  constexpr int kVector = kPer16<E>, kParts = kSpmmThreads / kSampledLanes;
  const int lane = int(threadIdx.x) % kSampledLanes;
  const int first = (int(blockIdx.x) * kParts + int(threadIdx.x) / kSampledLanes) * kSampledRun;
  const int left = int(a.nnz) - first, n = left < kSampledRun ? left : kSampledRun;
  if (n <= 0) return;
  int row = row_of(a.rows, int(a.out), first), end = load_global<int32_t>(a.rows + row + 1);
  float mine = 0;
  VDK_ROLLED
  for (int i = 0; i < n; ++i) {
    while (first + i >= end) end = load_global<int32_t>(a.rows + ++row + 1);
    const int column = load_global<int32_t>(a.cols + first + i);
    float sum = 0;
    VDK_ROLLED
    for (int b = lane * kVector; b < int(a.pitch); b += kSampledLanes * kVector) {
      float u[kVector], v[kVector];
      load_floats(u, a.x + (column * a.pitch + b));
      load_floats(v, a.dy + (row * a.pitch + b));
      VDK_UNROLL
      for (int j = 0; j < kVector; ++j) sum = fmaf(u[j], v[j], sum);
    }
    VDK_UNROLL
    for (int step = kSampledLanes / 2; step > 0; step /= 2)
      sum += __shfl_xor_sync(lanes_of_part<kSampledLanes>(), sum, step);
    if (lane == i) mine = sum;
  }
  if (lane < n) store_global(a.dvalues + first + lane, mine);
}

template <class E>
struct RowSumArgs {
  const E* x;  // [rows, pitch], zeros behind what is to be summed
  int64_t rows, pitch;
  float* sums;  // [rows]
};

template <class E>
VDK_KERNEL void __launch_bounds__(kSpmmThreads) spmm_row_sums(RowSumArgs<E> a) {
  constexpr int kVector = kPer16<E>;
  const int lane = int(threadIdx.x) % 32;
  const int64_t row = int64_t(blockIdx.x) * (kSpmmThreads / 32) + int(threadIdx.x) / 32;
  if (row >= a.rows) return;
  float sums[kVector] = {};
  VDK_ROLLED
  for (int64_t b = lane * kVector; b < a.pitch; b += 32 * kVector) {
    float v[kVector];
    load_floats(v, a.x + row * a.pitch + b);
    VDK_UNROLL
    for (int j = 0; j < kVector; ++j) sums[j] += v[j];
  }
  float sum = 0;
  VDK_UNROLL
  for (int j = 0; j < kVector; ++j) sum += sums[j];
  VDK_UNROLL
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
  if (lane == 0) store_global(a.sums + row, sum);
}

}  // namespace cuda
}  // namespace vdk
