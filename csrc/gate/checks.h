// How the bindings of gates read their arguments, on any device.
#pragma once
#include "../common/binding.h"
#include "kinds.h"

namespace vdk {

inline GateKind gate_kind(const std::string& name) {
  if (name == "normal") return GateKind::kNormal;
  if (name == "log-normal") return GateKind::kLogNormal;
  if (name == "hard-concrete") return GateKind::kHardConcrete;
  if (name == "concrete") return GateKind::kConcrete;
  STD_TORCH_CHECK(name == "switch", "gate: unknown kind ", name);
  return GateKind::kSwitch;
}

// Whether channels are the fastest dimension in x's memory, by torch's own rule.
inline bool gate_channels_last(const Tensor& x, int64_t channel_dim) {
  const int64_t dims = x.dim();
  if ((dims != 4 && dims != 5) || channel_dim != 1 || x.is_contiguous()) return false;
  const auto sizes = x.sizes(), strides = x.strides();
  int64_t expected = 1;
  for (int64_t i = 0; i < dims; ++i) {  // the channels, then the last dimension down to the third, the batch
    const int64_t d = i == 0 ? 1 : i == dims - 1 ? 0 : dims - i;
    if (sizes[d] == 1) continue;
    if (strides[d] != expected) return false;
    expected *= sizes[d];
  }
  return true;
}

// How x is read and its result laid out.
struct GateLayout {
  GateShape shape;
  MemoryFormat format;
  ScalarType type;  // computed in

  GateLayout(const Tensor& x, const Tensor& location, const std::optional<Tensor>& log_sigma2,
             int64_t channel_dim)
      : shape{1, 1, 1, false},
        format(MemoryFormat::Contiguous),
        type(compute_type(std::optional<Tensor>(x), std::optional<Tensor>(location), log_sigma2)) {
    const auto sizes = x.sizes();
    const int64_t dims = x.dim(), channel = channel_dim < 0 ? channel_dim + dims : channel_dim;
    STD_TORCH_CHECK(0 <= channel && channel < dims, "gate: channel_dim must be a dimension of x");
    for (int64_t d = 0; d < dims; ++d)
      (d < channel ? shape.rows : d == channel ? shape.channels : shape.spatial) *= sizes[d];
    shape.channels_last = gate_channels_last(x, channel);
    if (shape.channels_last) format = dims == 4 ? MemoryFormat::ChannelsLast : MemoryFormat::ChannelsLast3d;
    STD_TORCH_CHECK(location.numel() == shape.channels, "gate: location must have a value a channel");
  }

  Tensor read(const Tensor& t, ScalarType as) const {
    const Tensor cast = t.scalar_type() == as ? t : torch::stable::to(t, as);
    return torch::stable::contiguous(cast, format);
  }
  Tensor empty_like(const Tensor& x, ScalarType as) const {
    return torch::stable::empty(x.sizes(), as, std::nullopt, x.device(), std::nullopt, format);
  }
};

}  // namespace vdk
