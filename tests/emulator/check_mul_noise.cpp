#include "check.h"
#include "cuda/simt.cuh"
#include "mul_noise/cuda.h"
#include "random/philox.h"

namespace {

using vdk::cuda::Noise;

constexpr int64_t kSeed = -77;

template <class T>
T stored(double x) {
  if constexpr (sizeof(T) == 2)
    return vdk::round_to<T>(float(x));
  else
    return T(x);
}
double value(double x) { return x; }
template <class H>
double value(H x) {
  return vdk::to_float(x);
}

template <class T>
void check_mul_noise(double tolerance) {
  const int64_t shapes[][2] = {{3, 700}, {300, 5}, {1, 2050}};
  for (const auto& shape : shapes)
    for (Noise noise : {Noise::kBernoulli, Noise::kGaussian}) {
      const int64_t rows = shape[0], cols = shape[1], groups = (cols + 3) / 4;
      std::vector<T> x(size_t(rows * cols)), y(x.size());
      for (size_t i = 0; i < x.size(); ++i) x[i] = stored<T>(0.25 * double(i % 9) - 1);
      vdk::cuda::mul_noise(vdk::cuda::MulNoiseArgs<T>{x.data(), y.data(), rows, cols, noise, 0.25, &kSeed},
                           nullptr);
      for (int64_t i = 0; i < rows * cols; ++i) {
        const uint64_t counter = uint64_t(i / cols * groups + i % cols / 4);
        uint32_t words[4] = {uint32_t(counter), uint32_t(counter >> 32), 0, 0};
        double z[4];
        vdk::philox4x32(words, uint32_t(kSeed), uint32_t(uint64_t(kSeed) >> 32));
        vdk::box_muller_f64(words, z);
        const int64_t j = i % cols % 4;
        const double xi = noise == Noise::kGaussian ? 1 + 0.5 * z[j] : words[j] < 1u << 30 ? 0 : 4.0 / 3;
        emu::expect_close(value(y[i]), value(x[i]) * xi, tolerance, "y");
      }
    }
}

}  // namespace

VDK_CHECK("mul_noise float") { check_mul_noise<float>(1e-5); }
VDK_CHECK("mul_noise double") { check_mul_noise<double>(1e-13); }
VDK_CHECK("mul_noise float16") { check_mul_noise<vdk::Float16>(1e-3); }
VDK_CHECK("mul_noise bfloat16") { check_mul_noise<vdk::BFloat16>(1e-2); }
