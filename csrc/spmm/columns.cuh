// A sparse matrix turned over, for the gradient of the input: its nonzeros by column, and in each column by
// row.
//
// A counting sort, stable and without a float atomic: chunks of rows count their nonzeros by column, the
// counts are summed over chunks and columns, and each chunk places its own, row after row.
#pragma once
#include "../cuda/launch.cuh"
#include "cuda.h"

namespace vdk {
namespace cuda {

constexpr int kColumnThreads = 256, kScanThreads = 256;

template <class V>
struct ColumnArgs {
  CsrMatrix<V> w;
  int chunks, chunk_rows;
  int32_t* counts;   // [chunks, in]: nonzeros, then where a chunk's next one of a column goes
  int32_t* offsets;  // [in + 1] of the columns
  int32_t* rows;     // [nnz], by column
  V* values;         // [nnz], by column
};

template <class V>
VDK_KERNEL void __launch_bounds__(kColumnThreads) spmm_column_counts(ColumnArgs<V> a) {
  int32_t* const counts = a.counts + int64_t(blockIdx.x) * a.w.in;
  for (int64_t i = threadIdx.x; i < a.w.in; i += kColumnThreads) store_global(counts + i, int32_t(0));
  __syncthreads();
  const int64_t first = int64_t(blockIdx.x) * a.chunk_rows, last = first + a.chunk_rows;
  const int begin = load_global<int32_t>(a.w.rows + first);
  const int end = load_global<int32_t>(a.w.rows + (last < a.w.out ? last : a.w.out));
  for (int k = begin + int(threadIdx.x); k < end; k += kColumnThreads)
    atomicAdd(counts + load_global<int32_t>(a.w.cols + k), int32_t(1));
}

// Counts of each column become the nonzeros of chunks before; their sum goes to the column's place in
// `offsets`.
template <class V>
VDK_KERNEL void __launch_bounds__(kColumnThreads) spmm_column_chunks(ColumnArgs<V> a) {
  const int64_t column = int64_t(blockIdx.x) * kColumnThreads + threadIdx.x;
  if (column >= a.w.in) return;
  int32_t sum = 0;
  for (int chunk = 0; chunk < a.chunks; ++chunk) {
    int32_t* const count = a.counts + chunk * a.w.in + column;
    const int32_t here = load_global<int32_t>(count);
    store_global(count, sum);
    sum += here;
  }
  store_global(a.offsets + column, sum);
}

struct ScanArgs {
  int32_t* x;  // [n + 1]: the first n become the sums of those before, the last the sum of all
  int64_t n;
};

// One block, kScanThreads numbers at a time.
VDK_KERNEL void __launch_bounds__(kScanThreads) spmm_scan(ScanArgs a) {
  constexpr int kWarps = kScanThreads / 32;
  VDK_SHARED_ARRAY(int32_t, sums, kWarps);
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  int32_t before = 0;
  for (int64_t i = threadIdx.x; i - int64_t(threadIdx.x) < a.n; i += kScanThreads) {
    const int32_t mine = i < a.n ? load_global<int32_t>(a.x + i) : 0;
    int32_t sum = mine;  // of this lane and those before
    VDK_UNROLL
    for (int step = 1; step < 32; step *= 2) {
      const int32_t other = __shfl_sync(~0u, sum, lane - step);
      if (lane >= step) sum += other;
    }
    if (lane == 31) sums[warp] = sum;
    __syncthreads();
    int32_t all = 0, warps_before = 0;
    VDK_UNROLL
    for (int w = 0; w < kWarps; ++w) {
      if (w == warp) warps_before = all;
      all += sums[w];
    }
    __syncthreads();
    if (i < a.n) store_global(a.x + i, before + warps_before + sum - mine);
    before += all;
  }
  if (threadIdx.x == 0) store_global(a.x + a.n, before);
}

template <class V>
VDK_KERNEL void __launch_bounds__(kColumnThreads) spmm_column_places(ColumnArgs<V> a) {
  int32_t* const next = a.counts + int64_t(blockIdx.x) * a.w.in;
  const int64_t first = int64_t(blockIdx.x) * a.chunk_rows, last = first + a.chunk_rows;
  for (int64_t row = first; row < (last < a.w.out ? last : a.w.out); ++row) {
    const int end = load_global<int32_t>(a.w.rows + row + 1);
    for (int k = load_global<int32_t>(a.w.rows + row) + int(threadIdx.x); k < end; k += kColumnThreads) {
      const int column = load_global<int32_t>(a.w.cols + k);
      // columns of a row differ, so nobody else is at this number
      const int64_t place = load_global<int32_t>(a.offsets + column) + atomicAdd(next + column, int32_t(1));
      store_global(a.rows + place, int32_t(row));
      store_global(a.values + place, load_global<V>(a.w.values + k));
    }
    __syncthreads();
  }
}

}  // namespace cuda
}  // namespace vdk
