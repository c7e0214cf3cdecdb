// The KL on a GPU, for its own op and for those that have weights.
#pragma once
#include "../cuda/binding.h"
#include "cuda.h"

namespace vdk {

// Value, and gradients where dlog is given. mu, log and grad are dense, of one compute type.
template <class T>
Tensor kl_on_gpu(const Gpu& gpu, const std::optional<Tensor>& mu, const Tensor& log, Prior prior,
                 const std::optional<Tensor>& grad, const std::optional<Tensor>& dmu,
                 const std::optional<Tensor>& dlog) {
  const Tensor value = gpu.empty({}, log.scalar_type());
  const Tensor workspace = gpu.workspace(size_t(cuda::kl_workspace(log.numel())) * sizeof(T));
  cuda::kl(cuda::KlArgs<T>{pointer<T>(mu), pointer<T>(log), log.numel(), prior, pointer<T>(grad),
                           dmu ? output<T>(*dmu) : nullptr, dlog ? output<T>(*dlog) : nullptr,
                           output<T>(value), output<T>(workspace)},
           gpu.stream());
  return value;
}

}  // namespace vdk
