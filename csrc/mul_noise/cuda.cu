#include "cuda.cuh"

#include <cmath>

namespace vdk {
namespace cuda {
namespace {

template <class T>
void mul(const MulNoiseArgs<T>& a, void* stream) {
  using C = ComputeOf<T>;
  const bool bernoulli = a.noise == Noise::kBernoulli;
  const double below = std::floor(a.strength * 0x1p32);
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % alignof(Four<T>) == 0; };
  // without padding the whole tensor is one row
  const bool whole = a.cols % 4 == 0;
  const MulNoiseKernelArgs<T> args{a.x,
                                   a.y,
                                   whole ? 1 : a.rows,
                                   whole ? a.rows * a.cols : a.cols,
                                   a.seed,
                                   bernoulli && below > 0 ? uint32_t(std::fmin(below, 0xFFFFFFFFu)) : 0,
                                   C(bernoulli ? 1 / (1 - a.strength) : std::sqrt(a.strength)),
                                   (whole || a.rows == 1) && aligned(a.x) && aligned(a.y)};
  const Grid grid{ceil_div(args.rows * groups_of(args.cols), int64_t(kMulNoiseThreads) * kMulNoiseGroups)};
  if (bernoulli)
    VDK_LAUNCH((mul_noise_kernel<T, Noise::kBernoulli>), grid, kMulNoiseThreads, 0, stream, args);
  else
    VDK_LAUNCH((mul_noise_kernel<T, Noise::kGaussian>), grid, kMulNoiseThreads, 0, stream, args);
}

}  // namespace

void mul_noise(const MulNoiseArgs<float>& args, void* stream) { mul(args, stream); }
void mul_noise(const MulNoiseArgs<double>& args, void* stream) { mul(args, stream); }
void mul_noise(const MulNoiseArgs<Float16>& args, void* stream) { mul(args, stream); }
void mul_noise(const MulNoiseArgs<BFloat16>& args, void* stream) { mul(args, stream); }

}  // namespace cuda
}  // namespace vdk
