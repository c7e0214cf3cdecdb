// How the bindings of masks read their arguments, on any device.
#pragma once
#include "../common/binding.h"
#include "granularity.h"

namespace vdk {

inline Granularity granularity_of(const std::string& name) {
  if (name == "weight") return Granularity::kWeight;
  if (name == "unit") return Granularity::kUnit;
  STD_TORCH_CHECK(name == "unit-element", "weight_mask: unknown granularity ", name);
  return Granularity::kUnitElement;
}

inline void check_mask(const Tensor& w, const Tensor& gamma, const Tensor& alpha) {
  STD_TORCH_CHECK(w.dim() == 2 && gamma.numel() == 1 && alpha.numel() == 1,
                  "weight_mask: w must be [O, I], gamma and alpha scalars");
}
inline void check_mask_grad(const Tensor& grad, const Tensor& w, const Tensor& threshold) {
  STD_TORCH_CHECK(w.dim() == 2 && grad.numel() == w.numel() && threshold.numel() == w.size(0),
                  "weight_mask_grad: grad and w must be [O, I], threshold [O]");
}

}  // namespace vdk
