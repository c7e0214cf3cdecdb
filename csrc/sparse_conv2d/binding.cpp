#include "../common/binding.h"
#include "checks.h"
#include "sparse_conv2d.h"

namespace vdk {
namespace {

// As ops/sparse_conv2d/plane.py makes it, which decides the band.
ConvPlane plane_of(const std::vector<int64_t>& kernel, const std::vector<int64_t>& stride,
                   const std::vector<int64_t>& dilation, int64_t band, int64_t out_width) {
  return {stride[0], stride[1], band + (kernel[0] - 1) * dilation[0] / stride[0],
          out_width + (kernel[1] - 1) * dilation[1] / stride[1], band};
}

Tensor sparse_conv2d(const Tensor& given, const Tensor& packed, int64_t out_channels,
                     std::vector<int64_t> kernel, std::vector<int64_t> stride, std::vector<int64_t> padding,
                     std::vector<int64_t> dilation, int64_t band, bool relu) {
  const ScalarType type = given.scalar_type();
  const ConvSizes sizes("sparse_conv2d", given, kernel, stride, padding, dilation);
  Pack pack;
  STD_TORCH_CHECK(packed.scalar_type() == ScalarType::Byte && packed.is_contiguous() &&
                      read_pack(packed.const_data_ptr(), packed.numel(), pack),
                  "sparse_conv2d: packed is no matrix that ops.spmm.pack made");
  const Tensor x = prepared(given, ScalarType::Float);
  const int64_t n = sizes.batch, c = sizes.channels, out_h = sizes.out_h, out_w = sizes.out_w;
  STD_TORCH_CHECK(band > 0 && band <= out_h, "sparse_conv2d: band must lie in [1, ", out_h, "]");
  const ConvPlane plane = plane_of(kernel, stride, dilation, band, out_w);
  STD_TORCH_CHECK(pack.h.in == c * kernel[0] * kernel[1] && pack.h.out == out_channels &&
                      pack.h.plane == plane.size() && pack.columns[pack.h.blocks] == c,
                  "sparse_conv2d: packed was made for another convolution or image size");
  const Tensor y = empty({n, out_channels, out_h, out_w}, ScalarType::Float);
  if (y.numel() > 0) {
    using Kernel = void (*)(const SparseConvArgs&, const Parallel&);
    VDK_SELECT_AS(Kernel, sparse_conv2d)
    ({pack, plane, n, c, sizes.height, sizes.width, padding[0], padding[1], out_h, out_w, relu,
      pointer<float>(x), output<float>(y)},
     torch_parallel());
  }
  return returned(y, type);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(vdropkern, CPU, m) { m.impl("sparse_conv2d", TORCH_BOX(&sparse_conv2d)); }

}  // namespace vdk
