#include <cmath>

#include "../kl/binding_cuda.h"
#include "../linear_lrt/binding_cuda.h"
#include "checks.h"
#include "cuda.h"

namespace vdk {
namespace {

using cuda::ConvBackward;
using cuda::ConvForward;
using cuda::ConvProblem;

Tensor empty_image(const Tensor& like, const std::vector<int64_t>& sizes, ScalarType type,
                   MemoryFormat layout) {
  return torch::stable::empty({sizes.data(), sizes.size()}, type, std::nullopt, like.device(), std::nullopt,
                              layout);
}
std::vector<int64_t> sizes_of(const Tensor& t) {
  const auto sizes = t.sizes();
  return {sizes.begin(), sizes.end()};
}

// One call's parameters as the kernels want them: x and mu of one type, the noise parameter of that or float
// and of mu's size, both in channels last.
struct Call {
  const Gpu gpu;
  const ConvGeometry geometry;
  const ScalarType type;
  const MemoryFormat given, layout;  // of x, and the one worked in
  const Tensor& noise;               // log_sigma2 or log_alpha
  const bool is_alpha, shared;
  const Tensor mu, log;
  const ConvShape s;

  Call(const Tensor& x, const Tensor& mu_, const OptionalTensor& log_sigma2, const OptionalTensor& log_alpha,
       const ConvGeometry& geometry)
      : gpu(x),
        geometry(geometry),
        type(product_type(x, mu_, gpu)),
        given(layout_of(x, mu_)),
        layout(worked_in(x, mu_)),
        noise(parameter(log_sigma2, log_alpha)),
        is_alpha(log_alpha),
        shared(is_shared(mu_)),
        mu(vdk::prepared(mu_, type, MemoryFormat::ChannelsLast)),
        log(whole_log()),
        s(geometry.shape(x, mu_, layout)) {
    STD_TORCH_CHECK(!is_double(x) && !is_double(mu_) && !is_double(noise),
                    "conv2d_lrt: no CUDA kernel for float64");
  }

  ConvProblem problem() const { return {s, number_of(type), precision_on(gpu)}; }
  cuda::ConvWeights weights(double clip) const {
    return {mu.const_data_ptr(), log.const_data_ptr(), is_alpha, log.scalar_type() == ScalarType::Float,
            float(std::exp(clip))};
  }
  Tensor image(const Tensor& t, ScalarType as) const { return vdk::prepared(t, as, layout); }
  Tensor result(int64_t channels, int64_t h, int64_t w, ScalarType as) const {
    return empty_image(mu, {s.batch, channels, h, w}, as, layout);
  }
  // Back to the type and format that the caller holds.
  Tensor back(const Tensor& t, ScalarType as) const { return vdk::prepared(t, as, given); }
  void no_shared_kl(bool with_kl) const {
    STD_TORCH_CHECK(!with_kl || !shared, "conv2d_lrt: log_alpha must have mu's shape for the KL");
  }
  // The gradient of a shared log_alpha is the sum of its copies'.
  Tensor noise_gradient(const Tensor& dlog) const {
    const MemoryFormat wanted = weight_layout_of(noise);
    if (!shared) return vdk::prepared(dlog, noise.scalar_type(), wanted);
    std::vector<int64_t> dims;
    for (int64_t d = 0; d < 4; ++d)
      if (noise.size(d) != mu.size(d)) dims.push_back(d);
    const torch::headeronly::IntHeaderOnlyArrayRef over{dims.data(), dims.size()};
    return vdk::prepared(torch::stable::sum(dlog, over, true), noise.scalar_type(), wanted);
  }

