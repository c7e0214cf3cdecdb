#include <limits>

#include "array.h"
#include "check.h"
#include "conv2d_lrt/cuda.h"
#include "random/philox.h"

namespace {

using emu::Array;
using vdk::ConvShape;
using vdk::Prior;
using vdk::cuda::ConvBackward;
using vdk::cuda::ConvForward;
using vdk::cuda::ConvProblem;
using vdk::cuda::ConvWeights;
using vdk::cuda::Number;
using vdk::cuda::Precision;

// An image's elements and a group's weights, wherever they lie.
struct Places {
  ConvShape s;

  int64_t of(int64_t channels, int64_t height, int64_t width, int64_t n, int64_t c, int64_t h,
             int64_t w) const {
    return s.channels_last ? ((n * height + h) * width + w) * channels + c
                           : ((n * channels + c) * height + h) * width + w;
  }
  int64_t x(int64_t n, int64_t c, int64_t h, int64_t w) const {
    return of(s.in, s.height, s.width, n, c, h, w);
  }
  int64_t y(int64_t n, int64_t o, int64_t h, int64_t w) const {
    return of(s.out, s.out_h, s.out_w, n, o, h, w);
  }
  int64_t in() const { return s.in / s.groups; }
  int64_t weights() const { return s.out * in() * s.kernel_h * s.kernel_w; }
  int64_t inputs() const { return s.batch * s.in * s.height * s.width; }
  int64_t outputs() const { return s.batch * s.out * s.out_h * s.out_w; }

