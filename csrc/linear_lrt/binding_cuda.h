// What the bindings of products on tensor cores share.
#pragma once
#include "../cuda/binding.h"
#include "cuda.h"

namespace vdk {

// In what arithmetic float32 products run: as chosen, where the GPU has the tensor cores for it.
cuda::Precision precision_on(const Gpu& gpu);

inline cuda::Number number_of(ScalarType type) {
  if (type == ScalarType::BFloat16) return cuda::Number::kBFloat16;
  return type == ScalarType::Half ? cuda::Number::kHalf : cuda::Number::kFloat;
}

// What two operands are read as: their type, or float. The half types' kernels need tensor cores of sm_80.
inline ScalarType product_type(const Tensor& x, const Tensor& w, const Gpu& gpu) {
  const ScalarType type = x.scalar_type();
  const bool half = type == ScalarType::BFloat16 || type == ScalarType::Half;
  return half && type == w.scalar_type() && gpu.capability() >= 80 ? type : ScalarType::Float;
}

}  // namespace vdk
