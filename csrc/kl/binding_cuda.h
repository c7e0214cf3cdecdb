#pragma once
#include "../cuda/binding.h"

namespace vdk {

// The KL of weights on a GPU, for ops that do not sum it on their way.
Tensor kl_on_gpu(const Gpu& gpu, const OptionalTensor& mu, const OptionalTensor& log_sigma2,
                 const OptionalTensor& log_alpha, const std::string& prior);

}  // namespace vdk
