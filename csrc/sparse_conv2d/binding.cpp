#include "../common/binding.h"
#include "packed.h"

namespace vdk {
namespace {

Tensor sparse_conv2d(const Tensor& given, const Tensor& packed, int64_t out_channels,
                     std::vector<int64_t> window, int64_t band, bool relu) {
  STD_TORCH_CHECK(window.size() == 8, "sparse_conv2d: window must be kernel size, stride, padding, dilation");
  const int64_t* const n = window.data();
  const ConvSizes sizes("sparse_conv2d", given, {n[0], n[1]}, {n[2], n[3]}, {n[4], n[5]}, {n[6], n[7]});
  const Tensor x = prepared(given, ScalarType::Float);
  const Tensor y = sparse_conv2d_of("sparse_conv2d", x, packed, out_channels, sizes, band, relu);
  return returned(y, given.scalar_type());
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(vdropkern, CPU, m) { m.impl("sparse_conv2d", TORCH_BOX(&sparse_conv2d)); }

}  // namespace vdk
