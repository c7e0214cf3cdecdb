#include <cmath>

#include "checks.h"
#include "conv2d_lrt.h"

namespace vdk {
namespace {

using OptionalTensor = std::optional<Tensor>;

template <class T>
using WeightValues = double (*)(const ConvWeights<T>&, T*, T*, const Parallel&);
template <class T>
using WeightGradients = void (*)(const ConvWeights<T>&, T, T*, T*, const Parallel&);
template <class T>
using Forward = void (*)(const ConvForward<T>&, const Parallel&);
template <class T>
using Backward = void (*)(const ConvBackward<T>&, const Parallel&);

// The layout the kernels work in: of few channels a group they fill their vectors only in NCHW, and two
// copies cost less (measured: 3 times slower with 8 channels, equal with 32; direct_fits() has no such
// trouble).
MemoryFormat worked_in(MemoryFormat layout, const Tensor& mu, int64_t groups) {
  const int64_t in = mu.size(1), out = groups > 0 ? mu.size(0) / groups : 0;
  const bool few = groups > 1 && (in > 4 || out > 4) && in < 32 && out < 32;
  return few ? MemoryFormat::Contiguous : layout;
}
Tensor empty_image(const std::vector<int64_t>& sizes, ScalarType type, MemoryFormat layout) {
  return torch::stable::empty({sizes.data(), sizes.size()}, type, std::nullopt, std::nullopt, std::nullopt,
                              layout);
}

// Calls f(place in mu, place in a row-major log) for every weight.
template <class F>
void for_weights(const Tensor& mu, const Tensor& log, F&& f) {
  int64_t step[4], inner = 1;
  for (int64_t d = 3; d >= 0; --d) {
    step[d] = log.size(d) == 1 ? 0 : inner;
    inner *= log.size(d);
  }
  for (int64_t o = 0; o < mu.size(0); ++o)
    for (int64_t c = 0; c < mu.size(1); ++c)
      for (int64_t h = 0; h < mu.size(2); ++h)
        for (int64_t w = 0; w < mu.size(3); ++w)
          f(o * mu.stride(0) + c * mu.stride(1) + h * mu.stride(2) + w * mu.stride(3),
            o * step[0] + c * step[1] + h * step[2] + w * step[3]);
}

// mu and the noise parameter, the latter as large as mu and in its layout.
struct Weights {
  ScalarType type;
  MemoryFormat layout;
  Tensor mu, given, log;
  bool is_alpha, shared;
  double clip;
  Prior prior;

  Weights(const Tensor& mu, const OptionalTensor& log_sigma2, const OptionalTensor& log_alpha, double clip,
          Prior prior, ScalarType type)
      : type(type),
        layout(weight_layout_of(mu)),
        mu(laid_out(mu, type, layout)),
        given(log_alpha ? *log_alpha : *log_sigma2),
        log(given),
        is_alpha(log_alpha),
        shared(false),
        clip(std::exp(clip)),
        prior(prior) {
    STD_TORCH_CHECK(mu.dim() == 4 && given.dim() == 4, "conv2d_lrt: mu and its noise parameter must be 4-D");
    for (int64_t d = 0; d < 4; ++d) {
      STD_TORCH_CHECK(given.size(d) == mu.size(d) || (is_alpha && given.size(d) == 1),
                      "conv2d_lrt: log_sigma2 must have mu's shape, log_alpha broadcast to it");
      shared = shared || given.size(d) != mu.size(d);
    }
    if (!shared) {
      log = laid_out(given, type, layout);
      return;
    }
    STD_TORCH_CHECK(prior == Prior::kNone, "conv2d_lrt: log_alpha must have mu's shape for the KL");
    const Tensor few = vdk::prepared(given, type);
    log = like_mu();
    with_compute_type(type, [&](auto zero) {
      using T = decltype(zero);
      T* const to = output<T>(log);
      const T* const from = pointer<T>(few);
      for_weights(this->mu, few, [&](int64_t i, int64_t j) { to[i] = from[j]; });
    });
  }
  // Whether mu is already the mean of the products.
  bool is_mean() const { return std::isinf(clip); }
  template <class T>
  ConvWeights<T> get() const {
    return {pointer<T>(mu), pointer<T>(log), is_alpha, mu.numel(), T(clip), prior};
  }
  WeightSteps steps(const ConvShape& s) const { return {s, layout == MemoryFormat::ChannelsLast}; }
  Tensor like_mu() const {
    if (layout == MemoryFormat::Contiguous) return empty_like(mu, type);
    return empty_image({mu.size(0), mu.size(1), mu.size(2), mu.size(3)}, type, layout);
  }
  // Of the noise parameter, in its own type and layout. A shared log_alpha's is the sum of its copies'.
  Tensor gradient(const Tensor& dlog) const {
    return laid_out(shared ? sum_of_copies(dlog) : dlog, given.scalar_type(), weight_layout_of(given));
  }

