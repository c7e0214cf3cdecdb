#pragma once
#include <cstdint>

namespace vdk {

// Images are NCHW, or NHWC where channels_last says so.
struct ConvShape {
  int64_t batch, in, height, width, out, kernel_h, kernel_w, out_h, out_w;
  int64_t stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups;
  bool channels_last;
};

}  // namespace vdk
