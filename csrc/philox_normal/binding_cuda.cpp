#include "../cuda/binding.h"
#include "cuda.h"

namespace vdk {
namespace {

Tensor bits(const Tensor& seed, int64_t rows, int64_t cols) {
  const Gpu gpu(seed);
  const Tensor out = gpu.empty({rows, cols}, ScalarType::Long);
  cuda::philox_bits(output<int64_t>(out), rows, cols, seed_on_gpu(seed), gpu.stream());
  return out;
}

Tensor normal(const Tensor& seed, int64_t rows, int64_t cols, ScalarType dtype) {
  const Gpu gpu(seed);
  const Tensor out = gpu.empty({rows, cols}, dtype);
  const auto fill = [&](auto* to) { cuda::philox_normal(to, rows, cols, seed_on_gpu(seed), gpu.stream()); };
  if (dtype == ScalarType::Double)
    fill(output<double>(out));
  else if (dtype == ScalarType::Half)
    fill(output<Float16>(out));
  else if (dtype == ScalarType::BFloat16)
    fill(output<BFloat16>(out));
  else {
    STD_TORCH_CHECK(dtype == ScalarType::Float, "philox_normal: no kernel for this dtype");
    fill(output<float>(out));
  }
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(vdropkern, CUDA, m) {
  m.impl("philox_bits", TORCH_BOX(&bits));
  m.impl("philox_normal", TORCH_BOX(&normal));
}

}  // namespace vdk
