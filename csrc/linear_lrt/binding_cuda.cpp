#include <atomic>
#include <cmath>

#include "binding_cuda.h"

namespace vdk {
namespace {

using cuda::LrtBackward;
using cuda::LrtForward;
using cuda::LrtShape;
using cuda::LrtWeights;
using cuda::Precision;

std::atomic<int64_t> chosen_precision{int64_t(Precision::kTf32x3)};

// How float32 products run from now on (-1: leave it); returns how they ran until now.
int64_t select_precision(int64_t select) {
  STD_TORCH_CHECK(select <= int64_t(Precision::kTf32), "float32_precision: unknown precision ", select);
  return select < 0 ? chosen_precision.load() : chosen_precision.exchange(select);
}

// One call's parameters as the kernels want them: x and mu of one type, the noise parameter of that or float.
struct Call {
  const Gpu gpu;
  const ScalarType type;
  const Tensor mu, log;
  const bool is_alpha;

  Call(const Tensor& x, const Tensor& mu_, const OptionalTensor& log_sigma2, const OptionalTensor& log_alpha)
      : gpu(x),
        type(product_type(x, mu_, gpu)),
        mu(prepared(mu_, type)),
        log(parameter(log_sigma2, log_alpha)),
        is_alpha(log_alpha) {
    STD_TORCH_CHECK(!is_double(x) && !is_double(mu_), "linear_lrt: no CUDA kernel for float64");
    STD_TORCH_CHECK(mu.dim() == 2 && log.dim() == 2, "linear_lrt: mu and its noise parameter must be 2-D");
    for (int64_t d = 0; d < 2; ++d)
      STD_TORCH_CHECK(log.size(d) == mu.size(d) || (is_alpha && log.size(d) == 1),
                      "linear_lrt: log_sigma2 must have mu's shape, log_alpha broadcast to it");
    STD_TORCH_CHECK(x.dim() > 0 && x.size(x.dim() - 1) == mu.size(1), "linear_lrt: x must be [*, I]");
  }

  LrtShape shape(const Tensor& x) const {
    int64_t batch = 1;
    for (int64_t d = 0; d + 1 < x.dim(); ++d) batch *= x.size(d);
    return {batch, mu.size(0), mu.size(1), number_of(type), precision_on(gpu)};
  }
  LrtWeights weights(double clip) const {
    return {mu.const_data_ptr(),
            log.const_data_ptr(),
            log.size(0),
            log.size(1),
            is_alpha,
            log.scalar_type() == ScalarType::Float,
            float(std::exp(clip))};
  }

