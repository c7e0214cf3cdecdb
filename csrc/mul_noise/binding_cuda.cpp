#include "../cuda/binding.h"
#include "cuda.h"

namespace vdk {
namespace {

Tensor mul_noise(const Tensor& x, const Tensor& seed, const std::string& noise, double strength) {
  const Gpu gpu(x);
  const Tensor dense = prepared(x, x.scalar_type()), y = gpu.empty_like(dense, x.scalar_type());
  const auto sizes = x.sizes();
  const int64_t cols = sizes.size() == 0 ? 1 : sizes[sizes.size() - 1], rows = cols ? x.numel() / cols : 0;
  const auto multiply = [&](auto* to) {  // whose type may be declared here, not defined
    using T = std::remove_pointer_t<decltype(to)>;
    cuda::mul_noise(cuda::MulNoiseArgs<T>{pointer<T>(dense), to, rows, cols, noise_named(noise), strength,
                                          seed_on_gpu(seed)},
                    gpu.stream());
  };
  switch (x.scalar_type()) {
    case ScalarType::Float:
      multiply(output<float>(y));
      break;
    case ScalarType::Double:
      multiply(output<double>(y));
      break;
    case ScalarType::Half:
      multiply(output<Float16>(y));
      break;
    default:
      STD_TORCH_CHECK(x.scalar_type() == ScalarType::BFloat16, "mul_noise: no kernel for this dtype");
      multiply(output<BFloat16>(y));
  }
  return channels_last(x) ? torch::stable::contiguous(y, MemoryFormat::ChannelsLast) : y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(vdropkern, CUDA, m) { m.impl("mul_noise", TORCH_BOX(&mul_noise)); }

}  // namespace vdk
