#include "binding.h"
#include "cuda/simt.cuh"
#include "weight_noise/cuda.h"

namespace emu {
namespace {

template <class E>
void weight_noise(const Buffer* mu, const Buffer* log, const Buffer* grad, const Buffer* out, int64_t rows,
                  int64_t cols, int64_t log_rows, int64_t log_cols, bool is_alpha, const Buffer* seed,
                  const Buffer* dlog, const Buffer* dlog_sums, const Buffer* workspace) {
  using C = vdk::ComputeOf<E>;
  vdk::cuda::weight_noise(
      vdk::cuda::WeightNoiseArgs<E>{pointer<E>(mu), pointer<E>(log), pointer<E>(grad), pointer<E>(out), rows,
                                    cols, log_rows, log_cols, is_alpha, pointer<int64_t>(seed),
                                    pointer<E>(dlog), pointer<C>(dlog_sums), pointer<C>(workspace)},
      nullptr);
}

}  // namespace

VDK_BINDING(weight_noise, m) {
  m.def("weight_noise_workspace", &vdk::cuda::weight_noise_workspace);
  m.def("weight_noise_float32", &weight_noise<float>);
  m.def("weight_noise_float64", &weight_noise<double>);
  m.def("weight_noise_float16", &weight_noise<vdk::Float16>);
  m.def("weight_noise_bfloat16", &weight_noise<vdk::BFloat16>);
}

}  // namespace emu
