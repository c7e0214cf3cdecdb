// Matrices turned over: dense ones, so that the batch lies side by side, and sparse ones, for gradients.
#pragma once
#include "../cuda/launch.cuh"
#include "cuda.h"

namespace vdk {
namespace cuda {

constexpr int kTurnTile = 32, kTurnThreads = 256, kTurnRows = kTurnThreads / kTurnTile;

template <class E>
struct TurnArgs {
  const E* from;  // [from_rows, from_cols], a row `from_pitch` after the other
  int64_t from_rows, from_cols, from_pitch;
  E* to;  // [to_rows, to_cols]: from^T, and zeros where that has nothing
  int64_t to_rows, to_cols;
  int across;  // tiles along to_cols
};

template <class E>
VDK_KERNEL void __launch_bounds__(kTurnThreads) spmm_turn(TurnArgs<E> a) {
  VDK_SHARED_ARRAY(E, tile, kTurnTile * (kTurnTile + 1));
  const int down = int(blockIdx.x) / a.across;
  const int64_t row0 = int64_t(down) * kTurnTile;
  const int64_t col0 = int64_t(int(blockIdx.x) - down * a.across) * kTurnTile;
  const int lane = int(threadIdx.x) % kTurnTile, first = int(threadIdx.x) / kTurnTile;
  VDK_UNROLL
  for (int i = first; i < kTurnTile; i += kTurnRows) {
    const bool there = col0 + i < a.from_rows && row0 + lane < a.from_cols;
    tile[i * (kTurnTile + 1) + lane] =
        there ? load_global<E>(a.from + (col0 + i) * a.from_pitch + row0 + lane) : E{};
  }
  __syncthreads();
  VDK_UNROLL
  for (int i = first; i < kTurnTile; i += kTurnRows)
    if (row0 + i < a.to_rows && col0 + lane < a.to_cols)
      store_global(a.to + (row0 + i) * a.to_cols + col0 + lane, tile[lane * (kTurnTile + 1) + i]);
}

}  // namespace cuda
}  // namespace vdk
