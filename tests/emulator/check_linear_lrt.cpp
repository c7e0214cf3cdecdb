#include <limits>

#include "array.h"
#include "check.h"
#include "random/philox.h"

namespace {

using emu::Array;
using vdk::Prior;
using vdk::cuda::LrtBackward;
using vdk::cuda::LrtForward;
using vdk::cuda::LrtShape;
using vdk::cuda::LrtWeights;
using vdk::cuda::Number;
using vdk::cuda::Precision;

// Both passes on a shape with remainders everywhere, against loops over the definition.
void check_lrt(Number type, Precision precision, int64_t batch, int64_t out, int64_t in, bool is_alpha,
               bool full, int multiprocessors) {
  const double loose = precision == Precision::kIeee && type == Number::kFloat ? 1e-4 : 3e-2;
  Array x(type, batch * in), mu(type, out * in), y(type, batch * out), dy(type, batch * out),
      dx(type, batch * in), dmu(type, out * in);
  const int64_t log_rows = full ? out : 1, logs = log_rows * in;
  std::vector<float> log(logs), std(batch * out, NAN), dlog(logs, NAN), dbias(out, NAN), bias(out);
  float kl = NAN;
  const float kl_scale = 0.5f;
  const int64_t seed = 0x123456789abcdef1;
  for (int64_t i = 0; i < batch * in; ++i) x.set(i, 0.25 * double(i * 7 % 17) - 2);
  for (int64_t i = 0; i < out * in; ++i) mu.set(i, 0.0625 * double(i * 5 % 13) - 0.375);
  for (int64_t i = 0; i < batch * out; ++i) dy.set(i, 0.25 * double(i * 3 % 11) - 1.25);
  for (int64_t i = 0; i < logs; ++i) log[i] = float((is_alpha ? -4 : -6) + 0.5 * double(i % 7));
  for (int64_t i = 0; i < out; ++i) bias[i] = float(i % 5) - 2;

  const LrtShape shape{batch, out, in, type, precision};
  const LrtWeights w{
      mu.data(), log.data(), log_rows, in, is_alpha, true, std::numeric_limits<float>::infinity()};
  const Prior prior = full ? Prior::kArd : Prior::kNone;
  const LrtForward f{shape, w, x.data(), bias.data(), &seed, 1e-8f, y.data(), std.data(), prior, &kl};
  std::vector<double> workspace(vdk::cuda::linear_lrt_workspace(f, multiprocessors) / sizeof(double));
  vdk::cuda::linear_lrt_forward(f, multiprocessors, workspace.data(), nullptr);
  const LrtBackward b{shape,     w,          dy.data(),   x.data(),     std.data(), &seed,
                      dx.data(), dmu.data(), dlog.data(), dbias.data(), prior,      &kl_scale};
  workspace.assign(vdk::cuda::linear_lrt_workspace(b, multiprocessors) / sizeof(double), NAN);
  vdk::cuda::linear_lrt_backward(b, multiprocessors, workspace.data(), nullptr);

  const auto e = [&](int64_t o, int64_t i) { return std::exp(double(log[full ? o * in + i : i])); };
  const auto m = [&](int64_t o, int64_t i) { return mu.get(o * in + i); };
  const auto s = [&](int64_t o, int64_t i) { return is_alpha ? e(o, i) * m(o, i) * m(o, i) : e(o, i); };
  std::vector<double> g_v(batch * out), expected_dlog(logs);
  for (int64_t r = 0; r < batch; ++r)
    for (int64_t o = 0; o < out; ++o) {
      double mean = bias[o], variance = 1e-8, z[4];
      for (int64_t i = 0; i < in; ++i) {
        const double v = x.get(r * in + i);
        mean += v * m(o, i);
        variance += v * v * s(o, i);
      }
      uint32_t words[4] = {uint32_t(r * ((out + 3) / 4) + o / 4), 0, 0, 0};
      vdk::philox4x32(words, uint32_t(seed), uint32_t(uint64_t(seed) >> 32));
      vdk::box_muller_f64(words, z);
      const double deviation = std::sqrt(variance);
      emu::expect_close(std[r * out + o], deviation, loose, "std");
      emu::expect_close(y.get(r * out + o), mean + deviation * z[o % 4], loose, "y");
      g_v[r * out + o] = dy.get(r * out + o) * z[o % 4] / (2 * deviation);
    }
  for (int64_t r = 0; r < batch; ++r)
    for (int64_t i = 0; i < in; ++i) {
      double sum = 0;
      for (int64_t o = 0; o < out; ++o)
        sum += dy.get(r * out + o) * m(o, i) + 2 * x.get(r * in + i) * g_v[r * out + o] * s(o, i);
      emu::expect_close(dx.get(r * in + i), sum, 4 * loose, "dx");
    }
  double expected_kl = 0;
  for (int64_t o = 0; o < out; ++o)
    for (int64_t i = 0; i < in; ++i) {
      double mean = 0, variance = 0;
      for (int64_t r = 0; r < batch; ++r) {
        const double v = x.get(r * in + i);
        mean += dy.get(r * out + o) * v;
        variance += g_v[r * out + o] * v * v;
      }
      const double a = is_alpha ? 1 : m(o, i) * m(o, i) + 1e-8, alpha = e(o, i) / a;
      const double slope = full ? -0.5 * kl_scale / (1 + alpha) : 0;
      if (full) expected_kl += 0.5 * std::log1p(1 / alpha);
      if (is_alpha)
        mean += 2 * variance * e(o, i) * m(o, i);
      else
        mean += slope * -2 * m(o, i) / a;
      emu::expect_close(dmu.get(o * in + i), mean, 4 * loose, "dmu");
      expected_dlog[full ? o * in + i : i] += variance * s(o, i) + slope;
    }
  for (int64_t i = 0; i < logs; ++i) emu::expect_close(dlog[i], expected_dlog[i], 8 * loose, "dlog");
  if (full) emu::expect_close(kl, expected_kl, 1e-4, "kl");
}

// Chunks of 16 bytes and without; a log of every weight and a shared one; a reduction in parts.
void check_all(Number type, Precision precision) {
  check_lrt(type, precision, 5, 24, 40, false, true, 1);
  check_lrt(type, precision, 67, 9, 21, true, true, 1);
  check_lrt(type, precision, 3, 8, type == Number::kFloat ? 260 : 520, true, false, 64);
}

}  // namespace

VDK_CHECK("linear_lrt ieee") { check_all(Number::kFloat, Precision::kIeee); }
VDK_CHECK("linear_lrt tf32x3") { check_all(Number::kFloat, Precision::kTf32x3); }
VDK_CHECK("linear_lrt tf32x3-mean") { check_all(Number::kFloat, Precision::kTf32x3Mean); }
VDK_CHECK("linear_lrt tf32") { check_all(Number::kFloat, Precision::kTf32); }
VDK_CHECK("linear_lrt bf16") { check_all(Number::kBFloat16, Precision::kIeee); }
VDK_CHECK("linear_lrt fp16") { check_all(Number::kHalf, Precision::kIeee); }
