#include "../cuda/binding.h"
#include "cuda.h"

namespace vdk {
namespace {

using OptionalTensor = std::optional<Tensor>;

// Value, and gradients where dlog is given. mu, log and grad are dense, of one compute type.
template <class T>
Tensor kl_on_gpu(const Gpu& gpu, const OptionalTensor& mu, const Tensor& log, Prior prior,
                 const OptionalTensor& grad, const OptionalTensor& dmu, const OptionalTensor& dlog) {
  const Tensor value = gpu.empty({}, log.scalar_type());
  const Tensor workspace = gpu.workspace(size_t(cuda::kl_workspace(log.numel())) * sizeof(T));
  cuda::kl(cuda::KlArgs<T>{pointer<T>(mu), pointer<T>(log), log.numel(), prior, pointer<T>(grad),
                           dmu ? output<T>(*dmu) : nullptr, dlog ? output<T>(*dlog) : nullptr,
                           output<T>(value), output<T>(workspace)},
           gpu.stream());
  return value;
}

struct Parameters {
  ScalarType type;
  OptionalTensor mu;
  Tensor log;

  Parameters(const OptionalTensor& mu, const OptionalTensor& log_sigma2, const OptionalTensor& log_alpha)
      : type(compute_type(mu, log_sigma2, log_alpha)),
        mu(log_alpha ? std::nullopt : prepared(mu, type)),
        log(prepared(log_alpha ? *log_alpha : *log_sigma2, type)) {}
};

const Tensor& given(const OptionalTensor& mu, const OptionalTensor& log_sigma2,
                    const OptionalTensor& log_alpha) {
  STD_TORCH_CHECK(log_alpha.has_value() != (mu.has_value() && log_sigma2.has_value()),
                  "kl: give mu and log_sigma2, or log_alpha alone");
  return log_alpha ? *log_alpha : *log_sigma2;
}

Tensor kl_value(const OptionalTensor& mu, const OptionalTensor& log_sigma2, const OptionalTensor& log_alpha,
                const std::string& prior) {
  const Gpu gpu(given(mu, log_sigma2, log_alpha));
  const Parameters p(mu, log_sigma2, log_alpha);
  return with_compute_type(p.type, [&](auto zero) {
    return kl_on_gpu<decltype(zero)>(gpu, p.mu, p.log, prior_of(prior), std::nullopt, std::nullopt,
                                     std::nullopt);
  });
}

std::tuple<Tensor, Tensor, Tensor> kl_grad(const Tensor& grad, const OptionalTensor& mu,
                                           const OptionalTensor& log_sigma2, const OptionalTensor& log_alpha,
                                           const std::string& prior) {
  const Tensor& noise = given(mu, log_sigma2, log_alpha);
  const Gpu gpu(noise);
  const Parameters p(mu, log_sigma2, log_alpha);
  STD_TORCH_CHECK(grad.is_cuda(), "kl_grad: grad must be on the GPU");
  const Tensor scale = prepared(grad, p.type);
  const Tensor dmu = p.mu ? gpu.empty_like(*p.mu, p.type) : gpu.empty({0}, p.type);
  const Tensor dlog = gpu.empty_like(p.log, p.type);
  const Tensor value = with_compute_type(p.type, [&](auto zero) {
    return kl_on_gpu<decltype(zero)>(gpu, p.mu, p.log, prior_of(prior), scale,
                                     p.mu ? OptionalTensor(dmu) : std::nullopt, dlog);
  });
  return {value, returned(dmu, (p.mu ? *mu : noise).scalar_type()), returned(dlog, noise.scalar_type())};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(vdropkern, CUDA, m) {
  m.impl("kl", TORCH_BOX(&kl_value));
  m.impl("kl_grad", TORCH_BOX(&kl_grad));
}

}  // namespace vdk
