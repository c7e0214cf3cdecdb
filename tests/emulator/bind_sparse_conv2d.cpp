#include "binding.h"
#include "cuda/simt.cuh"
#include "sparse_conv2d/cuda.h"

namespace emu {
namespace {

// batch, channels, outputs, groups, nnz; image, out, kernel, stride, padding and dilation, height first.
template <class E>
vdk::cuda::SparseConvArgs<E> geometry(const std::vector<int64_t>& s) {
  vdk::cuda::SparseConvArgs<E> args{};
  args.batch = s[0], args.channels = s[1], args.outputs = s[2], args.groups = s[3], args.nnz = s[4];
  args.image = {s[5], s[6]}, args.out = {s[7], s[8]}, args.kernel = {s[9], s[10]};
  args.stride = {s[11], s[12]}, args.padding = {s[13], s[14]}, args.dilation = {s[15], s[16]};
  return args;
}

template <class E>
void conv2d(const std::vector<int64_t>& sizes, const Buffer* values, const Buffer* cols, const Buffer* rows,
            const Buffer* order, const Buffer* x, const Buffer* bias, bool relu, int multiprocessors,
            const Buffer* workspace, const Buffer* y) {
  vdk::cuda::SparseConvArgs<E> args = geometry<E>(sizes);
  args.x = pointer<E>(x), args.values = pointer<float>(values), args.cols = pointer<int32_t>(cols);
  args.rows = pointer<int32_t>(rows), args.order = pointer<int32_t>(order);
  args.bias = pointer<float>(bias), args.relu = relu, args.y = pointer<E>(y);
  vdk::cuda::sparse_conv2d(args, multiprocessors, pointer<void>(workspace), nullptr);
}

template <class E>
void define(py::module_& m, const std::string& type) {
  m.def(("sparse_conv2d_" + type).c_str(), &conv2d<E>);
  m.def(("sparse_conv_workspace_" + type).c_str(), [](const std::vector<int64_t>& sizes) {
    return vdk::cuda::sparse_conv_workspace(geometry<E>(sizes));
  });
}

}  // namespace

VDK_BINDING(sparse_conv2d, m) {
  define<float>(m, "float32");
  define<vdk::BFloat16>(m, "bfloat16");
}

}  // namespace emu