 private:
  // The same tensor where it already is that; asking torch takes longer.
  static Tensor laid_out(const Tensor& t, ScalarType type, MemoryFormat layout) {
    return layout == MemoryFormat::Contiguous ? vdk::prepared(t, type) : vdk::prepared(t, type, layout);
  }
  Tensor sum_of_copies(const Tensor& dlog) const {
    const Tensor total = empty_like(given, type);
    with_compute_type(type, [&](auto zero) {
      using T = decltype(zero);
      std::vector<double> sums(size_t(given.numel()), 0.0);
      const T* const from = pointer<T>(dlog);
      for_weights(mu, given, [&](int64_t i, int64_t j) { sums[size_t(j)] += double(from[i]); });
      T* const to = output<T>(total);
      for (size_t j = 0; j < sums.size(); ++j) to[j] = T(sums[j]);
    });
    return total;
  }
};

std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& x, const Tensor& mu,
                                           const OptionalTensor& log_sigma2, const OptionalTensor& log_alpha,
                                           const OptionalTensor& bias, const Tensor& seed, int64_t stride_h,
                                           int64_t stride_w, int64_t padding_h, int64_t padding_w,
                                           int64_t dilation_h, int64_t dilation_w, int64_t groups,
                                           const std::string& prior, double eps, double clip) {
  STD_TORCH_CHECK(log_sigma2.has_value() != log_alpha.has_value(),
                  "conv2d_lrt: give one of log_sigma2, log_alpha");
  const ScalarType type = compute_type(OptionalTensor(x), OptionalTensor(mu), log_sigma2, log_alpha);
  const ConvGeometry geometry{stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w, groups};
  geometry.check(x, mu);
  const MemoryFormat given = layout_of(x, mu), layout = worked_in(given, mu, groups);
  const ConvShape s = geometry.shape(x, mu, layout);
  const Weights weights(mu, log_sigma2, log_alpha, clip, prior_of(prior), type);
  const Tensor input = prepared(x, type, layout);
  const OptionalTensor b = vdk::prepared(bias, type);
  const std::vector<int64_t> sizes{s.batch, s.out, s.out_h, s.out_w};
  const Tensor y = empty_image(sizes, type, layout), r = empty_image(sizes, type, layout);
  const Tensor mean = weights.is_mean() ? weights.mu : empty_like(weights.mu, type);
  const Tensor sigma2 = empty_like(weights.mu, type);
  const Tensor kl = with_compute_type(type, [&](auto zero) {
    using T = decltype(zero);
    const double value = VDK_SELECT_AS(WeightValues<T>, conv2d_lrt_weights)(
        weights.get<T>(), weights.is_mean() ? nullptr : output<T>(mean), output<T>(sigma2), torch_parallel());
    const ConvForward<T> args{s,
                              weights.steps(s),
                              pointer<T>(input),
                              pointer<T>(mean),
                              pointer<T>(sigma2),
                              pointer<T>(b),
                              seed_of(seed),
                              T(eps),
                              output<T>(y),
                              output<T>(r)};
    VDK_SELECT_AS(Forward<T>, conv2d_lrt_forward)(args, torch_parallel());
    return scalar<T>(value, type);
  });
  return {prepared(y, x.scalar_type(), given), prepared(r, type, given), kl};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor& grad_y, const OptionalTensor& grad_kl, const Tensor& x, const Tensor& mu,
    const OptionalTensor& log_sigma2, const OptionalTensor& log_alpha, const Tensor& r, int64_t stride_h,
    int64_t stride_w, int64_t padding_h, int64_t padding_w, int64_t dilation_h, int64_t dilation_w,
    int64_t groups, const std::string& prior, double clip, bool needs_x, bool needs_weight, bool needs_bias) {
  const ScalarType type = r.scalar_type();
  const ConvGeometry geometry{stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w, groups};
  geometry.check(x, mu);
  const MemoryFormat given = layout_of(x, mu), layout = worked_in(given, mu, groups);
  const ConvShape s = geometry.shape(x, mu, layout);
  const bool with_kl = grad_kl && prior != "none";
  const Weights weights(mu, log_sigma2, log_alpha, clip, with_kl ? prior_of(prior) : Prior(), type);
  const Tensor dy = prepared(grad_y, type, layout), input = prepared(x, type, layout),
               scale = prepared(r, type, layout);
  const auto none = [&] { return empty({0}, type); };  // one each: results must not alias
  const Tensor dx = needs_x ? empty_image({s.batch, s.in, s.height, s.width}, type, layout) : none();
  const Tensor dmu = needs_weight ? weights.like_mu() : none();
  const Tensor dlog = needs_weight ? weights.like_mu() : none();
  const Tensor dbias = needs_bias ? empty({s.out}, type) : none();
  const Tensor mean = !needs_x ? none() : weights.is_mean() ? weights.mu : empty_like(weights.mu, type);
  const Tensor sigma2 = needs_x ? empty_like(weights.mu, type) : none();
  with_compute_type(type, [&](auto zero) {
    using T = decltype(zero);
    if (needs_x) {
      ConvWeights<T> silent = weights.get<T>();
      silent.prior = Prior();
      VDK_SELECT_AS(WeightValues<T>, conv2d_lrt_weights)
      (silent, weights.is_mean() ? nullptr : output<T>(mean), output<T>(sigma2), torch_parallel());
    }
    const ConvBackward<T> args{s,
                               weights.steps(s),
                               pointer<T>(input),
                               pointer<T>(dy),
                               pointer<T>(scale),
                               needs_x ? pointer<T>(mean) : nullptr,
                               needs_x ? pointer<T>(sigma2) : nullptr,
                               needs_x ? output<T>(dx) : nullptr,
                               needs_weight ? output<T>(dmu) : nullptr,
                               needs_weight ? output<T>(dlog) : nullptr,
                               needs_bias ? output<T>(dbias) : nullptr};
    VDK_SELECT_AS(Backward<T>, conv2d_lrt_backward)(args, torch_parallel());
    if (!needs_weight) return;
    const T kl_scale = with_kl ? *pointer<T>(vdk::prepared(*grad_kl, type)) : T(0);
    VDK_SELECT_AS(WeightGradients<T>, conv2d_lrt_weights_backward)
    (weights.get<T>(), kl_scale, output<T>(dmu), output<T>(dlog), torch_parallel());
  });
  return {needs_x ? prepared(dx, x.scalar_type(), given) : dx, returned(dmu, mu.scalar_type()),
          needs_weight ? weights.gradient(dlog) : dlog, dbias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(vdropkern, CPU, m) {
  m.impl("conv2d_lrt", TORCH_BOX(&forward));
  m.impl("conv2d_lrt_backward", TORCH_BOX(&backward));
}

}  // namespace vdk
