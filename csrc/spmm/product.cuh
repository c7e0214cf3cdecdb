// Sparse times dense on a GPU, after Gale, Zaharia, Young and Elsen (2020), "Sparse GPU kernels for deep
// learning", arXiv 2006.10901: a row of the weight goes to a part of a warp, whose lanes take the batch (one
// dimension of tiles); rows come by their number of nonzeros, so that parts of a warp end together and the
// longest begin first; a row's nonzeros are read by whole vectors from the multiple of four before its first
// one on.
#pragma once
#include "../cuda/launch.cuh"
#include "../cuda/vector.cuh"
#include "cuda.h"

namespace vdk {
namespace cuda {

constexpr int kSpmmThreads = 128;
constexpr int kVectorBatch = 8;  // up to which lanes take the nonzeros of a row, not the batch

// Of a part of a warp, kLanes threads beside each other.
template <int kLanes>
VDK_DEVICE unsigned lanes_of_part() {
  return ~0u >> (32 - kLanes) << (threadIdx.x % 32 / kLanes * kLanes);
}

// 16 bytes as floats, and back.
template <class E>
VDK_DEVICE void load_floats(float (&v)[kPer16<E>], const E* p) {
  const uint4 bits = load_global<uint4>(p);
  const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
  VDK_UNROLL
  for (int i = 0; i < 4; ++i) {
    if constexpr (sizeof(E) == 4) {
      v[i] = __uint_as_float(words[i]);
    } else {
      const float2 pair = unpack<E>(words[i]);
      v[2 * i] = pair.x, v[2 * i + 1] = pair.y;
    }
  }
}
template <class E>
VDK_DEVICE void store_floats(E* p, const float (&v)[kPer16<E>]) {
  uint32_t words[4];
  VDK_UNROLL
  for (int i = 0; i < 4; ++i) {
    if constexpr (sizeof(E) == 4)
      words[i] = __float_as_uint(v[i]);
    else
      words[i] = pack<E>(v[2 * i], v[2 * i + 1]);
  }
  store_global(p, make_uint4(words[0], words[1], words[2], words[3]));
}

VDK_DEVICE float activated(float y, bool relu) { return relu && y < 0 ? 0.0f : y; }  // NaN stays

template <class E, class V>
struct SpmmProductArgs {
  CsrMatrix<V> w;
  const int32_t* order;
  const E* x;  // [in + 1, pitch], the last row zeros
  int64_t pitch;
  const float* bias;
  bool relu;
  E* y;            // [out, pitch]
  int row_blocks;  // blocks that share a tile of the batch, and its inputs in L2
};

template <class E, class V, int kLanes>
VDK_KERNEL void __launch_bounds__(kSpmmThreads) spmm_product(SpmmProductArgs<E, V> a) {
  constexpr int kVector = kPer16<E>, kParts = kSpmmThreads / kLanes, kStage = 4 * kLanes;
  constexpr int kPitch = kStage + 2;  // parts of a warp read at one time, from other banks
  VDK_SHARED_ARRAY(uint2, shared, kParts * kPitch);
  const int lane = int(threadIdx.x) % kLanes, part = int(threadIdx.x) / kLanes;
  const int tile = int(blockIdx.x) / a.row_blocks;
  const int slot = (int(blockIdx.x) - tile * a.row_blocks) * kParts + part;
  if (slot >= int(a.w.out)) return;
  const unsigned mask = lanes_of_part<kLanes>();
  uint2* const staged = shared + part * kPitch;  // column and weight
  const int row = a.order ? load_global<int32_t>(a.order + slot) : slot;
  const int begin = load_global<int32_t>(a.w.rows + row), end = load_global<int32_t>(a.w.rows + row + 1);
  const int64_t column = int64_t(tile * kLanes + lane) * kVector;
  const bool inside = column < a.pitch;
  const char* const x = reinterpret_cast<const char*>(a.x + (inside ? column : 0));
  const uint32_t row_bytes = uint32_t(a.pitch * int64_t(sizeof(E)));  // so that an address is one instruction
  float sums[kVector] = {};

  int at = begin / 4 * 4;
  const auto fetch = [&](Four<int32_t>& cols, Four<V>& values) {
    const int k = at + 4 * lane, left = k < end ? int(a.w.nnz) - k : 0;
    cols = load_four(a.w.cols + k, left, true);
    values = load_four(a.w.values + k, left, true);
  };
  Four<int32_t> cols;
  Four<V> values;
  fetch(cols, values);
  while (at < end) {
    uint2 pairs[4];
    VDK_UNROLL
    for (int j = 0; j < 4; ++j) {  // what is of other rows meets the zeros behind the inputs
      const int k = at + 4 * lane + j;
      const bool mine = k >= begin && k < end;
      pairs[j] = make_uint2(mine ? unsigned(cols.v[j]) : unsigned(a.w.in),
                            mine ? __float_as_uint(to_float(values.v[j])) : 0);
    }
    __syncwarp(mask);  // nobody reads the last ones any more
    VDK_UNROLL
    for (int j = 0; j < 4; j += 2)
      store_shared(staged + 4 * lane + j, make_uint4(pairs[j].x, pairs[j].y, pairs[j + 1].x, pairs[j + 1].y));
    __syncwarp(mask);
    const int left = end - at, count = left < kStage ? left : kStage;
    at += kStage;
    fetch(cols, values);  // on their way while these are multiplied
    VDK_ROLLED
    for (int j = 0; j < count; j += 4) {
      float in[4][kVector], weight[4];
      VDK_UNROLL
      for (int i = 0; i < 4; i += 2) {
        const uint4 two = load_shared<uint4>(staged + j + i);
        weight[i] = __uint_as_float(two.y), weight[i + 1] = __uint_as_float(two.w);
        load_floats(in[i], reinterpret_cast<const E*>(x + uint64_t(two.x) * row_bytes));
        load_floats(in[i + 1], reinterpret_cast<const E*>(x + uint64_t(two.z) * row_bytes));
      }
      VDK_UNROLL
      for (int i = 0; i < 4; ++i) VDK_UNROLL
      for (int v = 0; v < kVector; ++v) sums[v] = fmaf(weight[i], in[i][v], sums[v]);
    }
  }
  if (!inside) return;
  const float bias = a.bias ? load_global<float>(a.bias + row) : 0.0f;
  VDK_UNROLL
  for (int v = 0; v < kVector; ++v) sums[v] = activated(sums[v] + bias, a.relu);
  store_floats(a.y + row * a.pitch + column, sums);
}

// A few rows of the batch, as they are: lanes take the nonzeros, and a warp or a part of it their sum.
template <class E, class V, int kLanes, int kBatch>
VDK_KERNEL void __launch_bounds__(kSpmmThreads) spmm_vector(SpmmArgs<E, V> a) {
  constexpr int kParts = kSpmmThreads / kLanes;
  const int lane = int(threadIdx.x) % kLanes;
  const int64_t slot = int64_t(blockIdx.x) * kParts + int(threadIdx.x) / kLanes;
  if (slot >= a.w.out) return;
  const unsigned mask = lanes_of_part<kLanes>();
  const int64_t row = a.order ? load_global<int32_t>(a.order + slot) : slot;
  const int begin = load_global<int32_t>(a.w.rows + row), end = load_global<int32_t>(a.w.rows + row + 1);
  const int batch = kBatch == 1 ? 1 : int(a.batch);
  float sums[kBatch] = {};
  VDK_ROLLED
  for (int k = begin / 4 * 4 + 4 * lane; k < end; k += 4 * kLanes) {
    const Four<int32_t> cols = load_four(a.w.cols + k, int(a.w.nnz) - k, true);
    const Four<V> values = load_four(a.w.values + k, int(a.w.nnz) - k, true);
    float in[4][kBatch] = {}, weight[4];
    VDK_UNROLL
    for (int j = 0; j < 4; ++j) {
      const bool mine = k + j >= begin && k + j < end;  // zeros otherwise, of either
      weight[j] = mine ? to_float(values.v[j]) : 0.0f;
      VDK_UNROLL
      for (int b = 0; b < kBatch; ++b)
        if (mine && b < batch) in[j][b] = to_float(load_global<E>(a.x + b * a.w.in + cols.v[j]));
    }
    VDK_UNROLL
    for (int j = 0; j < 4; ++j) VDK_UNROLL
    for (int b = 0; b < kBatch; ++b) sums[b] = fmaf(weight[j], in[j][b], sums[b]);
  }
  const float bias = a.bias ? load_global<float>(a.bias + row) : 0.0f;
  VDK_UNROLL
  for (int b = 0; b < kBatch; ++b) {
    VDK_UNROLL
    for (int step = kLanes / 2; step > 0; step /= 2) sums[b] += __shfl_xor_sync(mask, sums[b], step);
    if (lane == b % kLanes && b < batch)
      store_global(a.y + b * a.w.out + row, round_to<E>(activated(sums[b] + bias, a.relu)));
  }
}

}  // namespace cuda
}  // namespace vdk
