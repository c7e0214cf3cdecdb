// From sums to results, four columns of a row at a time: one call of Philox draws their noise.
#pragma once
#include "../random/noise.cuh"
#include "args.cuh"
#include "stage.cuh"

namespace vdk {
namespace cuda {

// What becomes of mean[4] and variance[4] in four columns from `col` on, of which `valid` exist, row by row.
// What rows share is loaded once. What it leaves in variance is summed where log is broadcast.
template <class P>
struct Epilogue;

template <class Math, int kBlockM>
struct Epilogue<Product<Math, Pass::kForward, kBlockM>> {
  using E = typename Math::E;
  const ProductArgs& args;
  int64_t col;
  int valid;
  NoiseKey key;
  float bias[4] = {};

  VDK_DEVICE Epilogue(const ProductArgs& a, int64_t col, int valid)
      : args(a), col(col), valid(valid), key(noise_key(a.seed)) {
    VDK_UNROLL
    for (int i = 0; i < 4; ++i)
      if (args.bias && i < valid) bias[i] = load_global<float>(args.bias + col + i);
  }

  VDK_DEVICE void operator()(int64_t row, float (&mean)[4], float (&variance)[4]) const {
    float z[4], std[4];
    noise_normals(key, uint64_t(row * groups_of(args.plan.n) + col / 4), z);
    VDK_UNROLL
    for (int i = 0; i < 4; ++i) {
      std[i] = square_root(variance[i] + args.eps);
      mean[i] += std[i] * z[i];
      mean[i] += bias[i];
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
  int64_t col;
  int valid;

  VDK_DEVICE Epilogue(const ProductArgs& a, int64_t col, int valid) : args(a), col(col), valid(valid) {}

  VDK_DEVICE void operator()(int64_t row, float (&mean)[4], float (&variance)[4]) const {
    const int64_t at = row * args.plan.n + col;
    float x[4];
    load_four(static_cast<const E*>(args.x) + at, valid, args.whole_result, x);
    VDK_UNROLL
    for (int i = 0; i < 4; ++i) mean[i] += 2 * x[i] * variance[i];
    store_four(static_cast<E*>(args.result) + at, valid, args.whole_result, mean);
  }
};

template <class P>
struct WeightEpilogue {
  using E = typename P::E;
  const ProductArgs& args;
  int64_t col;
  int valid;
  float kl_scale;
  float row_log[4] = {};  // where all rows have the same

  VDK_DEVICE WeightEpilogue(const ProductArgs& a, int64_t col, int valid)
      : args(a),
        col(col),
        valid(valid),
        kl_scale(a.prior == Prior::kNone ? 0.0f : load_global<float>(a.kl_scale)) {
    if (!sums() || args.w.log_rows != 1) return;
    VDK_UNROLL
    for (int i = 0; i < 4; ++i)
      if (i < valid) row_log[i] = log_at<E>(args.w, 0, col + i);
  }

  VDK_DEVICE bool sums() const { return !P::kImages && args.log_sums; }

  VDK_DEVICE void operator()(int64_t row, float (&mean)[4], float (&variance)[4]) const {
    const LrtWeights& w = args.w;
    if constexpr (P::kImages) row += blockIdx.z * args.plan.m;
    const int64_t at = row * args.plan.n + col;
    float mu[4], log[4];
    load_four(static_cast<const E*>(w.mu) + at, valid, args.whole_result, mu);
    if (sums()) {
      const float column_log = w.log_rows == 1 ? 0.0f : log_at<E>(w, row, 0);
      VDK_UNROLL
      for (int i = 0; i < 4; ++i) log[i] = w.log_rows == 1 ? row_log[i] : column_log;
    } else if (w.log_is_float) {
      load_four(static_cast<const float*>(w.log) + at, valid, args.whole_result, log);
    } else {
      load_four(static_cast<const E*>(w.log) + at, valid, args.whole_result, log);
    }
    VDK_UNROLL
    for (int i = 0; i < 4; ++i) {
      const float e = exp_f32(log[i]);
      if (is_clipped(w, mu[i], e)) mean[i] = 0;
      if (w.is_alpha) mean[i] += 2 * variance[i] * e * mu[i];
      variance[i] *= w.is_alpha ? e * mu[i] * mu[i] : e;
      if (args.prior != Prior::kNone) {
        const float slope = kl_scale * kl_of(args, mu[i], log[i]).slope;
        variance[i] += slope;
        if (!w.is_alpha) mean[i] += kl_by_mu(args.prior, args.normal, mu[i], slope, kl_scale);
      }
    }
    store_four(static_cast<E*>(args.result) + at, valid, args.whole_result, mean);
    if (sums()) return;
    if (w.log_is_float)
      store_four(static_cast<float*>(args.log_result) + at, valid, args.whole_result, variance);
    else
      store_four(static_cast<E*>(args.log_result) + at, valid, args.whole_result, variance);
  }
};
template <class Math, int kBlockM>
struct Epilogue<Product<Math, Pass::kWeights, kBlockM>> : WeightEpilogue<Product<Math, Pass::kWeights, kBlockM>> {
  using WeightEpilogue<Product<Math, Pass::kWeights, kBlockM>>::WeightEpilogue;
};

}  // namespace cuda
}  // namespace vdk
