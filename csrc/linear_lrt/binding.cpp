#include "linear_lrt.h"

#include <cmath>

#include "../common/binding.h"

namespace vdk {
namespace {

using OptionalTensor = std::optional<Tensor>;

template <class T>
using Forward = double (*)(const LinearLrtForward<T>&, const Parallel&);
template <class T>
using Backward = void (*)(const LinearLrtBackward<T>&, const Parallel&);

// mu and the noise parameter as the kernels want them.
struct Weights {
  Tensor mu, log;
  bool is_alpha;
  double clip;

  Weights(const Tensor& mu, const OptionalTensor& log_sigma2, const OptionalTensor& log_alpha, double clip,
          ScalarType type)
      : mu(prepared(mu, type)),
        log(prepared(log_alpha ? *log_alpha : *log_sigma2, type)),
        is_alpha(log_alpha),
        clip(std::exp(clip)) {
    STD_TORCH_CHECK(mu.dim() == 2 && log.dim() == 2, "linear_lrt: mu and its noise parameter must be 2-D");
    for (int64_t d = 0; d < 2; ++d)
      STD_TORCH_CHECK(log.size(d) == mu.size(d) || (is_alpha && log.size(d) == 1),
                      "linear_lrt: log_sigma2 must have mu's shape, log_alpha broadcast to it");
  }
  template <class T>
  LrtWeights<T> get() const {
    return {pointer<T>(mu), pointer<T>(log), is_alpha,   log.size(0),
            log.size(1),    mu.size(0),      mu.size(1), T(clip)};
  }
};

int64_t rows_of(const Tensor& x) {
  int64_t rows = 1;
  for (int64_t d = 0; d + 1 < x.dim(); ++d) rows *= x.size(d);
  return rows;
}

std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& x, const Tensor& mu,
                                           const OptionalTensor& log_sigma2, const OptionalTensor& log_alpha,
                                           const OptionalTensor& bias, const Tensor& seed,
                                           const std::string& prior, double eps, double clip) {
  STD_TORCH_CHECK(log_sigma2.has_value() != log_alpha.has_value(),
                  "linear_lrt: give one of log_sigma2, log_alpha");
  const ScalarType type = compute_type(OptionalTensor(x), OptionalTensor(mu), log_sigma2, log_alpha);
  const Weights weights(mu, log_sigma2, log_alpha, clip, type);
  const Tensor input = prepared(x, type);
  const OptionalTensor b = prepared(bias, type);
  STD_TORCH_CHECK(x.dim() > 0 && x.size(x.dim() - 1) == mu.size(1), "linear_lrt: x must be [*, I]");
  const auto x_sizes = x.sizes();
  std::vector<int64_t> sizes(x_sizes.begin(), x_sizes.end());
  sizes.back() = mu.size(0);
  const Tensor y = empty(sizes, type), std = empty(sizes, type);
  const Tensor kl = with_compute_type(type, [&](auto zero) {
    using T = decltype(zero);
    const LinearLrtForward<T> args{pointer<T>(input), weights.get<T>(), pointer<T>(b), output<T>(y),
                                   output<T>(std),    rows_of(x),       seed_of(seed), T(eps),
                                   prior_of(prior),   bf16_variance()};
    return scalar<T>(VDK_SELECT_AS(Forward<T>, linear_lrt_forward)(args, torch_parallel()), type);
  });
  return {returned(y, x.scalar_type()), std, kl};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const Tensor& grad_y, const OptionalTensor& grad_kl,
                                                    const Tensor& x, const Tensor& mu,
                                                    const OptionalTensor& log_sigma2,
                                                    const OptionalTensor& log_alpha, const Tensor& std,
                                                    const Tensor& seed, const std::string& prior, double clip,
                                                    bool needs_x, bool needs_weight, bool needs_bias) {
  const ScalarType type = std.scalar_type();
  const Weights weights(mu, log_sigma2, log_alpha, clip, type);
  const Tensor dy = prepared(grad_y, type), input = prepared(x, type), deviation = prepared(std, type);
  const auto none = [&] { return empty({0}, type); };  // one each: results must not alias
  const Tensor dx = needs_x ? empty_like(x, type) : none();
  const Tensor dmu = needs_weight ? empty_like(weights.mu, type) : none();
  const Tensor dlog = needs_weight ? empty_like(weights.log, type) : none();
  const Tensor dbias = needs_bias ? empty({mu.size(0)}, type) : none();
  with_compute_type(type, [&](auto zero) {
    using T = decltype(zero);
    const bool with_kl = grad_kl && prior != "none";
    const T kl_scale = with_kl ? *pointer<T>(prepared(*grad_kl, type)) : T(0);
    const LinearLrtBackward<T> args{pointer<T>(dy),
                                    pointer<T>(input),
                                    weights.get<T>(),
                                    pointer<T>(deviation),
                                    needs_x ? output<T>(dx) : nullptr,
                                    needs_weight ? output<T>(dmu) : nullptr,
                                    needs_weight ? output<T>(dlog) : nullptr,
                                    needs_bias ? output<T>(dbias) : nullptr,
                                    rows_of(x),
                                    seed_of(seed),
                                    with_kl ? prior_of(prior) : Prior(),
                                    kl_scale,
                                    bf16_variance()};
    VDK_SELECT_AS(Backward<T>, linear_lrt_backward)(args, torch_parallel());
  });
  const Tensor& noise = log_alpha ? *log_alpha : *log_sigma2;
  return {returned(dx, x.scalar_type()), returned(dmu, mu.scalar_type()), returned(dlog, noise.scalar_type()),
          dbias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(vdropkern, CPU, m) {
  m.impl("linear_lrt", TORCH_BOX(&forward));
  m.impl("linear_lrt_backward", TORCH_BOX(&backward));
}

}  // namespace vdk
