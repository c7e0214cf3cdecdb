#include "../cuda/binding.h"
#include "checks.h"
#include "cuda.h"

namespace vdk {
namespace {

// What forward and backward share. x and its gradients are moved as they lie, parameters are few and cast to
// the type computed in; where one of them is double, x is too.
struct Gates {
  GateLayout layout;
  ScalarType type;  // of x as it is read
  Gpu gpu;
  Tensor location;
  OptionalTensor log_sigma2;

  Gates(const Tensor& x, const Tensor& a, const OptionalTensor& b, int64_t channel_dim)
      : layout(x, a, b, channel_dim),
        type(layout.type == ScalarType::Double ? layout.type : x.scalar_type()),
        gpu(x),
        location(prepared(a, layout.type)),
        log_sigma2(prepared(b, layout.type)) {}

  template <class E>
  cuda::GateArgs<E> args(const Tensor& seed, const std::string& kind, bool per_sample, double temperature,
                         double low, double high) const {
    using C = ComputeOf<E>;
    cuda::GateArgs<E> made{layout.shape,
                           gate_kind(kind),
                           pointer<C>(location),
                           pointer<C>(log_sigma2),
                           seed_on_gpu(seed),
                           per_sample,
                           temperature,
                           low,
                           high};
    return made;
  }
};

Tensor gate(const Tensor& x, const Tensor& location, const OptionalTensor& log_sigma2, const Tensor& seed,
            const std::string& kind, int64_t channel_dim, bool per_sample, double temperature, double low,
            double high) {
  require_on_gpu("gate", x, location, log_sigma2);
  const Gates gates(x, location, log_sigma2, channel_dim);
  const Tensor read = gates.layout.read(x, gates.type), y = gates.layout.empty_like(x, gates.type);
  with_elements(gates.type, [&](auto zero) {
    using E = decltype(zero);
    auto args = gates.args<E>(seed, kind, per_sample, temperature, low, high);
    args.given = pointer<E>(read);
    args.out = output<E>(y);
    cuda::gate(args, gates.gpu.stream());
  });
  return returned(y, x.scalar_type());
}

std::tuple<Tensor, Tensor, Tensor> gate_backward(const Tensor& grad, const Tensor& x, const Tensor& location,
                                                 const OptionalTensor& log_sigma2, const Tensor& seed,
                                                 const std::string& kind, int64_t channel_dim,
                                                 bool per_sample, double temperature, double low, double high,
                                                 bool needs_x, bool needs_parameters) {
  require_on_gpu("gate_backward", grad, x, location, log_sigma2);
  const Gates gates(x, location, log_sigma2, channel_dim);
  const ScalarType type = gates.type, computed = gates.layout.type;
  const Gpu& gpu = gates.gpu;
  const bool needs_log = needs_parameters && log_sigma2.has_value();
  const Tensor dx = needs_x ? gates.layout.empty_like(x, type) : gpu.empty({0}, type);
  const Tensor d_location = needs_parameters ? gpu.empty_like(location, computed) : gpu.empty({0}, computed);
  const Tensor d_log = needs_log ? gpu.empty_like(*log_sigma2, computed) : gpu.empty({0}, computed);
  if (x.numel() == 0) {
    for (const Tensor& sums : {d_location, d_log}) torch::stable::zero_(const_cast<Tensor&>(sums));
  } else if (needs_x || needs_parameters) {
    const Tensor dy = gates.layout.read(grad, type), read = gates.layout.read(x, type);
    const int64_t needed = needs_parameters ? cuda::gate_workspace(gates.layout.shape, gate_kind(kind)) : 0;
    const Tensor workspace = gpu.empty({needed}, computed);
    with_elements(type, [&](auto zero) {
      using E = decltype(zero);
      using C = ComputeOf<E>;
      auto args = gates.args<E>(seed, kind, per_sample, temperature, low, high);
      args.given = pointer<E>(dy);
      args.out = needs_x ? output<E>(dx) : nullptr;
      if (needs_parameters) {
        args.x = pointer<E>(read);
        args.d_location = output<C>(d_location);
        args.d_log_sigma2 = needs_log ? output<C>(d_log) : nullptr;
        args.workspace = output<C>(workspace);
      }
      cuda::gate(args, gpu.stream());
    });
  }
  return {returned(dx, x.scalar_type()), returned(d_location, location.scalar_type()),
          returned(d_log, (needs_log ? *log_sigma2 : location).scalar_type())};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(vdropkern, CUDA, m) {
  m.impl("gate", TORCH_BOX(&gate));
  m.impl("gate_backward", TORCH_BOX(&gate_backward));
}

}  // namespace vdk
