// What the bindings of conv2d_lrt share, on any device: formats, sizes and their checks.
#pragma once
#include "../common/binding.h"
#include "shape.h"

namespace vdk {

inline bool is_dense(const Tensor& t, std::initializer_list<int64_t> inner_first) {
  int64_t expected = 1;
  for (const int64_t d : inner_first) {
    if (t.size(d) != 1 && t.stride(d) != expected) return false;
    expected *= t.size(d);
  }
  return true;
}

inline bool is_last(const Tensor& t) { return is_dense(t, {1, 3, 2, 0}); }
// Whether the strides of what lies in both formats, of one channel or one pixel, were made for channels last.
inline bool says_last(const Tensor& t) {
  return is_last(t) && t.stride(1) == 1 && t.stride(3) == t.size(1) && t.size(1) * t.size(2) * t.size(3) > 1;
}

// The layout of results: x's, and NCHW where x is in neither. Where it is in both, as of one channel, its
// strides and then the weights' tell, as in torch.
inline MemoryFormat layout_of(const Tensor& x, const Tensor& mu) {
  const bool last = is_last(x) && (!x.is_contiguous() || says_last(x) || says_last(mu));
  return last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
}
// The layout of a weight, and of its gradient: row-major, unless it lies in channels last and in that alone.
inline MemoryFormat weight_layout_of(const Tensor& t) {
  return !t.is_contiguous() && is_last(t) ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
}
inline Tensor prepared(const Tensor& t, ScalarType type, MemoryFormat layout) {
  return torch::stable::contiguous(t.scalar_type() == type ? t : torch::stable::to(t, type), layout);
}

struct ConvGeometry {
  int64_t stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w, groups;

  void check(const Tensor& x, const Tensor& mu) const {
    STD_TORCH_CHECK(x.dim() == 4 && mu.dim() == 4 && groups > 0 && mu.size(0) % groups == 0 &&
                        x.size(1) == mu.size(1) * groups,
                    "conv2d_lrt: x must be [N, C, H, W] and mu [O, C / groups, kh, kw]");
    STD_TORCH_CHECK(
        stride_h > 0 && stride_w > 0 && dilation_h > 0 && dilation_w > 0 && padding_h >= 0 && padding_w >= 0,
        "conv2d_lrt: strides and dilations must be > 0, paddings >= 0");
  }
  ConvShape shape(const Tensor& x, const Tensor& mu, MemoryFormat layout) const {
    const auto size = [](int64_t n, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation) {
      const int64_t room = n + 2 * padding - dilation * (kernel - 1) - 1;
      STD_TORCH_CHECK(kernel > 0 && room >= 0, "conv2d_lrt: the kernel does not fit into x");
      return room / stride + 1;
    };
    return {x.size(0),
            x.size(1),
            x.size(2),
            x.size(3),
            mu.size(0),
            mu.size(2),
            mu.size(3),
            size(x.size(2), mu.size(2), stride_h, padding_h, dilation_h),
            size(x.size(3), mu.size(3), stride_w, padding_w, dilation_w),
            stride_h,
            stride_w,
            padding_h,
            padding_w,
            dilation_h,
            dilation_w,
            groups,
            layout == MemoryFormat::ChannelsLast};
  }
};

}  // namespace vdk
