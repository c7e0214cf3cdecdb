#include "binding.h"
#include "cuda/simt.cuh"
#include "weight_mask/cuda.h"

namespace emu {
namespace {

template <class E>
void weight_mask(const Buffer* w, int64_t rows, int64_t cols, int granularity, const Buffer* gamma,
                 const Buffer* alpha, const Buffer* seed, const Buffer* threshold, const Buffer* given,
                 const Buffer* out, const Buffer* workspace) {
  using C = vdk::ComputeOf<E>;
  vdk::cuda::weight_mask(
      vdk::cuda::WeightMaskArgs<E>{pointer<E>(w), rows, cols, vdk::Granularity(granularity),
                                   pointer<double>(gamma), pointer<double>(alpha), pointer<int64_t>(seed),
                                   pointer<C>(threshold), pointer<E>(given), pointer<E>(out),
                                   pointer<unsigned char>(workspace)},
      nullptr);
}

int64_t workspace(int64_t rows, int64_t cols, int granularity, int64_t size) {
  return vdk::cuda::weight_mask_workspace(rows, cols, vdk::Granularity(granularity), size);
}

}  // namespace

VDK_BINDING(weight_mask, m) {
  m.def("weight_mask_workspace", &workspace);
  m.def("weight_mask_float32", &weight_mask<float>);
  m.def("weight_mask_float64", &weight_mask<double>);
  m.def("weight_mask_float16", &weight_mask<vdk::Float16>);
  m.def("weight_mask_bfloat16", &weight_mask<vdk::BFloat16>);
}

}  // namespace emu
