// What the bindings share: the only headers of torch the library sees are those of its stable ABI.
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/MemoryFormat.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cmath>
#include <cstdio>
#include <optional>
#include <string>
#include <vector>

#include "../kl/prior.h"
#include "../mul_noise/noise.h"
#include "half.h"
#include "parallel.h"

namespace vdk {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Kernels take their threads from torch.
inline Parallel torch_parallel() {
  return {int64_t(torch::stable::get_num_threads()),
          [](int64_t tasks, void (*task)(void*, int64_t), void* context) {
            torch::stable::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
              for (int64_t i = begin; i < end; ++i) task(context, i);
            });
          }};
}

inline bool is_double(const std::optional<Tensor>& t) { return t && t->scalar_type() == ScalarType::Double; }

// Kernels compute in float, or in double as soon as one input is double.
template <class... Tensors>
ScalarType compute_type(const Tensors&... tensors) {
  return (is_double(tensors) || ...) ? ScalarType::Double : ScalarType::Float;
}

// Dense row-major memory of the compute type; the same tensor where it already is that.
inline Tensor prepared(const Tensor& t, ScalarType type) {
  const Tensor cast = t.scalar_type() == type ? t : torch::stable::to(t, type);
  return cast.is_contiguous() ? cast : torch::stable::contiguous(cast);
}
inline std::optional<Tensor> prepared(const std::optional<Tensor>& t, ScalarType type) {
  if (!t) return std::nullopt;
  return prepared(*t, type);
}

template <class T>
const T* pointer(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}
template <class T>
const T* pointer(const std::optional<Tensor>& t) {
  return t ? pointer<T>(*t) : nullptr;
}
template <class T>
T* output(const Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

// On the CPU. Not by torch::stable::empty, which looks its op up by name: a microsecond, and small layers
// feel it.
inline Tensor empty(const std::vector<int64_t>& sizes, ScalarType type) {
  constexpr size_t kMostDims = 64;  // of torch
  STD_TORCH_CHECK(sizes.size() <= kMostDims, "a tensor has at most 64 dimensions");
  int64_t strides[kMostDims], step = 1;
  for (size_t i = sizes.size(); i-- > 0; step *= sizes[i] > 1 ? sizes[i] : 1) strides[i] = step;
  AtenTensorHandle made = nullptr;
  const auto dtype = torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(int64_t(sizes.size()), sizes.data(), strides, dtype,
                                                         aoti_torch_device_type_cpu(), 0, &made));
  return Tensor(made);
}
inline Tensor empty_like(const Tensor& t, ScalarType type) {
  const auto sizes = t.sizes();
  return empty(std::vector<int64_t>(sizes.begin(), sizes.end()), type);
}
// Results computed in `t`'s type go back to the type the caller holds.
inline Tensor returned(const Tensor& t, ScalarType type) {
  return t.scalar_type() == type ? t : torch::stable::to(t, type);
}
template <class T>
Tensor scalar(double value, ScalarType type) {
  const Tensor t = empty({}, type);
  *output<T>(t) = T(value);
  return t;
}

inline uint64_t seed_of(const Tensor& seed) {
  STD_TORCH_CHECK(seed.scalar_type() == ScalarType::Long && seed.numel() == 1, "seed must be one int64");
  return uint64_t(*pointer<int64_t>(seed));
}

inline Prior prior_of(const std::string& name) {
  if (name == "none") return Prior::kNone;
  if (name == "log-uniform") return Prior::kLogUniform;
  if (name == "log-uniform-kingma") return Prior::kKingma;
  if (name == "log-uniform-exact") return Prior::kExact;
  if (name == "ard") return Prior::kArd;
  if (name == "normal") return Prior::kNormal;
  double s = 0;
  char close = 0;
  const bool normal = std::sscanf(name.c_str(), "normal(%lf%c", &s, &close) == 2 && close == ')';
  STD_TORCH_CHECK(normal && s > 0, "unknown prior ", name);
  return Prior(Prior::kNormal, 1 / (s * s), -2 * std::log(s));
}

inline Noise noise_named(const std::string& name) {
  if (name == "bernoulli") return Noise::kBernoulli;
  STD_TORCH_CHECK(name == "gaussian", "unknown noise ", name);
  return Noise::kGaussian;
}

// Whether memory runs over images, height, width, channels, and could not be called row-major as well.
inline bool channels_last(const Tensor& t) {
  if (t.dim() != 4 || t.is_contiguous()) return false;
  const auto sizes = t.sizes(), strides = t.strides();
  int64_t expected = 1;
  for (const int d : {1, 3, 2, 0}) {
    if (sizes[d] != 1 && strides[d] != expected) return false;
    expected *= sizes[d];
  }
  return true;
}

// Calls f(T{}) with the C++ type of a compute type.
template <class F>
auto with_compute_type(ScalarType type, F&& f) {
  return type == ScalarType::Double ? f(double{}) : f(float{});
}

// Calls f(E{}) with the element type of x.
template <class F>
void with_elements(ScalarType type, F&& f) {
  switch (type) {
    case ScalarType::Float:
      return f(float{});
    case ScalarType::Double:
      return f(double{});
    case ScalarType::Half:
      return f(Float16{});
    default:
      STD_TORCH_CHECK(type == ScalarType::BFloat16, "no kernel for this dtype");
      return f(BFloat16{});
  }
}

// In x's own format, which is kept.
inline Tensor dense(const Tensor& t, bool last, ScalarType type) {
  const Tensor cast = t.scalar_type() == type ? t : torch::stable::to(t, type);
  return torch::stable::contiguous(cast, last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}
inline Tensor result_like(const Tensor& dense, bool last, ScalarType type) {
  const auto sizes = dense.sizes();
  return torch::stable::empty({sizes.data(), sizes.size()}, type, std::nullopt, std::nullopt, std::nullopt,
                              last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

}  // namespace vdk
