#include "../common/binding.h"
#include "packed.h"

namespace vdk {
namespace {

Tensor sparse_conv2d(const Tensor& given, const Tensor& packed, int64_t out_channels,
                     std::vector<int64_t> kernel, std::vector<int64_t> stride, std::vector<int64_t> padding,
                     std::vector<int64_t> dilation, int64_t band, bool relu) {
  const ConvSizes sizes("sparse_conv2d", given, kernel, stride, padding, dilation);
  const Tensor x = prepared(given, ScalarType::Float);
  const Tensor y = sparse_conv2d_of("sparse_conv2d", x, packed, out_channels, sizes, band, relu);
  return returned(y, given.scalar_type());
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(vdropkern, CPU, m) { m.impl("sparse_conv2d", TORCH_BOX(&sparse_conv2d)); }

}  // namespace vdk