  // f(place of y, n, o, h, w)
  template <class F>
  void for_outputs(F&& f) const {
    for (int64_t n = 0; n < s.batch; ++n)
      for (int64_t o = 0; o < s.out; ++o)
        for (int64_t h = 0; h < s.out_h; ++h)
          for (int64_t w = 0; w < s.out_w; ++w) f(y(n, o, h, w), n, o, h, w);
  }
  // f(place of the weight, place of the input) for all that an output sees
  template <class F>
  void for_patch(int64_t n, int64_t o, int64_t h, int64_t w, F&& f) const {
    const int64_t first = o / (s.out / s.groups) * in();
    for (int64_t i = 0; i < s.kernel_h; ++i)
      for (int64_t j = 0; j < s.kernel_w; ++j)
        for (int64_t c = 0; c < in(); ++c) {
          const int64_t row = h * s.stride_h - s.pad_h + i * s.dilation_h;
          const int64_t col = w * s.stride_w - s.pad_w + j * s.dilation_w;
          if (row < 0 || row >= s.height || col < 0 || col >= s.width) continue;
          f(((o * s.kernel_h + i) * s.kernel_w + j) * in() + c, x(n, first + c, row, col));
        }
  }
};

// Both passes against loops over the definition.
void check_conv(Number type, Precision precision, ConvShape s, bool is_alpha, int multiprocessors) {
  const double loose = precision == Precision::kIeee && type == Number::kFloat ? 1e-4 : 3e-2;
  s.out_h = (s.height + 2 * s.pad_h - s.dilation_h * (s.kernel_h - 1) - 1) / s.stride_h + 1;
  s.out_w = (s.width + 2 * s.pad_w - s.dilation_w * (s.kernel_w - 1) - 1) / s.stride_w + 1;
  const Places p{s};
  Array x(type, p.inputs()), mu(type, p.weights()), y(type, p.outputs()), dy(type, p.outputs()),
      dx(type, p.inputs()), dmu(type, p.weights());
  std::vector<float> log(p.weights()), r(p.outputs(), NAN), dlog(p.weights(), NAN), bias(s.out);
  const float kl_scale = 0.5f;
  const int64_t seed = 0x123456789abcdef1;
  for (int64_t i = 0; i < p.inputs(); ++i) x.set(i, 0.25 * double(i * 7 % 17) - 2);
  for (int64_t i = 0; i < p.weights(); ++i) mu.set(i, 0.0625 * double(i * 5 % 13) - 0.375);
  for (int64_t i = 0; i < p.outputs(); ++i) dy.set(i, 0.25 * double(i * 3 % 11) - 1.25);
  for (int64_t i = 0; i < p.weights(); ++i) log[i] = float((is_alpha ? -4 : -6) + 0.5 * double(i % 7));
  for (int64_t i = 0; i < s.out; ++i) bias[i] = float(i % 5) - 2;

  const ConvProblem problem{s, type, precision};
  const ConvWeights w{mu.data(), log.data(), is_alpha, true, std::numeric_limits<float>::infinity()};
  const ConvForward f{problem, w, x.data(), bias.data(), &seed, 1e-8f, y.data(), r.data()};
  std::vector<double> workspace(vdk::cuda::conv2d_lrt_workspace(f, multiprocessors) / sizeof(double));
  vdk::cuda::conv2d_lrt_forward(f, multiprocessors, workspace.data(), nullptr);
  const ConvBackward b{problem,   w,          dy.data(),   x.data(),    r.data(),
                       dx.data(), dmu.data(), dlog.data(), Prior::kArd, &kl_scale};
  workspace.assign(vdk::cuda::conv2d_lrt_workspace(b, multiprocessors) / sizeof(double), NAN);
  vdk::cuda::conv2d_lrt_backward(b, multiprocessors, workspace.data(), nullptr);

  const auto e = [&](int64_t i) { return std::exp(double(log[i])); };
  const auto sigma2 = [&](int64_t i) { return is_alpha ? e(i) * mu.get(i) * mu.get(i) : e(i); };
  std::vector<double> of_x(p.inputs()), of_mean(p.weights()), of_variance(p.weights());
  p.for_outputs([&](int64_t at, int64_t n, int64_t o, int64_t h, int64_t col) {
    double mean = bias[o], variance = 1e-8, z[4];
    p.for_patch(n, o, h, col, [&](int64_t i, int64_t j) {
      mean += x.get(j) * mu.get(i);
      variance += x.get(j) * x.get(j) * sigma2(i);
    });
    const int64_t pixel = h * s.out_w + col;
    uint32_t words[4] = {uint32_t((n * s.out + o) * ((s.out_h * s.out_w + 3) / 4) + pixel / 4), 0, 0, 0};
    vdk::philox4x32(words, uint32_t(seed), uint32_t(uint64_t(seed) >> 32));
    vdk::box_muller_f64(words, z);
    const double deviation = std::sqrt(variance), g = dy.get(at), g_v = g * z[pixel % 4] / (2 * deviation);
    emu::expect_close(y.get(at), mean + deviation * z[pixel % 4], loose, "y");
    emu::expect_close(r[at] * deviation, z[pixel % 4] / 2, 2 * loose, "r");
    p.for_patch(n, o, h, col, [&](int64_t i, int64_t j) {
      of_x[j] += g * mu.get(i) + 2 * x.get(j) * g_v * sigma2(i);
      of_mean[i] += g * x.get(j);
      of_variance[i] += g_v * x.get(j) * x.get(j);
    });
  });
  for (int64_t j = 0; j < p.inputs(); ++j) emu::expect_close(dx.get(j), of_x[j], 8 * loose, "dx");
  for (int64_t i = 0; i < p.weights(); ++i) {
    const double m = mu.get(i), a = is_alpha ? 1 : m * m + 1e-8;
    const double slope = -0.5 * kl_scale / (1 + e(i) / a);
    const double more = is_alpha ? 2 * of_variance[i] * e(i) * m : slope * -2 * m / a;
    emu::expect_close(dmu.get(i), of_mean[i] + more, 8 * loose, "dmu");
    emu::expect_close(dlog[i], of_variance[i] * sigma2(i) + slope, 8 * loose, "dlog");
  }
}

// Element by element, with strides, groups, dilation and edges; in chunks of 16 bytes; reductions in parts.
// Results' heights and widths are computed.
void check_all(Number type, Precision precision) {
  check_conv(type, precision, {2, 6, 5, 4, 10, 3, 2, 0, 0, 2, 1, 1, 1, 1, 2, 2, false}, false, 1);
  check_conv(type, precision, {1, 16, 3, 5, 16, 2, 3, 0, 0, 1, 2, 1, 1, 1, 1, 2, true}, true, 1);
  check_conv(type, precision,
             {1, type == Number::kFloat ? 65 : 129, 3, 3, 6, 2, 2, 0, 0, 1, 1, 0, 0, 1, 1, 1, true}, false,
             64);
}

}  // namespace

VDK_CHECK("conv2d_lrt ieee") { check_all(Number::kFloat, Precision::kIeee); }
VDK_CHECK("conv2d_lrt tf32x3") { check_all(Number::kFloat, Precision::kTf32x3); }
VDK_CHECK("conv2d_lrt tf32x3-mean") { check_all(Number::kFloat, Precision::kTf32x3Mean); }
VDK_CHECK("conv2d_lrt tf32") { check_all(Number::kFloat, Precision::kTf32); }
VDK_CHECK("conv2d_lrt bf16") { check_all(Number::kBFloat16, Precision::kIeee); }
VDK_CHECK("conv2d_lrt fp16") { check_all(Number::kHalf, Precision::kIeee); }
