#include "../spmm/binding_cuda.h"
#include "checks.h"
#include "cuda.h"

namespace vdk {
namespace {

cuda::Extent extent(const std::vector<int64_t>& pair) { return {pair[0], pair[1]}; }

template <class E>
Tensor run(const Gpu& gpu, const Tensor& x, const CsrOnGpu& w, const Tensor& order,
           const OptionalTensor& bias, const ConvSizes& sizes, int64_t groups, bool relu) {
  const Tensor y = gpu.empty({sizes.batch, w.out(), sizes.out_h, sizes.out_w}, x.scalar_type());
  cuda::SparseConvArgs<E> args{};
  args.batch = sizes.batch, args.channels = sizes.channels, args.outputs = w.out(), args.groups = groups;
  args.nnz = w.values.numel();
  args.image = {sizes.height, sizes.width}, args.out = {sizes.out_h, sizes.out_w};
  args.kernel = extent(sizes.kernel), args.stride = extent(sizes.stride);
  args.padding = extent(sizes.padding), args.dilation = extent(sizes.dilation);
  args.x = pointer<E>(x), args.values = pointer<float>(w.values);
  args.cols = pointer<int32_t>(w.cols), args.rows = pointer<int32_t>(w.rows);
  args.order = pointer<int32_t>(order), args.bias = pointer<float>(bias), args.relu = relu;
  args.y = output<E>(y);
  const Tensor workspace = gpu.workspace(cuda::sparse_conv_workspace(args));
  cuda::sparse_conv2d(args, gpu.multiprocessors(), workspace.mutable_data_ptr(), gpu.stream());
  return y;
}

Tensor sparse_conv2d_ordered(const Tensor& given, const Tensor& values, const Tensor& cols,
                             const Tensor& rows, const Tensor& given_order, const OptionalTensor& given_bias,
                             std::vector<int64_t> kernel, std::vector<int64_t> stride,
                             std::vector<int64_t> padding, std::vector<int64_t> dilation, int64_t groups,
                             bool relu) {
  const char* const op = "sparse_conv2d_ordered";
  const Gpu gpu(given);
  require_on_gpu(op, values, cols, rows, given_order, given_bias);
  const ConvSizes sizes(op, given, kernel, stride, padding, dilation);
  check_pattern(op, values, cols, rows);
  STD_TORCH_CHECK(values.scalar_type() != ScalarType::Double, op, ": values must not be float64");
  const CsrOnGpu w(op, values, cols, rows, ScalarType::Float);
  STD_TORCH_CHECK(groups > 0 && sizes.channels % groups == 0 && w.out() % groups == 0, op,
                  ": channels of x and outputs must be multiples of groups, got ", sizes.channels, ", ",
                  w.out(), " and ", groups);
  const OptionalTensor bias = prepared(given_bias, ScalarType::Float);
  const Tensor order = prepared(given_order, ScalarType::Int);
  STD_TORCH_CHECK((!bias || bias->numel() == w.out()) && order.numel() == w.out(), op,
                  ": bias and order must be [O]");
  if (given.scalar_type() == ScalarType::BFloat16)
    return run<BFloat16>(gpu, prepared(given, ScalarType::BFloat16), w, order, bias, sizes, groups, relu);
  const Tensor x = prepared(given, ScalarType::Float);
  return returned(run<float>(gpu, x, w, order, bias, sizes, groups, relu), given.scalar_type());
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(vdropkern, CUDA, m) {
  m.impl("sparse_conv2d_ordered", TORCH_BOX(&sparse_conv2d_ordered));
}

}  // namespace vdk
