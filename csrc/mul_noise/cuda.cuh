// Memory-bound: a thread draws the noise of groups of four elements, reads x and writes y once. Groups that
// lie at a multiple of their size, as in rows of a multiple of four, are moved by one or two accesses, others
// by four.
#pragma once
#include "../cuda/vector.cuh"
#include "../random/noise.cuh"
#include "cuda.h"

namespace vdk {
namespace cuda {

constexpr int kMulNoiseThreads = 256;
constexpr int kMulNoiseGroups = 2;  // a thread

template <class T>
struct MulNoiseKernelArgs {
  const T* x;
  T* y;
  int64_t rows, cols;  // of whole groups: one row
  const int64_t* seed;
  uint32_t drop_below;  // Bernoulli
  ComputeOf<T> factor;  // 1 / (1 - p), or the standard deviation
  bool wide;
};

template <Noise kNoise, class C>
VDK_DEVICE void noise_factors(NoiseKey key, uint64_t counter, uint32_t drop_below, C factor, C (&xi)[4]) {
  if constexpr (kNoise == Noise::kBernoulli) {
    uint32_t words[4];
    noise_words(key, counter, words);
    VDK_UNROLL
    for (int j = 0; j < 4; ++j) xi[j] = words[j] < drop_below ? C(0) : factor;
  } else {
    noise_normals(key, counter, xi);
    VDK_UNROLL
    for (int j = 0; j < 4; ++j) xi[j] = C(1) + factor * xi[j];
  }
}

template <class T, Noise kNoise>
VDK_KERNEL void __launch_bounds__(kMulNoiseThreads) mul_noise_kernel(MulNoiseKernelArgs<T> a) {
  using C = ComputeOf<T>;
  const int64_t groups = groups_of(a.cols), total = a.rows * groups;
  int64_t at[kMulNoiseGroups];
  int n[kMulNoiseGroups];
  Four<T> x[kMulNoiseGroups];
  VDK_UNROLL
  for (int i = 0; i < kMulNoiseGroups; ++i) {
    const int64_t g = (int64_t(blockIdx.x) * kMulNoiseGroups + i) * kMulNoiseThreads + threadIdx.x;
    const int64_t row = a.rows == 1 ? 0 : g / groups, col = (g - row * groups) * 4;
    at[i] = row * a.cols + col;
    n[i] = g < total ? int(a.cols - col < 4 ? a.cols - col : 4) : 0;
    x[i] = load_four(a.x + at[i], n[i], a.wide);
  }
  const NoiseKey key = noise_key(a.seed);
  VDK_UNROLL
  for (int i = 0; i < kMulNoiseGroups; ++i) {
    C xi[4];
    const uint64_t g = (uint64_t(blockIdx.x) * kMulNoiseGroups + i) * kMulNoiseThreads + threadIdx.x;
    noise_factors<kNoise>(key, g, a.drop_below, a.factor, xi);
    VDK_UNROLL
    for (int j = 0; j < 4; ++j) {
      if constexpr (sizeof(T) == 8)
        x[i].v[j] *= xi[j];
      else
        x[i].v[j] = round_to<T>(to_float(x[i].v[j]) * xi[j]);
    }
    store_four(a.y + at[i], x[i], n[i], a.wide);
  }
}

}  // namespace cuda
}  // namespace vdk
