// Weights with Gaussian noise, and the gradient of the noise's parameter, which draws it again.
#pragma once
#include "../common/isa.h"
#include "../common/parallel.h"

namespace vdk {

// sigma = exp(log / 2), or |mu| exp(log / 2) where log is log_alpha: one number a weight, row, column or for
// all.
template <class T>
struct WeightNoiseArgs {
  const T* mu;   // [rows, cols]; the gradient needs it only with log_alpha
  const T* log;  // [log_rows, log_cols], each 1 or that of mu
  int64_t rows, cols, log_rows, log_cols;
  bool is_alpha;
  uint64_t seed;
};

template <class T>
struct WeightNoiseGradient {
  WeightNoiseArgs<T> of;
  const T* grad;  // [rows, cols]
  T* dmu;         // [rows, cols], or null: that of log_sigma2 is grad itself
  T* dlog;        // [log_rows, log_cols]
};

VDK_DECLARE_KERNEL(void weight_noise(const WeightNoiseArgs<float>& args, float* out,
                                     const Parallel& parallel);
                   void weight_noise(const WeightNoiseArgs<double>& args, double* out,
                                     const Parallel& parallel);
                   void weight_noise_grad(const WeightNoiseGradient<float>& args, const Parallel& parallel);
                   void weight_noise_grad(const WeightNoiseGradient<double>& args, const Parallel& parallel);)
}  // namespace vdk
