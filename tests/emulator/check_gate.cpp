#include "check.h"
#include "cuda/simt.cuh"
#include "gate/cuda.h"
#include "random/philox.h"

namespace {

using vdk::GateKind;
using vdk::GateShape;

const int64_t kSeed = 77;
constexpr double kTemperature = 2.0 / 3, kLow = -0.1, kHigh = 1.1;

uint32_t word_of(int64_t row, int64_t channel, int64_t channels, double& normal) {
  const uint64_t counter = uint64_t(row * ((channels + 3) / 4) + channel / 4);
  uint32_t words[4] = {uint32_t(counter), uint32_t(counter >> 32), 0, 0};
  double z[4];
  vdk::philox4x32(words, uint32_t(kSeed), uint32_t(uint64_t(kSeed) >> 32));
  vdk::box_muller_f64(words, z);
  normal = z[channel % 4];
  return words[channel % 4];
}

struct Drawn {
  double theta, by_location, by_log_sigma2;
};

Drawn draw(GateKind kind, double a, double b, int64_t row, int64_t channel, int64_t channels) {
  double normal;
  const uint32_t word = word_of(row, channel, channels, normal);
  const double u = (word + 0.5) * 0x1p-32, rest = (~word + 0.5) * 0x1p-32;
  if (kind == GateKind::kNormal) {
    const double noise = std::exp(0.5 * b) * normal;
    return {a + noise, 1, 0.5 * noise};
  }
  if (kind == GateKind::kSwitch) return {a, 1, 0};
  const double s = 1 / (1 + std::exp(-(std::log(u) - std::log(rest) + a) / kTemperature));
  if (kind == GateKind::kHardConcrete) {
    const double wide = s * (kHigh - kLow) + kLow, slope = (kHigh - kLow) / kTemperature * s * (1 - s);
    return {std::fmin(1, std::fmax(0, wide)), wide > 0 && wide < 1 ? slope : 0, 0};
  }
  const double theta = (1 - s) * (1 + std::exp(a));
  return {theta, theta * (1 / (1 + std::exp(-a)) - s / kTemperature), 0};
}

// Results, and the sums of gradients, of x = 1 - 0.25 (i % 7) and dy = 0.5 - 0.125 (i % 5). Of the
// log-normal, whose formula the tests in Python hold, that both are finite and gates in (0, 1].
template <class T>
void check_gate(GateShape s, GateKind kind, bool per_sample, double tolerance) {
  const size_t n = size_t(s.rows * s.channels * s.spatial), channels = size_t(s.channels);
  std::vector<T> x(n), dy(n), y(n), dx(n), a(channels), b(channels), da(channels), db(channels);
  std::vector<T> workspace(size_t(vdk::cuda::gate_workspace(s, kind)));
  for (size_t i = 0; i < n; ++i) x[i] = T(1 - 0.25 * double(i % 7)), dy[i] = T(0.5 - 0.125 * double(i % 5));
  for (size_t c = 0; c < channels; ++c) a[c] = T(0.25 * double(c % 9) - 1), b[c] = T(-0.5 * double(c % 5));
  const bool own = kind == GateKind::kNormal || kind == GateKind::kLogNormal;
  const bool log_normal = kind == GateKind::kLogNormal;
  vdk::cuda::GateArgs<T> args{s,
                              kind,
                              a.data(),
                              own ? b.data() : nullptr,
                              &kSeed,
                              per_sample,
                              kTemperature,
                              log_normal ? -20 : kLow,
                              log_normal ? 0 : kHigh,
                              x.data(),
                              nullptr,
                              y.data(),
                              nullptr,
                              nullptr,
                              nullptr};
  vdk::cuda::gate(args, nullptr);
  args.given = dy.data();
  args.x = x.data();
  args.out = dx.data();
  args.d_location = da.data();
  args.d_log_sigma2 = own ? db.data() : nullptr;
  args.workspace = workspace.data();
  vdk::cuda::gate(args, nullptr);
  std::vector<double> by_a(channels), by_b(channels);
  for (int64_t row = 0; row < s.rows; ++row)
    for (int64_t c = 0; c < s.channels; ++c) {
      const Drawn gate =
          draw(kind, double(a[size_t(c)]), double(b[size_t(c)]), per_sample ? row : 0, c, s.channels);
      for (int64_t p = 0; p < s.spatial; ++p) {
        const size_t i = size_t(s.channels_last ? (row * s.spatial + p) * s.channels + c
                                                : (row * s.channels + c) * s.spatial + p);
        if (log_normal) {
          const double theta = double(y[i]) / double(x[i]);
          if (x[i] != 0 && !(theta > 0 && theta < 1 + tolerance)) emu::expect_close(theta, 0.5, 0, "gate");
          if (x[i] != 0) emu::expect_close(double(dx[i]), double(dy[i]) * theta, tolerance, "dx");
          continue;
        }
        emu::expect_close(double(y[i]), double(x[i]) * gate.theta, tolerance, "y");
        emu::expect_close(double(dx[i]), double(dy[i]) * gate.theta, tolerance, "dx");
        by_a[size_t(c)] += double(x[i]) * double(dy[i]) * gate.by_location;
        by_b[size_t(c)] += double(x[i]) * double(dy[i]) * gate.by_log_sigma2;
      }
    }
  for (size_t c = 0; c < channels; ++c) {
    if (log_normal) {
      emu::expect_close(double(da[c]) * 0 + double(db[c]) * 0, 0, 0, "finite gradients");
      continue;
    }
    emu::expect_close(double(da[c]), by_a[c], 10 * tolerance, "d_location");
    if (own) emu::expect_close(double(db[c]), by_b[c], 10 * tolerance, "d_log_sigma2");
  }
}

template <class T>
void check_shapes(GateKind kind, double tolerance) {
  check_gate<T>({3, 5, 21, false}, kind, true, tolerance);
  check_gate<T>({40, 35, 4, false}, kind, false, tolerance);
  check_gate<T>({70, 9, 1, false}, kind, true, tolerance);
  check_gate<T>({2, 12, 30, true}, kind, true, tolerance);
}

}  // namespace

VDK_CHECK("gate normal") {
  check_shapes<float>(GateKind::kNormal, 1e-5);
  check_shapes<double>(GateKind::kNormal, 1e-12);
}
VDK_CHECK("gate hard-concrete") { check_shapes<float>(GateKind::kHardConcrete, 1e-5); }
VDK_CHECK("gate concrete") {
  check_shapes<float>(GateKind::kConcrete, 2e-5);
  check_shapes<double>(GateKind::kConcrete, 1e-11);
}
VDK_CHECK("gate switch") { check_shapes<float>(GateKind::kSwitch, 1e-6); }
VDK_CHECK("gate log-normal") {
  check_shapes<float>(GateKind::kLogNormal, 1e-5);
  check_shapes<double>(GateKind::kLogNormal, 1e-12);
}
VDK_CHECK("gate in parts") { check_gate<float>({1, 2, 4099, false}, GateKind::kNormal, true, 1e-5); }
