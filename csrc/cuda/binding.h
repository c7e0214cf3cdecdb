// What the bindings of CUDA kernels share. They see torch's stable ABI and the launchers, nothing of CUDA.
#pragma once
#include <torch/csrc/stable/accelerator.h>

#include "../common/binding.h"
#include "device.h"
#include "types.h"

// CPU-only builds of torch have no such function; weak, it is null there, and the library still loads.
extern "C" __attribute__((weak, visibility("default"))) AOTITorchError
aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream);

namespace vdk {

using OptionalTensor = std::optional<Tensor>;

// The GPU of a tensor made the current one, as long as this lives, with the stream torch uses on it.
class Gpu {
 public:
  explicit Gpu(const Tensor& like) : device_(like.device()), guard_(device_.index()) {
    STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream != nullptr, "vdropkern: this torch has no CUDA");
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_.index(), &stream_));
  }

  void* stream() const { return stream_; }
  int multiprocessors() const { return cuda::multiprocessors(device_.index()); }
  int capability() const { return cuda::capability(device_.index()); }

  Tensor empty(const std::vector<int64_t>& sizes, ScalarType type) const {
    return torch::stable::empty({sizes.data(), sizes.size()}, type, std::nullopt, device_);
  }
  Tensor empty_like(const Tensor& t, ScalarType type) const {
    const auto sizes = t.sizes();
    return empty(std::vector<int64_t>(sizes.begin(), sizes.end()), type);
  }
  // Memory a kernel needs for itself: from torch's caching allocator, so CUDA graphs may capture it.
  Tensor workspace(size_t bytes) const { return empty({int64_t(bytes)}, ScalarType::Byte); }

 private:
  torch::stable::Device device_;
  torch::stable::accelerator::DeviceGuard guard_;
  void* stream_ = nullptr;
};

template <class... Tensors>
void require_on_gpu(const char* op, const Tensors&... tensors) {
  const auto elsewhere = [](const OptionalTensor& t) { return t && !t->is_cuda(); };
  STD_TORCH_CHECK(!(elsewhere(tensors) || ...), op, ": every tensor must be on the GPU");
}

// For what is read 16 bytes at a time, which a view into other memory need not allow.
inline Tensor aligned16(const Tensor& t) {
  return reinterpret_cast<uintptr_t>(t.const_data_ptr()) % 16 ? torch::stable::clone(t) : t;
}

// Where a kernel finds the seed: on the device, so that nobody waits for it.
inline const int64_t* seed_on_gpu(const Tensor& seed) {
  STD_TORCH_CHECK(seed.scalar_type() == ScalarType::Long && seed.numel() == 1, "seed must be one int64");
  STD_TORCH_CHECK(seed.is_cuda(), "seed must be on the GPU");
  return pointer<int64_t>(seed);
}

}  // namespace vdk
