#include "binding.h"
#include "cuda/simt.cuh"
#include "philox_normal/cuda.h"

namespace emu {
namespace {

void bits(const Buffer* out, int64_t rows, int64_t cols, const Buffer* seed) {
  vdk::cuda::philox_bits(pointer<int64_t>(out), rows, cols, pointer<int64_t>(seed), nullptr);
}
template <class T>
void normal(const Buffer* out, int64_t rows, int64_t cols, const Buffer* seed) {
  vdk::cuda::philox_normal(pointer<T>(out), rows, cols, pointer<int64_t>(seed), nullptr);
}

}  // namespace

VDK_BINDING(philox_normal, m) {
  m.def("philox_bits", &bits);
  m.def("philox_normal_float32", &normal<float>);
  m.def("philox_normal_float64", &normal<double>);
  m.def("philox_normal_float16", &normal<vdk::Float16>);
  m.def("philox_normal_bfloat16", &normal<vdk::BFloat16>);
}

}  // namespace emu
