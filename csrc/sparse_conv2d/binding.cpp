#include "sparse_conv2d.h"

#include "../common/binding.h"

namespace vdk {
namespace {

// As ops/sparse_conv2d/plane.py makes it, which decides the band.
ConvPlane plane_of(const std::vector<int64_t>& kernel, const std::vector<int64_t>& stride,
                   const std::vector<int64_t>& dilation, int64_t band, int64_t out_width) {
  return {stride[0], stride[1], band + (kernel[0] - 1) * dilation[0] / stride[0],
          out_width + (kernel[1] - 1) * dilation[1] / stride[1], band};
}

void check_pairs(std::initializer_list<const std::vector<int64_t>*> pairs) {
  for (const auto* pair : pairs)
    STD_TORCH_CHECK(pair->size() == 2, "sparse_conv2d: kernel_size, stride, padding, dilation must be pairs");
}

Tensor sparse_conv2d(const Tensor& given, const Tensor& packed, int64_t out_channels,
                     std::vector<int64_t> kernel, std::vector<int64_t> stride, std::vector<int64_t> padding,
                     std::vector<int64_t> dilation, int64_t band, bool relu) {
  const ScalarType type = given.scalar_type();
  STD_TORCH_CHECK(given.dim() == 4 && type != ScalarType::Double,
                  "sparse_conv2d: x must be [N, C, H, W], not float64");
  check_pairs({&kernel, &stride, &padding, &dilation});
  for (int i = 0; i < 2; ++i)
    STD_TORCH_CHECK(kernel[i] > 0 && stride[i] > 0 && padding[i] >= 0 && dilation[i] > 0,
                    "sparse_conv2d: a size is out of range");
  Pack pack;
  STD_TORCH_CHECK(packed.scalar_type() == ScalarType::Byte && packed.is_contiguous() &&
                      read_pack(packed.const_data_ptr(), packed.numel(), pack),
                  "sparse_conv2d: packed is no matrix that ops.spmm.pack made");
  const Tensor x = prepared(given, ScalarType::Float);
  const int64_t n = x.size(0), c = x.size(1), h = x.size(2), w = x.size(3);
  const int64_t room_h = h + 2 * padding[0] - (kernel[0] - 1) * dilation[0] - 1;
  const int64_t room_w = w + 2 * padding[1] - (kernel[1] - 1) * dilation[1] - 1;
  STD_TORCH_CHECK(room_h >= 0 && room_w >= 0, "sparse_conv2d: the kernel is larger than the padded image");
  const int64_t out_h = room_h / stride[0] + 1, out_w = room_w / stride[1] + 1;
  STD_TORCH_CHECK(band > 0 && band <= out_h, "sparse_conv2d: band must lie in [1, ", out_h, "]");
  const ConvPlane plane = plane_of(kernel, stride, dilation, band, out_w);
  STD_TORCH_CHECK(pack.h.in == c * kernel[0] * kernel[1] && pack.h.out == out_channels &&
                      pack.h.plane == plane.size() && pack.columns[pack.h.blocks] == c,
                  "sparse_conv2d: packed was made for another convolution or image size");
  const Tensor y = empty({n, out_channels, out_h, out_w}, ScalarType::Float);
  if (y.numel() > 0) {
    using Kernel = void (*)(const SparseConvArgs&, const Parallel&);
    VDK_SELECT_AS(Kernel, sparse_conv2d)
    ({pack, plane, n, c, h, w, padding[0], padding[1], out_h, out_w, relu, pointer<float>(x),
      output<float>(y)},
     torch_parallel());
  }
  return returned(y, type);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(vdropkern, CPU, m) { m.impl("sparse_conv2d", TORCH_BOX(&sparse_conv2d)); }

}  // namespace vdk
