#include "binding.h"
#include "kl/cuda.h"

namespace emu {
namespace {

template <class T>
void kl(const Buffer* mu, const Buffer* log, int64_t n, int prior, double prior_sd, const Buffer* grad,
        const Buffer* dmu, const Buffer* dlog, const Buffer* value, const Buffer* workspace) {
  vdk::cuda::kl(
      vdk::cuda::KlArgs<T>{pointer<T>(mu), pointer<T>(log), n, prior_of(prior, prior_sd), pointer<T>(grad),
                           pointer<T>(dmu), pointer<T>(dlog), pointer<T>(value), pointer<T>(workspace)},
      nullptr);
}

}  // namespace

VDK_BINDING(kl, m) {
  m.def("kl_float", &kl<float>);
  m.def("kl_double", &kl<double>);
  m.def("kl_workspace", &vdk::cuda::kl_workspace);
}

}  // namespace emu
