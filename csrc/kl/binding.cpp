#include "../common/binding.h"
#include "kl.h"

namespace vdk {
namespace {

using OptionalTensor = std::optional<Tensor>;

template <class T>
using Kernel = double (*)(const KlArgs<T>&, const Parallel&);

struct Parameters {
  ScalarType type;
  OptionalTensor mu;
  Tensor log;
};

Parameters parameters(const OptionalTensor& mu, const OptionalTensor& log_sigma2,
                      const OptionalTensor& log_alpha) {
  STD_TORCH_CHECK(log_alpha.has_value() != (mu.has_value() && log_sigma2.has_value()),
                  "kl: give mu and log_sigma2, or log_alpha alone");
  const ScalarType type = compute_type(mu, log_sigma2, log_alpha);
  return {type, log_alpha ? std::nullopt : prepared(mu, type),
          prepared(log_alpha ? *log_alpha : *log_sigma2, type)};
}

Tensor kl_value(const OptionalTensor& mu, const OptionalTensor& log_sigma2, const OptionalTensor& log_alpha,
                const std::string& prior) {
  const Parameters p = parameters(mu, log_sigma2, log_alpha);
  return with_compute_type(p.type, [&](auto zero) {
    using T = decltype(zero);
    const KlArgs<T> args{pointer<T>(p.mu), pointer<T>(p.log), p.log.numel(), prior_of(prior), T(0), nullptr,
                         nullptr};
    return scalar<T>(VDK_SELECT_AS(Kernel<T>, kl)(args, torch_parallel()), p.type);
  });
}

std::tuple<Tensor, Tensor, Tensor> kl_grad(const Tensor& grad, const OptionalTensor& mu,
                                           const OptionalTensor& log_sigma2, const OptionalTensor& log_alpha,
                                           const std::string& prior) {
  const Parameters p = parameters(mu, log_sigma2, log_alpha);
  const Tensor scale = prepared(grad, p.type);
  const Tensor dmu = p.mu ? empty_like(*p.mu, p.type) : empty({0}, p.type), dlog = empty_like(p.log, p.type);
  const Tensor value = with_compute_type(p.type, [&](auto zero) {
    using T = decltype(zero);
    const KlArgs<T> args{pointer<T>(p.mu), pointer<T>(p.log),  p.log.numel(),
                         prior_of(prior),  *pointer<T>(scale), p.mu ? output<T>(dmu) : nullptr,
                         output<T>(dlog)};
    return scalar<T>(VDK_SELECT_AS(Kernel<T>, kl)(args, torch_parallel()), p.type);
  });
  const Tensor& given = log_alpha ? *log_alpha : *log_sigma2;
  return {value, returned(dmu, (p.mu ? *mu : given).scalar_type()), returned(dlog, given.scalar_type())};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(vdropkern, CPU, m) {
  m.impl("kl", TORCH_BOX(&kl_value));
  m.impl("kl_grad", TORCH_BOX(&kl_grad));
}

}  // namespace vdk
