#include "../common/binding.h"
#include "gate.h"

namespace vdk {
namespace {

using OptionalTensor = std::optional<Tensor>;
using torch::headeronly::MemoryFormat;

template <class T>
using Forward = void (*)(const GateForward<T>&, const Parallel&);
template <class T>
using Backward = void (*)(const GateBackward<T>&, const Parallel&);

GateKind kind_of(const std::string& name) {
  if (name == "normal") return GateKind::kNormal;
  if (name == "log-normal") return GateKind::kLogNormal;
  if (name == "hard-concrete") return GateKind::kHardConcrete;
  if (name == "concrete") return GateKind::kConcrete;
  STD_TORCH_CHECK(name == "switch", "gate: unknown kind ", name);
  return GateKind::kSwitch;
}

// Whether channels are the fastest dimension in x's memory, by torch's own rule.
bool channels_last(const Tensor& x, int64_t channel_dim) {
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
struct Layout {
  GateShape shape;
  MemoryFormat format;
  ScalarType type;  // computed in

  Layout(const Tensor& x, const Tensor& location, const OptionalTensor& log_sigma2, int64_t channel_dim)
      : shape{1, 1, 1, false},
        format(MemoryFormat::Contiguous),
        type(compute_type(OptionalTensor(x), OptionalTensor(location), log_sigma2)) {
    const auto sizes = x.sizes();
    const int64_t dims = x.dim(), channel = channel_dim < 0 ? channel_dim + dims : channel_dim;
    STD_TORCH_CHECK(0 <= channel && channel < dims, "gate: channel_dim must be a dimension of x");
    for (int64_t d = 0; d < dims; ++d)
      (d < channel ? shape.rows : d == channel ? shape.channels : shape.spatial) *= sizes[d];
    shape.channels_last = channels_last(x, channel);
    if (shape.channels_last) format = dims == 4 ? MemoryFormat::ChannelsLast : MemoryFormat::ChannelsLast3d;
    STD_TORCH_CHECK(location.numel() == shape.channels, "gate: location must have a value a channel");
  }

  Tensor read(const Tensor& t) const {
    const Tensor cast = t.scalar_type() == type ? t : torch::stable::to(t, type);
    return torch::stable::contiguous(cast, format);
  }
  Tensor empty_like(const Tensor& x) const {
    return torch::stable::empty(x.sizes(), type, std::nullopt, std::nullopt, std::nullopt, format);
  }
};

template <class T>
GateDistribution<T> distribution(const std::string& kind, const Tensor& location,
                                 const OptionalTensor& log_sigma2, const Tensor& seed, bool per_sample,
                                 double temperature, double low, double high) {
  return {kind_of(kind),
          pointer<T>(location),
          pointer<T>(log_sigma2),
          seed_of(seed),
          per_sample,
          temperature,
          low,
          high};
}

Tensor gate(const Tensor& x, const Tensor& location, const OptionalTensor& log_sigma2, const Tensor& seed,
            const std::string& kind, int64_t channel_dim, bool per_sample, double temperature, double low,
            double high) {
  const Layout layout(x, location, log_sigma2, channel_dim);
  const Tensor read = layout.read(x), y = layout.empty_like(x), a = prepared(location, layout.type);
  const OptionalTensor b = prepared(log_sigma2, layout.type);
  with_compute_type(layout.type, [&](auto zero) {
    using T = decltype(zero);
    const GateForward<T> args{layout.shape,
                              distribution<T>(kind, a, b, seed, per_sample, temperature, low, high),
                              pointer<T>(read), output<T>(y)};
    VDK_SELECT_AS(Forward<T>, gate)(args, torch_parallel());
  });
  return returned(y, x.scalar_type());
}

std::tuple<Tensor, Tensor, Tensor> gate_backward(const Tensor& grad, const Tensor& x, const Tensor& location,
                                                 const OptionalTensor& log_sigma2, const Tensor& seed,
                                                 const std::string& kind, int64_t channel_dim,
                                                 bool per_sample, double temperature, double low, double high,
                                                 bool needs_x, bool needs_parameters) {
  const Layout layout(x, location, log_sigma2, channel_dim);
  const ScalarType type = layout.type;
  const Tensor dy = layout.read(grad), read = layout.read(x), a = prepared(location, type);
  const OptionalTensor b = prepared(log_sigma2, type);
  const Tensor dx = needs_x ? layout.empty_like(x) : empty({0}, type);
  const Tensor d_location = needs_parameters ? vdk::empty_like(a, type) : empty({0}, type);
  const bool needs_log = needs_parameters && b.has_value();
  const Tensor d_log = needs_log ? vdk::empty_like(*b, type) : empty({0}, type);
  with_compute_type(type, [&](auto zero) {
    using T = decltype(zero);
    const GateBackward<T> args{layout.shape,
                               distribution<T>(kind, a, b, seed, per_sample, temperature, low, high),
                               pointer<T>(dy),
                               pointer<T>(read),
                               needs_x ? output<T>(dx) : nullptr,
                               needs_parameters ? output<T>(d_location) : nullptr,
                               needs_log ? output<T>(d_log) : nullptr};
    VDK_SELECT_AS(Backward<T>, gate_backward)(args, torch_parallel());
  });
  return {returned(dx, x.scalar_type()), returned(d_location, location.scalar_type()),
          returned(d_log, (needs_log ? *log_sigma2 : location).scalar_type())};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(vdropkern, CPU, m) {
  m.impl("gate", TORCH_BOX(&gate));
  m.impl("gate_backward", TORCH_BOX(&gate_backward));
}

}  // namespace vdk
