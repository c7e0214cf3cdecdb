// From sums to results, four columns of a row at a time: one call of Philox draws their noise.
#pragma once
#include "../random/philox.h"
#include "args.cuh"
#include "stage.cuh"

namespace vdk {
namespace cuda {

// The noise of columns 4 group.. of a row.
VDK_DEVICE void normals_of_group(uint64_t seed, int64_t row, int64_t cols, int64_t group, float (&z)[4]) {
  const uint64_t counter = uint64_t(row) * uint64_t((cols + 3) / 4) + uint64_t(group);
  uint32_t words[4] = {uint32_t(counter), uint32_t(counter >> 32), 0, 0};
  philox4x32(words, uint32_t(seed), uint32_t(seed >> 32));
  box_muller(words, z);
}

VDK_DEVICE float kl_slope(Prior, bool, float, float, float) { return 0; }
template <class T>
VDK_DEVICE float log_alpha_by_mu(float mu) {
  return mu * -2.0f / (mu * mu + 1e-8f);
}

// What becomes of mean[4] and variance[4] at (row, col); `valid` of the columns exist. What it leaves in variance
// is summed where log is broadcast.
template <class P>
struct Epilogue;

template <class Math, int kBlockM>
struct Epilogue<Product<Math, Pass::kForward, kBlockM>> {
  using E = typename Math::E;
  const ProductArgs& args;
  uint64_t seed;

  VDK_DEVICE explicit Epilogue(const ProductArgs& a) : args(a), seed(uint64_t(load_global<int64_t>(a.seed))) {}

  VDK_DEVICE void operator()(int64_t row, int64_t col, int valid, float (&mean)[4], float (&variance)[4]) const {
    float z[4], std[4];
    normals_of_group(seed, row, args.plan.n, col / 4, z);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      std[i] = square_root(variance[i] + args.eps);
      mean[i] += std[i] * z[i];
      if (args.bias && i < valid) mean[i] += load_global<float>(args.bias + col + i);
    }
    const int64_t at = row * args.plan.n + col;
    store_four(static_cast<E*>(args.result) + at, valid, args.whole_result, mean);
    store_four(args.std + at, valid, args.whole_result, std);
  }
};

template <class Math, int kBlockM>
struct Epilogue<Product<Math, Pass::kInput, kBlockM>> {
  using E = typename Math::E;
  const ProductArgs& args;

  VDK_DEVICE explicit Epilogue(const ProductArgs& a) : args(a) {}

  VDK_DEVICE void operator()(int64_t row, int64_t col, int valid, float (&mean)[4], float (&variance)[4]) const {
    const int64_t at = row * args.plan.n + col;
    float x[4];
    load_four(static_cast<const E*>(args.x) + at, valid, args.whole_result, x);
#pragma unroll
    for (int i = 0; i < 4; ++i) mean[i] += 2 * x[i] * variance[i];
    store_four(static_cast<E*>(args.result) + at, valid, args.whole_result, mean);
  }
};

template <class Math, int kBlockM>
struct Epilogue<Product<Math, Pass::kWeights, kBlockM>> {
  using E = typename Math::E;
  const ProductArgs& args;
  float kl_scale;

  VDK_DEVICE explicit Epilogue(const ProductArgs& a)
      : args(a), kl_scale(a.prior == Prior::kNone ? 0.0f : load_global<float>(a.kl_scale)) {}

  VDK_DEVICE void operator()(int64_t row, int64_t col, int valid, float (&mean)[4], float (&variance)[4]) const {
    const LrtWeights& w = args.w;
    const int64_t at = row * args.plan.n + col;
    float mu[4], log[4];
    load_four(static_cast<const E*>(w.mu) + at, valid, args.whole_result, mu);
    if (args.log_sums) {
#pragma unroll
      for (int i = 0; i < 4; ++i) log[i] = i < valid ? log_at<E>(w, row, col + i) : 0.0f;
    } else if (w.log_is_float) {
      load_four(static_cast<const float*>(w.log) + at, valid, args.whole_result, log);
    } else {
      load_four(static_cast<const E*>(w.log) + at, valid, args.whole_result, log);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float e = exp_f32(log[i]);
      if (is_clipped(w, mu[i], e)) mean[i] = 0;
      if (w.is_alpha) mean[i] += 2 * variance[i] * e * mu[i];
      variance[i] *= w.is_alpha ? e * mu[i] * mu[i] : e;
      if (args.prior != Prior::kNone) {
        const float slope = kl_scale * kl_slope(args.prior, w.is_alpha, mu[i], log[i], e);
        variance[i] += slope;
        if (!w.is_alpha) mean[i] += slope * log_alpha_by_mu<float>(mu[i]);
      }
    }
    store_four(static_cast<E*>(args.result) + at, valid, args.whole_result, mean);
    if (args.log_sums) return;
    if (w.log_is_float)
      store_four(static_cast<float*>(args.log_result) + at, valid, args.whole_result, variance);
    else
      store_four(static_cast<E*>(args.log_result) + at, valid, args.whole_result, variance);
  }
};

}  // namespace cuda
}  // namespace vdk
