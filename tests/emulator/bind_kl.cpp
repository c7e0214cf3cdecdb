#include "binding.h"
#include "cuda/simt.cuh"
#include "kl/cuda.h"

namespace emu {
namespace {

template <class E>
void kl(const Buffer* mu, const Buffer* log, int64_t n, int prior, double prior_sd, const Buffer* grad,
        const Buffer* dmu, const Buffer* dlog, const Buffer* value, const Buffer* workspace) {
  using T = vdk::ComputeOf<E>;
  vdk::cuda::kl(
      vdk::cuda::KlArgs<E>{pointer<E>(mu), pointer<E>(log), n, prior_of(prior, prior_sd), pointer<T>(grad),
                           pointer<E>(dmu), pointer<E>(dlog), pointer<T>(value), pointer<T>(workspace)},
      nullptr);
}

}  // namespace

VDK_BINDING(kl, m) {
  m.def("kl_float32", &kl<float>);
  m.def("kl_float64", &kl<double>);
  m.def("kl_float16", &kl<vdk::Float16>);
  m.def("kl_bfloat16", &kl<vdk::BFloat16>);
  m.def("kl_workspace", &vdk::cuda::kl_workspace);
}

}  // namespace emu
