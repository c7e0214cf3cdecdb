#include "binding.h"
#include "cuda/simt.cuh"
#include "mul_noise/cuda.h"

namespace emu {
namespace {

template <class T>
void mul_noise(const Buffer* x, const Buffer* y, int64_t rows, int64_t cols, int noise, double strength,
               const Buffer* seed) {
  vdk::cuda::mul_noise(vdk::cuda::MulNoiseArgs<T>{pointer<T>(x), pointer<T>(y), rows, cols,
                                                  vdk::cuda::Noise(noise), strength, pointer<int64_t>(seed)},
                       nullptr);
}

}  // namespace

VDK_BINDING(mul_noise, m) {
  m.def("mul_noise_float32", &mul_noise<float>);
  m.def("mul_noise_float64", &mul_noise<double>);
  m.def("mul_noise_float16", &mul_noise<vdk::Float16>);
  m.def("mul_noise_bfloat16", &mul_noise<vdk::BFloat16>);
}

}  // namespace emu
