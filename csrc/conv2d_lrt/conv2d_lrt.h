// The local reparameterisation of a 2-D convolution, forward and backward. Weights are dense, row-major or
// with channels last, whatever the images' layout.
#pragma once
#include "../common/isa.h"
#include "../common/parallel.h"
#include "../kl/prior.h"
#include "shape.h"

namespace vdk {

// How far apart neighbours lie in [out, in / groups, kernel_h, kernel_w], of the weights and their gradients.
struct WeightSteps {
  int64_t out, channel, tap;

  WeightSteps(const ConvShape& s, bool channels_last)
      : out(s.in / s.groups * s.kernel_h * s.kernel_w),
        channel(channels_last ? 1 : s.kernel_h * s.kernel_w),
        tap(channels_last ? s.in / s.groups : 1) {}
};

// The products and the noise: y = m + bias + sqrt(v + eps) e and r = e / (2 sqrt(v + eps)), which is all that
// backward needs of noise and variance. e is the noise of element (n out + o, h out_w + w), in both layouts.
template <class T>
struct ConvForward {
  ConvShape s;
  WeightSteps steps;
  const T* x;
  const T* mu;      // the mean of each weight, clipped already
  const T* sigma2;  // as mu
  const T* bias;    // [out] or null
  uint64_t seed;
  T eps;
  T* y;
  T* r;
};

// With g_v = dy r: dx = conv_T(dy, mu) + 2 x conv_T(g_v, sigma2), dmu = wgrad(dy, x),
// dsigma2 = wgrad(g_v, x^2).
template <class T>
struct ConvBackward {
  ConvShape s;
  WeightSteps steps;
  const T *x, *dy, *r, *mu, *sigma2;
  T* dx;             // null: not wanted
  T *dmu, *dsigma2;  // both null: not wanted
  T* dbias;          // null: not wanted
};

// The parameters of the weights: sigma^2 = exp(log) or exp(log) mu^2, in the product's mean mu counts as 0
// where alpha >= clip. `log` is of mu's size, and all lie in one layout.
template <class T>
struct ConvWeights {
  const T* mu;
  const T* log;  // log_sigma2 or log_alpha
  bool is_alpha;
  int64_t count;
  T clip;  // infinite: no mean is clipped
  Prior prior;
};

VDK_DECLARE_KERNEL(
    // writes means, unless null, and variances, and returns the KL, 0 with Prior::kNone
    double conv2d_lrt_weights(const ConvWeights<float>& weights, float* mean, float* sigma2,
                              const Parallel& parallel);
    double conv2d_lrt_weights(const ConvWeights<double>& weights, double* mean, double* sigma2,
                              const Parallel& parallel);
    // the gradients of mean and sigma2 become those of mu and log, in place, that of the KL included
    void conv2d_lrt_weights_backward(const ConvWeights<float>& weights, float kl_scale, float* dmu,
                                     float* dlog, const Parallel& parallel);
    void conv2d_lrt_weights_backward(const ConvWeights<double>& weights, double kl_scale, double* dmu,
                                     double* dlog, const Parallel& parallel);

    void conv2d_lrt_forward(const ConvForward<float>& args, const Parallel& parallel);
    void conv2d_lrt_forward(const ConvForward<double>& args, const Parallel& parallel);
    void conv2d_lrt_backward(const ConvBackward<float>& args, const Parallel& parallel);
    void conv2d_lrt_backward(const ConvBackward<double>& args, const Parallel& parallel);

    // 3x3, stride 1, dilation 1, groups 1, float, and worth it: by Winograd's F(4x4, 3x3)
    bool winograd_fits(const ConvShape& shape);
    void winograd_forward(const ConvForward<float>& args, const Parallel& parallel);
    // all but dbias
    void winograd_backward(const ConvBackward<float>& args, const Parallel& parallel);)
}  // namespace vdk
