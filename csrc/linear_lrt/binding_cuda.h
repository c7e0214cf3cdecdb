// What the bindings of products on a GPU share.
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
inline bool is_half(ScalarType type) { return type == ScalarType::BFloat16 || type == ScalarType::Half; }

// What two operands are read as: their type, or float. The half types' kernels need tensor cores of sm_80.
inline ScalarType product_type(const Tensor& x, const Tensor& w, const Gpu& gpu) {
  const bool half = x.scalar_type() == w.scalar_type() && is_half(x.scalar_type());
  return half && gpu.capability() >= 80 ? x.scalar_type() : ScalarType::Float;
}

}  // namespace vdk
