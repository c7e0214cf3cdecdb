// How the bindings of products on a GPU pick their arithmetic.
#pragma once
#include "../cuda/binding.h"
#include "cuda.h"

namespace vdk {

inline cuda::Number number_of(ScalarType type) {
  if (type == ScalarType::BFloat16) return cuda::Number::kBFloat16;
  return type == ScalarType::Half ? cuda::Number::kHalf : cuda::Number::kFloat;
}
inline bool is_half(ScalarType type) { return type == ScalarType::BFloat16 || type == ScalarType::Half; }

// Of x and mu where both are of one half type and the GPU has tensor cores for it, those of sm_80; else
// float.
inline ScalarType multiplied_type(const Gpu& gpu, const Tensor& x, const Tensor& mu) {
  const bool half = x.scalar_type() == mu.scalar_type() && is_half(x.scalar_type());
  return half && gpu.capability() >= 80 ? x.scalar_type() : ScalarType::Float;
}

// How float32 products are to run on this GPU.
cuda::Precision precision_on(const Gpu& gpu);

}  // namespace vdk
