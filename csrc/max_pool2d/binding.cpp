#include <limits>

#include "../common/binding.h"
#include "max_pool2d.h"

namespace vdk {
namespace {

// One axis of the pooling, its output as long as torch's.
PoolAxis axis_of(int64_t in, int64_t kernel, int64_t stride, int64_t pad, int64_t dilation, bool ceil_mode) {
  STD_TORCH_CHECK(kernel > 0 && stride > 0 && pad >= 0 && dilation > 0, "max_pool2d: a size is out of range");
  constexpr int64_t kMost = int64_t{1} << 31;
  STD_TORCH_CHECK(kernel < kMost && stride < kMost && dilation < kMost && in < kMost,
                  "max_pool2d: a size is too large");
  PoolAxis axis{in, 0, kernel, stride, pad, dilation};
  STD_TORCH_CHECK(pad <= kernel / 2, "max_pool2d: padding is more than half of the kernel");
  const int64_t room = in + 2 * pad - axis.reach() - 1;
  STD_TORCH_CHECK(room + (ceil_mode ? stride - 1 : 0) >= 0, "max_pool2d: the image is too small");
  axis.out = (room + (ceil_mode ? stride - 1 : 0)) / stride + 1;
  if (ceil_mode && (axis.out - 1) * stride >= in + pad) --axis.out;  // it would begin behind the image
  STD_TORCH_CHECK(axis.out > 0, "max_pool2d: the image is too small");
  return axis;
}

Tensor max_pool2d(const Tensor& given, int64_t kernel_h, int64_t kernel_w, int64_t stride_h, int64_t stride_w,
                  int64_t pad_h, int64_t pad_w, int64_t dilation_h, int64_t dilation_w, bool ceil_mode,
                  bool relu) {
  const ScalarType type = given.scalar_type();
  const int64_t dims = given.dim();
  STD_TORCH_CHECK((dims == 3 || dims == 4) &&
                      (type == ScalarType::Float || type == ScalarType::BFloat16 || type == ScalarType::Half),
                  "max_pool2d: x must be [N, C, H, W] or [C, H, W] of float32, bfloat16 or float16");
  const Tensor x = prepared(given, ScalarType::Float);
  MaxPoolArgs args{};
  args.h = axis_of(x.size(dims - 2), kernel_h, stride_h, pad_h, dilation_h, ceil_mode);
  args.w = axis_of(x.size(dims - 1), kernel_w, stride_w, pad_w, dilation_w, ceil_mode);
  args.planes = dims == 4 ? x.size(0) * x.size(1) : x.size(0);
  std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end());
  sizes[size_t(dims) - 2] = args.h.out, sizes[size_t(dims) - 1] = args.w.out;
  const Tensor y = empty(sizes, ScalarType::Float);
  args.least = relu ? 0.0f : -std::numeric_limits<float>::infinity();
  args.x = pointer<float>(x), args.y = output<float>(y);
  using Kernel = void (*)(const MaxPoolArgs&, const Parallel&);
  if (args.planes > 0) VDK_SELECT_AS(Kernel, max_pool2d)(args, torch_parallel());
  return returned(y, type);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(vdropkern, CPU, m) { m.impl("max_pool2d", TORCH_BOX(&max_pool2d)); }

}  // namespace vdk
