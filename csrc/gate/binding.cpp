#include "checks.h"
#include "gate.h"

namespace vdk {
namespace {

using OptionalTensor = std::optional<Tensor>;

template <class T>
using Forward = void (*)(const GateForward<T>&, const Parallel&);
template <class T>
using Backward = void (*)(const GateBackward<T>&, const Parallel&);

template <class T>
GateDistribution<T> distribution(const std::string& kind, const Tensor& location,
                                 const OptionalTensor& log_sigma2, const Tensor& seed, bool per_sample,
                                 double temperature, double low, double high) {
  return {gate_kind(kind),
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
  const GateLayout layout(x, location, log_sigma2, channel_dim);
  const Tensor read = layout.read(x, layout.type), y = layout.empty_like(x, layout.type),
               a = prepared(location, layout.type);
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
  const GateLayout layout(x, location, log_sigma2, channel_dim);
  const ScalarType type = layout.type;
  const Tensor dy = layout.read(grad, type), read = layout.read(x, type), a = prepared(location, type);
  const OptionalTensor b = prepared(log_sigma2, type);
  const Tensor dx = needs_x ? layout.empty_like(x, type) : empty({0}, type);
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