 private:
  Tensor parameter(const OptionalTensor& log_sigma2, const OptionalTensor& log_alpha) const {
    STD_TORCH_CHECK(log_sigma2.has_value() != log_alpha.has_value(),
                    "linear_lrt: give one of log_sigma2, log_alpha");
    const Tensor& given = log_alpha ? *log_alpha : *log_sigma2;
    STD_TORCH_CHECK(!is_double(given), "linear_lrt: no CUDA kernel for float64");
    return prepared(given, given.scalar_type() == type ? type : ScalarType::Float);
  }
};

std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& x, const Tensor& mu,
                                           const OptionalTensor& log_sigma2, const OptionalTensor& log_alpha,
                                           const OptionalTensor& bias, const Tensor& seed,
                                           const std::string& prior, double eps, double clip) {
  const Call call(x, mu, log_sigma2, log_alpha);
  const Tensor input = prepared(x, call.type);
  const OptionalTensor b = prepared(bias, ScalarType::Float);
  const auto x_sizes = x.sizes();
  std::vector<int64_t> sizes(x_sizes.begin(), x_sizes.end());
  sizes.back() = mu.size(0);
  const Tensor y = call.gpu.empty(sizes, call.type), std = call.gpu.empty(sizes, ScalarType::Float);
  Tensor kl = call.gpu.empty({}, ScalarType::Float);
  const Prior kl_prior = prior_of(prior);
  STD_TORCH_CHECK(kl_prior == Prior::kNone || call.log.numel() == call.mu.numel(),
                  "linear_lrt: the KL needs a log_alpha of mu's shape");
  if (kl_prior == Prior::kNone) torch::stable::zero_(kl);
  const LrtForward args{call.shape(x),     call.weights(clip), input.const_data_ptr(), pointer<float>(b),
                        seed_on_gpu(seed), float(eps),         y.mutable_data_ptr(),   output<float>(std),
                        kl_prior,          output<float>(kl)};
  const int processors = call.gpu.multiprocessors();
  const Tensor workspace = call.gpu.workspace(linear_lrt_workspace(args, processors));
  linear_lrt_forward(args, processors, workspace.mutable_data_ptr(), call.gpu.stream());
  return {returned(y, x.scalar_type()), std, kl};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const Tensor& grad_y, const OptionalTensor& grad_kl,
                                                    const Tensor& x, const Tensor& mu,
                                                    const OptionalTensor& log_sigma2,
                                                    const OptionalTensor& log_alpha, const Tensor& std,
                                                    const Tensor& seed, const std::string& prior, double clip,
                                                    bool needs_x, bool needs_weight, bool needs_bias) {
  const Call call(x, mu, log_sigma2, log_alpha);
  const Tensor dy = prepared(grad_y, call.type), input = prepared(x, call.type);
  const Tensor deviation = prepared(std, ScalarType::Float);
  const auto none = [&](ScalarType type) {
    return call.gpu.empty({0}, type);
  };  // one each: results must not alias
  const Tensor dx = needs_x ? call.gpu.empty_like(x, call.type) : none(call.type);
  const Tensor dmu = needs_weight ? call.gpu.empty_like(call.mu, call.type) : none(call.type);
  const Tensor dlog =
      needs_weight ? call.gpu.empty_like(call.log, call.log.scalar_type()) : none(call.log.scalar_type());
  const Tensor dbias = needs_bias ? call.gpu.empty({mu.size(0)}, ScalarType::Float) : none(ScalarType::Float);
  const bool with_kl = needs_weight && grad_kl && prior != "none";
  const OptionalTensor scale = with_kl ? prepared(grad_kl, ScalarType::Float) : std::nullopt;
  const LrtBackward args{call.shape(x),
                         call.weights(clip),
                         dy.const_data_ptr(),
                         input.const_data_ptr(),
                         pointer<float>(deviation),
                         seed_on_gpu(seed),
                         needs_x ? dx.mutable_data_ptr() : nullptr,
                         needs_weight ? dmu.mutable_data_ptr() : nullptr,
                         needs_weight ? dlog.mutable_data_ptr() : nullptr,
                         needs_bias ? output<float>(dbias) : nullptr,
                         with_kl ? prior_of(prior) : Prior(),
                         pointer<float>(scale)};
  STD_TORCH_CHECK(!with_kl || call.log.numel() == call.mu.numel(),
                  "linear_lrt: the KL's gradient needs a log_alpha of mu's shape");
  const int processors = call.gpu.multiprocessors();
  const Tensor workspace = call.gpu.workspace(linear_lrt_workspace(args, processors));
  linear_lrt_backward(args, processors, workspace.mutable_data_ptr(), call.gpu.stream());
  const Tensor& noise = log_alpha ? *log_alpha : *log_sigma2;
  return {returned(dx, x.scalar_type()), returned(dmu, mu.scalar_type()), returned(dlog, noise.scalar_type()),
          dbias};
}

}  // namespace

Precision precision_on(const Gpu& gpu) {
  return gpu.capability() < 80 ? Precision::kIeee : Precision(chosen_precision.load());
}

STABLE_TORCH_LIBRARY_IMPL(vdropkern, CUDA, m) {
  m.impl("linear_lrt", TORCH_BOX(&forward));
  m.impl("linear_lrt_backward", TORCH_BOX(&backward));
}
STABLE_TORCH_LIBRARY_IMPL(vdropkern, CompositeExplicitAutograd, m) {
  m.impl("float32_precision", TORCH_BOX(&select_precision));
}

}  // namespace vdk
