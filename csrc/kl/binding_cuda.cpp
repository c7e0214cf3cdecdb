#include "binding_cuda.h"

#include "cuda.h"

namespace vdk {
namespace {

// Value, and gradients where dlog is given. mu, log and gradients are dense, of one type; grad is of the type
// computed in.
template <class E>
Tensor kl_of(const Gpu& gpu, const OptionalTensor& mu, const Tensor& log, Prior prior,
             const OptionalTensor& grad, const OptionalTensor& dmu, const OptionalTensor& dlog) {
  using T = ComputeOf<E>;
  const Tensor value = gpu.empty({}, compute_type(log));
  const Tensor workspace = gpu.workspace(size_t(cuda::kl_workspace(log.numel())) * sizeof(T));
  cuda::kl(cuda::KlArgs<E>{pointer<E>(mu), pointer<E>(log), log.numel(), prior, pointer<T>(grad),
                           dmu ? output<E>(*dmu) : nullptr, dlog ? output<E>(*dlog) : nullptr,
                           output<T>(value), output<T>(workspace)},
           gpu.stream());
  return value;
}

// Parameters of one type are read as they lie; of two they are cast to the type computed in.
struct Parameters {
  ScalarType type;
  OptionalTensor mu;
  Tensor log;

  Parameters(const OptionalTensor& mu, const OptionalTensor& log_sigma2, const OptionalTensor& log_alpha)
      : Parameters(log_alpha ? std::nullopt : mu, log_alpha ? *log_alpha : *log_sigma2) {}

  template <class... Rest>
  Tensor kl(const Gpu& gpu, const std::string& prior, const Rest&... rest) const {
    switch (type) {
      case ScalarType::Float:
        return kl_of<float>(gpu, mu, log, prior_of(prior), rest...);
      case ScalarType::Double:
        return kl_of<double>(gpu, mu, log, prior_of(prior), rest...);
      case ScalarType::Half:
        return kl_of<Float16>(gpu, mu, log, prior_of(prior), rest...);
      default:
        STD_TORCH_CHECK(type == ScalarType::BFloat16, "kl: no kernel for this dtype");
        return kl_of<BFloat16>(gpu, mu, log, prior_of(prior), rest...);
    }
  }

 private:
  Parameters(const OptionalTensor& of_mu, const Tensor& of_log)
      : type(of_mu && of_mu->scalar_type() != of_log.scalar_type() ? compute_type(of_mu, of_log)
                                                                   : of_log.scalar_type()),
        mu(prepared(of_mu, type)),
        log(prepared(of_log, type)) {}
};

const Tensor& given(const OptionalTensor& mu, const OptionalTensor& log_sigma2,
                    const OptionalTensor& log_alpha) {
  STD_TORCH_CHECK(log_alpha.has_value() != (mu.has_value() && log_sigma2.has_value()),
                  "kl: give mu and log_sigma2, or log_alpha alone");
  return log_alpha ? *log_alpha : *log_sigma2;
}

Tensor kl_value(const OptionalTensor& mu, const OptionalTensor& log_sigma2, const OptionalTensor& log_alpha,
                const std::string& prior) {
  return kl_on_gpu(Gpu(given(mu, log_sigma2, log_alpha)), mu, log_sigma2, log_alpha, prior);
}

std::tuple<Tensor, Tensor, Tensor> kl_grad(const Tensor& grad, const OptionalTensor& mu,
                                           const OptionalTensor& log_sigma2, const OptionalTensor& log_alpha,
                                           const std::string& prior) {
  const Tensor& noise = given(mu, log_sigma2, log_alpha);
  const Gpu gpu(noise);
  const Parameters p(mu, log_sigma2, log_alpha);
  STD_TORCH_CHECK(grad.is_cuda(), "kl_grad: grad must be on the GPU");
  const Tensor scale = prepared(grad, compute_type(p.log));
  const Tensor dmu = p.mu ? gpu.empty_like(*p.mu, p.type) : gpu.empty({0}, p.type);
  const Tensor dlog = gpu.empty_like(p.log, p.type);
  const Tensor value = p.kl(gpu, prior, OptionalTensor(scale), p.mu ? OptionalTensor(dmu) : std::nullopt,
                            OptionalTensor(dlog));
  return {value, returned(dmu, (p.mu ? *mu : noise).scalar_type()), returned(dlog, noise.scalar_type())};
}

}  // namespace

Tensor kl_on_gpu(const Gpu& gpu, const OptionalTensor& mu, const OptionalTensor& log_sigma2,
                 const OptionalTensor& log_alpha, const std::string& prior) {
  const Parameters p(mu, log_sigma2, log_alpha);
  return p.kl(gpu, prior, OptionalTensor(), OptionalTensor(), OptionalTensor());
}

STABLE_TORCH_LIBRARY_IMPL(vdropkern, CUDA, m) {
  m.impl("kl", TORCH_BOX(&kl_value));
  m.impl("kl_grad", TORCH_BOX(&kl_grad));
}

}  // namespace vdk
