#include "checks.h"

namespace vdk {
namespace {

Tensor max_pool2d(const Tensor& x, int64_t kernel_h, int64_t kernel_w, int64_t stride_h, int64_t stride_w,
                  int64_t pad_h, int64_t pad_w, int64_t dilation_h, int64_t dilation_w, bool ceil_mode,
                  bool relu) {
  const ScalarType type = x.scalar_type();
  STD_TORCH_CHECK((x.dim() == 3 || x.dim() == 4) && is_float(type),
                  "max_pool2d: x must be [N, C, H, W] or [C, H, W] of float32, bfloat16 or float16");
  const PoolSizes sizes{kernel_h, kernel_w,   stride_h,   stride_w, pad_h,
                        pad_w,    dilation_h, dilation_w, ceil_mode};
  return returned(max_pool2d_of(prepared(x, ScalarType::Float), sizes, relu), type);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(vdropkern, CPU, m) { m.impl("max_pool2d", TORCH_BOX(&max_pool2d)); }

}  // namespace vdk
