// What the bindings of max pooling check.
#pragma once
#include "../common/binding.h"
#include "max_pool2d.h"

namespace vdk {

// What is computed in float32.
inline bool is_float(ScalarType type) {
  return type == ScalarType::Float || type == ScalarType::BFloat16 || type == ScalarType::Half;
}

// Of a pooling: rows and columns of its windows, strides, padding, dilation, and how lengths are rounded.
struct PoolSizes {
  int64_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  bool ceil_mode;
};

// One axis of the pooling, its output as long as torch's.
inline PoolAxis pool_axis(int64_t in, int64_t kernel, int64_t stride, int64_t pad, int64_t dilation,
                          bool ceil_mode) {
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

// y of x, which is [N, C, H, W] or [C, H, W], float32 and row-major.
inline Tensor max_pool2d_of(const Tensor& x, const PoolSizes& s, bool relu) {
  const auto dims = size_t(x.dim());
  MaxPoolArgs args{};
  std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end());
  args.h = pool_axis(sizes[dims - 2], s.kernel_h, s.stride_h, s.pad_h, s.dilation_h, s.ceil_mode);
  args.w = pool_axis(sizes[dims - 1], s.kernel_w, s.stride_w, s.pad_w, s.dilation_w, s.ceil_mode);
  args.planes = dims == 4 ? sizes[0] * sizes[1] : sizes[0];
  sizes[dims - 2] = args.h.out, sizes[dims - 1] = args.w.out;
  const Tensor y = empty(sizes, ScalarType::Float);
  args.least = relu ? 0.0f : -__builtin_inff();
  args.x = pointer<float>(x), args.y = output<float>(y);
  using Kernel = void (*)(const MaxPoolArgs&, const Parallel&);
  if (args.planes > 0) VDK_SELECT_AS(Kernel, max_pool2d)(args, torch_parallel());
  return y;
}

}  // namespace vdk
