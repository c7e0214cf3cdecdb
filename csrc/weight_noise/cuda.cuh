// Memory-bound: a thread draws the noise of groups of four weights and reads and writes them once. What
// weights share is summed on the way: by a warp along its row, by a thread down its columns, and then part
// after part.
#pragma once
#include "../cuda/reduce.cuh"
#include "../cuda/vector.cuh"
#include "../cuda/vmath.cuh"
#include "../random/noise.cuh"
#include "cuda.h"

namespace vdk {
namespace cuda {

constexpr int kWeightThreads = 256;
constexpr int kWeightGroups = 2;                      // a thread, where nothing is summed
constexpr int kRowGroups = 32 * 16;                   // of a row, a warp
constexpr int kColumnThreads = 64, kColumnRows = 32;  // groups side by side and rows, a block

template <class E>
struct WeightNoiseKernelArgs {
  WeightNoiseArgs<E> of;
  bool wide;
  int64_t log_step;    // from row to row of log: 1, or 0 where it is one number
  ComputeOf<E>* sums;  // of parts, or the result
};

// Four weights and the gradients of as many.
template <class E>
struct FourWeights {
  Four<E> mu, grad;

  VDK_DEVICE FourWeights(const WeightNoiseArgs<E>& of, int64_t at, int n, bool wide) {
    if (of.mu) mu = load_four(of.mu + at, n, wide);
    if (of.grad) grad = load_four(of.grad + at, n, wide);
  }
};

// What to make of weight j with noise e and sigma factor s = exp(log / 2): the noisy weight, or dmu.
template <bool kAlpha, bool kGrad, class E>
VDK_DEVICE E noisy(const FourWeights<E>& w, int j, ComputeOf<E> noise) {
  const auto given = computed(kGrad ? w.grad.v[j] : w.mu.v[j]);
  return stored<E>(given + (kAlpha ? given * noise : noise));
}
template <bool kAlpha, class E>
VDK_DEVICE ComputeOf<E> slope(const FourWeights<E>& w, int j, ComputeOf<E> noise) {
  const auto by_noise = computed(w.grad.v[j]) * noise;
  return ComputeOf<E>(0.5) * (kAlpha ? by_noise * computed(w.mu.v[j]) : by_noise);
}

// Nothing is summed. kOwn: every weight has a parameter, else a row or all have.
template <class E, bool kAlpha, bool kOwn, bool kGrad>
VDK_KERNEL void __launch_bounds__(kWeightThreads) weight_noise_kernel(WeightNoiseKernelArgs<E> a) {
  using C = ComputeOf<E>;
  const WeightNoiseArgs<E>& of = a.of;
  const int64_t groups = groups_of(of.cols), total = of.rows * groups;
  const NoiseKey key = noise_key(of.seed);
  VDK_UNROLL
  for (int i = 0; i < kWeightGroups; ++i) {
    const int64_t g = (int64_t(blockIdx.x) * kWeightGroups + i) * kWeightThreads + threadIdx.x;
    if (g >= total) return;
    const int64_t row = of.rows == 1 ? 0 : g / groups, col = (g - row * groups) * 4;
    const int64_t at = row * of.cols + col;
    const int n = int(of.cols - col < 4 ? of.cols - col : 4);
    const FourWeights<E> w(of, at, n, a.wide);
    Four<E> log;
    if constexpr (kOwn) {
      log = load_four(of.log + at, n, a.wide);
    } else {
      log.v[0] = load_global<E>(of.log + row * a.log_step);
    }
    C z[4], scale = 0;
    noise_normals(key, uint64_t(g), z);
    Four<E> out, dlog;
    if constexpr (!kOwn) scale = exp_compensated(C(0.5) * computed(log.v[0]));
    VDK_UNROLL
    for (int j = 0; j < 4; ++j) {
      if constexpr (kOwn) scale = exp_compensated(C(0.5) * computed(log.v[j]));
      out.v[j] = noisy<kAlpha, kGrad>(w, j, scale * z[j]);
      if constexpr (kGrad) dlog.v[j] = stored<E>(slope<kAlpha>(w, j, scale * z[j]));
    }
    if constexpr (kAlpha || !kGrad) store_four(of.out + at, out, n, a.wide);
    if constexpr (kGrad) store_four(of.dlog + at, dlog, n, a.wide);
  }
}

// kWide: groups are whole, and lie at multiples of their size. A test of that within the loop would cost the
// wide accesses.

// Four weights, or gradients, of a log_alpha that others share, written. Leaves their slopes; returns how
// many there are.
template <bool kGrad, bool kWide, class E>
VDK_DEVICE int write_shared(const WeightNoiseArgs<E>& of, NoiseKey key, int64_t row, int64_t group,
                            const ComputeOf<E> (&scale)[4], ComputeOf<E> (&slopes)[4]) {
  const int n = kWide || of.cols - 4 * group >= 4 ? 4 : int(of.cols - 4 * group);
  const int64_t at = row * of.cols + 4 * group;
  const FourWeights<E> w(of, at, n, kWide);
  ComputeOf<E> z[4];
  noise_normals(key, uint64_t(row * groups_of(of.cols) + group), z);
  Four<E> out;
  VDK_UNROLL
  for (int j = 0; j < 4; ++j) {
    out.v[j] = noisy<true, kGrad>(w, j, scale[j] * z[j]);
    if constexpr (kGrad) slopes[j] = slope<true>(w, j, scale[j] * z[j]);
  }
  if constexpr (kWide)
    store_whole_four(of.out + at, out);
  else
    store_four(of.out + at, out, n, false);
  return n;
}

// Gradients of a log_alpha that a row or all share: a warp sums a part of a row, sums [parts, rows].
template <class E, bool kWide>
VDK_KERNEL void __launch_bounds__(kWeightThreads) weight_noise_rows(WeightNoiseKernelArgs<E> a) {
  using C = ComputeOf<E>;
  const WeightNoiseArgs<E>& of = a.of;
  const int64_t row = int64_t(blockIdx.x) * (kWeightThreads / 32) + threadIdx.x / 32, part = blockIdx.y;
  if (row >= of.rows) return;
  const int lane = threadIdx.x % 32;
  const int64_t groups = groups_of(of.cols);
  C scale = 0;
  if (lane == 0) scale = exp_compensated(C(0.5) * computed(load_global<E>(of.log + row * a.log_step)));
  scale = __shfl_sync(~0u, scale, 0);
  const NoiseKey key = noise_key(of.seed);
  const int64_t end = groups < (part + 1) * kRowGroups ? groups : (part + 1) * kRowGroups;
  C sum = 0;
  const C of_all[4] = {scale, scale, scale, scale};
  for (int64_t group = part * kRowGroups + lane; group < end; group += 32) {
    C slopes[4];
    const int n = write_shared<true, kWide>(of, key, row, group, of_all, slopes);
    VDK_UNROLL
    for (int j = 0; j < 4; ++j)
      if (j < n) sum += slopes[j];
  }
  sum = warp_sum(sum);
  if (lane == 0) store_global(a.sums + part * of.rows + row, sum);
}

// Of a log_alpha that a column shares: weights, or with kGrad gradients, sums [parts, cols]. A thread takes
// four columns of some rows.
template <class E, bool kGrad, bool kWide>
VDK_KERNEL void __launch_bounds__(kColumnThreads) weight_noise_columns(WeightNoiseKernelArgs<E> a) {
  using C = ComputeOf<E>;
  const WeightNoiseArgs<E>& of = a.of;
  const int64_t part = blockIdx.x, groups = groups_of(of.cols);
  const int64_t group = int64_t(blockIdx.y) * kColumnThreads + threadIdx.x;
  if (group >= groups) return;
  const int n = kWide || of.cols - 4 * group >= 4 ? 4 : int(of.cols - 4 * group);
  const Four<E> log = load_four(of.log + 4 * group, n, kWide);
  C scale[4], sum[4];
  VDK_UNROLL
  for (int j = 0; j < 4; ++j) {
    scale[j] = exp_compensated(C(0.5) * computed(log.v[j]));
    sum[j] = 0;
  }
  const NoiseKey key = noise_key(of.seed);
  const int64_t end = of.rows < (part + 1) * kColumnRows ? of.rows : (part + 1) * kColumnRows;
  for (int64_t row = part * kColumnRows; row < end; ++row) {
    C slopes[4];
    write_shared<kGrad, kWide>(of, key, row, group, scale, slopes);
    if constexpr (kGrad) VDK_UNROLL
    for (int j = 0; j < 4; ++j) sum[j] += slopes[j];
  }
  if constexpr (kGrad) VDK_UNROLL
  for (int j = 0; j < 4; ++j)
    if (j < n) store_global(a.sums + part * of.cols + 4 * group + j, sum[j]);
}

}  // namespace cuda
}  // namespace vdk
