#include "../common/binding.h"
#include "weight_noise.h"

namespace vdk {
namespace {

using OptionalTensor = std::optional<Tensor>;

template <class T>
using Sample = void (*)(const WeightNoiseArgs<T>&, T*, const Parallel&);
template <class T>
using Gradient = void (*)(const WeightNoiseGradient<T>&, const Parallel&);

template <class T>
WeightNoiseArgs<T> args_of(const OptionalTensor& mu, const Tensor& like, const Tensor& log, bool is_alpha,
                           const Tensor& seed) {
  const int64_t rows = like.size(0), cols = like.size(1), log_rows = log.size(0), log_cols = log.size(1);
  STD_TORCH_CHECK((log_rows == 1 || log_rows == rows) && (log_cols == 1 || log_cols == cols),
                  "weight_noise: the noise's parameter must be [1 or O, 1 or I]");
  return {pointer<T>(mu), pointer<T>(log), rows, cols, log_rows, log_cols, is_alpha, seed_of(seed)};
}

const Tensor& given_log(const OptionalTensor& log_sigma2, const OptionalTensor& log_alpha) {
  STD_TORCH_CHECK(log_sigma2.has_value() != log_alpha.has_value(),
                  "weight_noise: give one of log_sigma2 and log_alpha");
  return log_alpha ? *log_alpha : *log_sigma2;
}

Tensor weight_noise(const Tensor& mu, const OptionalTensor& log_sigma2, const OptionalTensor& log_alpha,
                    const Tensor& seed) {
  const Tensor& given = given_log(log_sigma2, log_alpha);
  STD_TORCH_CHECK(mu.dim() == 2 && given.dim() == 2, "weight_noise: mu and its parameter must be matrices");
  const ScalarType type = compute_type(mu, given);
  const Tensor m = prepared(mu, type), log = prepared(given, type), out = empty_like(m, type);
  with_compute_type(type, [&](auto zero) {
    using T = decltype(zero);
    VDK_SELECT_AS(Sample<T>, weight_noise)
    (args_of<T>(m, m, log, log_alpha.has_value(), seed), output<T>(out), torch_parallel());
  });
  return returned(out, mu.scalar_type());
}

std::tuple<Tensor, Tensor> weight_noise_grad(const Tensor& grad, const OptionalTensor& mu,
                                             const OptionalTensor& log_sigma2,
                                             const OptionalTensor& log_alpha, const Tensor& seed) {
  const Tensor& given = given_log(log_sigma2, log_alpha);
  STD_TORCH_CHECK(grad.dim() == 2 && given.dim() == 2 && (mu.has_value() || !log_alpha.has_value()),
                  "weight_noise_grad: grad and its parameter must be matrices, with log_alpha mu given");
  const ScalarType type = compute_type(grad, mu, given);
  const OptionalTensor m = log_alpha ? prepared(mu, type) : std::nullopt;
  const Tensor g = prepared(grad, type), log = prepared(given, type), dlog = empty_like(log, type);
  const Tensor dmu = m ? empty_like(*m, type) : empty({0}, type);
  with_compute_type(type, [&](auto zero) {
    using T = decltype(zero);
    VDK_SELECT_AS(Gradient<T>, weight_noise_grad)
    ({args_of<T>(m, g, log, log_alpha.has_value(), seed), pointer<T>(g), m ? output<T>(dmu) : nullptr,
      output<T>(dlog)},
     torch_parallel());
  });
  return {returned(dmu, m ? mu->scalar_type() : grad.scalar_type()), returned(dlog, given.scalar_type())};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(vdropkern, CPU, m) {
  m.impl("weight_noise", TORCH_BOX(&weight_noise));
  m.impl("weight_noise_grad", TORCH_BOX(&weight_noise_grad));
}

}  // namespace vdk
