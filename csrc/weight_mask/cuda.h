// Weights without a random part of the smallest, on a GPU: thresholds by selection, masks drawn, never
// stored.
#pragma once
#include <cstdint>

#include "../cuda/types.h"
#include "granularity.h"

namespace vdk {
namespace cuda {

// All pointers are device memory, tensors of any alignment.
template <class E>
struct WeightMaskArgs {
  using C = ComputeOf<E>;
  const E* w;  // [rows, cols]
  int64_t rows, cols;
  Granularity granularity;
  const double* gamma;  // [1]; null: thresholds are given
  const double* alpha;  // [1]
  const int64_t* seed;  // [1]
  C* threshold;         // [rows]: written with gamma, else read
  const E* given;       // [rows, cols]: what is masked: w itself, or with thresholds given a gradient
  E* out;               // [rows, cols]
  void* workspace;      // [weight_mask_workspace] bytes, aligned to 16
};

// Bytes, for elements of `size` bytes; where thresholds are given, constant.
int64_t weight_mask_workspace(int64_t rows, int64_t cols, Granularity granularity, int64_t size);
constexpr int64_t kMaskGradWorkspace = 16;

void weight_mask(const WeightMaskArgs<float>& args, void* stream);
void weight_mask(const WeightMaskArgs<double>& args, void* stream);
void weight_mask(const WeightMaskArgs<Float16>& args, void* stream);
void weight_mask(const WeightMaskArgs<BFloat16>& args, void* stream);

}  // namespace cuda
}  // namespace vdk
