// Weights with Gaussian noise on a GPU, and the gradient of the noise's parameter, which draws it again.
#pragma once
#include <cstdint>

#include "../cuda/types.h"

namespace vdk {
namespace cuda {

// sigma = exp(log / 2), or |mu| exp(log / 2) where log is log_alpha. All pointers are device memory of any
// alignment.
template <class E>
struct WeightNoiseArgs {
  const E* mu;    // [rows, cols]; a gradient needs it only with log_alpha
  const E* log;   // [log_rows, log_cols], each 1 or that of mu; log_sigma2 is of mu's shape
  const E* grad;  // [rows, cols]: gradients are wanted, or null: weights
  E* out;         // [rows, cols]: the weights; with grad dmu, of log_alpha alone
  int64_t rows, cols, log_rows, log_cols;
  bool is_alpha;
  const int64_t* seed;      // [1]
  E* dlog;                  // with grad: [rows, cols], or null where weights share a parameter
  ComputeOf<E>* dlog_sums;  // with grad: [log_rows, log_cols] where they do
  ComputeOf<E>* workspace;  // [weight_noise_workspace]
};

// Elements for sums of parts, where weights share a parameter.
int64_t weight_noise_workspace(int64_t rows, int64_t cols, int64_t log_rows, int64_t log_cols);

void weight_noise(const WeightNoiseArgs<float>& args, void* stream);
void weight_noise(const WeightNoiseArgs<double>& args, void* stream);
void weight_noise(const WeightNoiseArgs<Float16>& args, void* stream);
void weight_noise(const WeightNoiseArgs<BFloat16>& args, void* stream);

}  // namespace cuda
}  // namespace vdk