 private:
  static const Tensor& parameter(const OptionalTensor& log_sigma2, const OptionalTensor& log_alpha) {
    STD_TORCH_CHECK(log_sigma2.has_value() != log_alpha.has_value(),
                    "conv2d_lrt: give one of log_sigma2, log_alpha");
    return log_alpha ? *log_alpha : *log_sigma2;
  }
  // Half types are multiplied in channels last where those come in whole chunks of 16 bytes: only then does
  // nothing wait for a copy, and two passes over an image cost less.
  MemoryFormat worked_in(const Tensor& x, const Tensor& mu_) const {
    geometry.check(x, mu_);
    const bool whole = mu_.size(1) % 8 == 0 && mu_.size(0) / geometry.groups % 8 == 0;
    return type != ScalarType::Float && whole ? MemoryFormat::ChannelsLast : given;
  }
  bool is_shared(const Tensor& mu_) const {
    STD_TORCH_CHECK(noise.dim() == 4, "conv2d_lrt: mu and its noise parameter must be 4-D");
    bool any = false;
    for (int64_t d = 0; d < 4; ++d) {
      STD_TORCH_CHECK(noise.size(d) == mu_.size(d) || (is_alpha && noise.size(d) == 1),
                      "conv2d_lrt: log_sigma2 must have mu's shape, log_alpha broadcast to it");
      any = any || noise.size(d) != mu_.size(d);
    }
    return any;
  }
  Tensor whole_log() const {
    if (!shared)
      return vdk::prepared(noise, noise.scalar_type() == type ? type : ScalarType::Float,
                           MemoryFormat::ChannelsLast);
    Tensor whole = empty_image(mu, sizes_of(mu), ScalarType::Float, MemoryFormat::ChannelsLast);
    return torch::stable::copy_(whole, noise);
  }
};

std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& x, const Tensor& mu,
                                           const OptionalTensor& log_sigma2, const OptionalTensor& log_alpha,
                                           const OptionalTensor& bias, const Tensor& seed, int64_t stride_h,
                                           int64_t stride_w, int64_t padding_h, int64_t padding_w,
                                           int64_t dilation_h, int64_t dilation_w, int64_t groups,
                                           const std::string& prior, double eps, double clip) {
  const Call call(x, mu, log_sigma2, log_alpha,
                  {stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w, groups});
  call.no_shared_kl(prior != "none");
  const ConvShape& s = call.s;
  const Tensor input = call.image(x, call.type);
  const OptionalTensor b = prepared(bias, ScalarType::Float);
  const Tensor y = call.result(s.out, s.out_h, s.out_w, call.type);
  const Tensor r = call.result(s.out, s.out_h, s.out_w, ScalarType::Float);
  const ConvForward args{call.problem(),    call.weights(clip), input.const_data_ptr(), pointer<float>(b),
                         seed_on_gpu(seed), float(eps),         y.mutable_data_ptr(),   output<float>(r)};
  const int processors = call.gpu.multiprocessors();
  const Tensor workspace = call.gpu.workspace(conv2d_lrt_workspace(args, processors));
  conv2d_lrt_forward(args, processors, workspace.mutable_data_ptr(), call.gpu.stream());
  Tensor kl = call.gpu.empty({}, ScalarType::Float);
  if (prior == "none")
    torch::stable::zero_(kl);
  else
    kl = returned(kl_on_gpu(call.gpu, mu, log_sigma2, log_alpha, prior), ScalarType::Float);
  return {call.back(y, x.scalar_type()), call.back(r, ScalarType::Float), kl};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor& grad_y, const OptionalTensor& grad_kl, const Tensor& x, const Tensor& mu,
    const OptionalTensor& log_sigma2, const OptionalTensor& log_alpha, const Tensor& r, int64_t stride_h,
    int64_t stride_w, int64_t padding_h, int64_t padding_w, int64_t dilation_h, int64_t dilation_w,
    int64_t groups, const std::string& prior, double clip, bool needs_x, bool needs_weight, bool needs_bias) {
  const Call call(x, mu, log_sigma2, log_alpha,
                  {stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w, groups});
  const bool with_kl = needs_weight && grad_kl && prior != "none";
  call.no_shared_kl(with_kl);
  const ConvShape& s = call.s;
  const Tensor input = call.image(x, call.type), dy = call.image(grad_y, call.type);
  const Tensor scale = call.image(r, ScalarType::Float);
  const auto none = [&] { return call.gpu.empty({0}, ScalarType::Float); };  // results must not alias
  const Tensor dx = needs_x ? call.result(s.in, s.height, s.width, call.type) : none();
  const auto of_weights = [&](ScalarType type) {
    return needs_weight ? empty_image(mu, sizes_of(mu), type, MemoryFormat::ChannelsLast) : none();
  };
  const Tensor dmu = of_weights(call.type), dlog = of_weights(call.log.scalar_type());
  const OptionalTensor kl_scale = with_kl ? prepared(grad_kl, ScalarType::Float) : std::nullopt;
  const ConvBackward args{call.problem(),
                          call.weights(clip),
                          dy.const_data_ptr(),
                          input.const_data_ptr(),
                          pointer<float>(scale),
                          needs_x ? dx.mutable_data_ptr() : nullptr,
                          needs_weight ? dmu.mutable_data_ptr() : nullptr,
                          needs_weight ? dlog.mutable_data_ptr() : nullptr,
                          with_kl ? prior_of(prior) : Prior(),
                          pointer<float>(kl_scale)};
  const int processors = call.gpu.multiprocessors();
  const Tensor workspace = call.gpu.workspace(conv2d_lrt_workspace(args, processors));
  conv2d_lrt_backward(args, processors, workspace.mutable_data_ptr(), call.gpu.stream());
  const int64_t all_but_channels[] = {0, 2, 3};
  const torch::headeronly::IntHeaderOnlyArrayRef over{all_but_channels, 3};
  return {
      needs_x ? call.back(dx, x.scalar_type()) : returned(dx, x.scalar_type()),
      needs_weight ? prepared(dmu, mu.scalar_type(), weight_layout_of(mu)) : returned(dmu, mu.scalar_type()),
      needs_weight ? call.noise_gradient(dlog) : returned(dlog, call.noise.scalar_type()),
      needs_bias ? torch::stable::sum(grad_y, over, false, ScalarType::Float) : none()};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(vdropkern, CUDA, m) {
  m.impl("conv2d_lrt", TORCH_BOX(&forward));
  m.impl("conv2d_lrt_backward", TORCH_BOX(&backward));
}

}  // namespace vdk
