#include "binding.h"
#include "cuda/simt.cuh"
#include "spmm/cuda.h"

namespace emu {
namespace {

template <class V>
vdk::cuda::CsrMatrix<V> matrix(int64_t out, int64_t in, int64_t nnz, const Buffer* values, const Buffer* cols,
                               const Buffer* rows) {
  return {out, in, nnz, pointer<V>(values), pointer<int32_t>(cols), pointer<int32_t>(rows)};
}

template <class E, class V>
void spmm(int64_t batch, int64_t out, int64_t in, int64_t nnz, const Buffer* values, const Buffer* cols,
          const Buffer* rows, const Buffer* order, const Buffer* x, const Buffer* bias, bool relu,
          const Buffer* workspace, const Buffer* y) {
  vdk::cuda::spmm(
      vdk::cuda::SpmmArgs<E, V>{matrix<V>(out, in, nnz, values, cols, rows), batch, pointer<int32_t>(order),
                                pointer<E>(x), pointer<float>(bias), relu, pointer<E>(y)},
      pointer<void>(workspace), nullptr);
}

template <class E, class V>
size_t workspace(int64_t batch, int64_t out, int64_t in) {
  vdk::cuda::SpmmArgs<E, V> args{};
  args.w.out = out, args.w.in = in, args.batch = batch;
  return vdk::cuda::spmm_workspace(args);
}

// needs: of dx, dvalues and dbias, which are given then.
template <class E, class V>
size_t gradient_workspace(int64_t batch, int64_t out, int64_t in, int64_t nnz,
                          const std::vector<bool>& needs) {
  vdk::cuda::SpmmGradientArgs<E, V> args{};
  args.w.out = out, args.w.in = in, args.w.nnz = nnz, args.batch = batch;
  E some{};
  float number = 0;
  args.dx = needs[0] ? &some : nullptr;
  args.dvalues = needs[1] ? &number : nullptr;
  args.dbias = needs[2] ? &number : nullptr;
  return vdk::cuda::spmm_workspace(args);
}

template <class E, class V>
void gradient(int64_t batch, int64_t out, int64_t in, int64_t nnz, const Buffer* values, const Buffer* cols,
              const Buffer* rows, const Buffer* x, const Buffer* dy, const Buffer* workspace,
              const Buffer* dx, const Buffer* dvalues, const Buffer* dbias) {
  vdk::cuda::spmm_backward(
      vdk::cuda::SpmmGradientArgs<E, V>{matrix<V>(out, in, nnz, values, cols, rows), batch, pointer<E>(x),
                                        pointer<E>(dy), pointer<E>(dx), pointer<float>(dvalues),
                                        pointer<float>(dbias)},
      pointer<void>(workspace), nullptr);
}

template <class E, class V>
void define(py::module_& m, const std::string& types) {
  m.def(("spmm_" + types).c_str(), &spmm<E, V>);
  m.def(("spmm_workspace_" + types).c_str(), &workspace<E, V>);
  m.def(("spmm_backward_" + types).c_str(), &gradient<E, V>);
  m.def(("spmm_backward_workspace_" + types).c_str(), &gradient_workspace<E, V>);
}

}  // namespace

VDK_BINDING(spmm, m) {
  define<float, float>(m, "float32_float32");
  define<vdk::BFloat16, float>(m, "bfloat16_float32");
  define<vdk::BFloat16, vdk::BFloat16>(m, "bfloat16_bfloat16");
}

}  // namespace emu
