// What the bindings of sparse convolutions check, on any device.
#pragma once
#include "../common/binding.h"

namespace vdk {

// The sizes of a convolution of x [N, C, H, W], all of them in range.
struct ConvSizes {
  std::vector<int64_t> kernel, stride, padding, dilation;
  int64_t batch, channels, height, width, out_h, out_w;

  ConvSizes(const char* op, const Tensor& x, const std::vector<int64_t>& kernel_size,
            const std::vector<int64_t>& stride_, const std::vector<int64_t>& padding_,
            const std::vector<int64_t>& dilation_)
      : kernel(kernel_size), stride(stride_), padding(padding_), dilation(dilation_) {
    STD_TORCH_CHECK(x.dim() == 4 && x.scalar_type() != ScalarType::Double, op,
                    ": x must be [N, C, H, W], not float64");
    for (const auto* pair : {&kernel, &stride, &padding, &dilation})
      STD_TORCH_CHECK(pair->size() == 2, op, ": kernel_size, stride, padding, dilation must be pairs");
    constexpr int64_t kMost = int64_t{1} << 31;
    for (size_t i = 0; i < 2; ++i)
      STD_TORCH_CHECK(kernel[i] > 0 && stride[i] > 0 && padding[i] >= 0 && dilation[i] > 0 &&
                          kernel[i] < kMost && stride[i] < kMost && padding[i] < kMost && dilation[i] < kMost,
                      op, ": a size is out of range");
    batch = x.size(0), channels = x.size(1), height = x.size(2), width = x.size(3);
    const int64_t room_h = height + 2 * padding[0] - (kernel[0] - 1) * dilation[0] - 1;
    const int64_t room_w = width + 2 * padding[1] - (kernel[1] - 1) * dilation[1] - 1;
    STD_TORCH_CHECK(room_h >= 0 && room_w >= 0, op, ": the kernel is larger than the padded image");
    out_h = room_h / stride[0] + 1, out_w = room_w / stride[1] + 1;
  }
};

}  // namespace vdk
