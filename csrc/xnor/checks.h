// What the bindings of the CPU and of the GPU share: the shapes of a call, checked.
#pragma once
#include "../common/binding.h"
#include "xnor.h"

namespace vdk {

// What xnor_pack is given, x dense in its own format: how its memory runs, and the shape of the bits.
struct PackCall {
  Tensor x;
  std::optional<Tensor> threshold, flip;
  int64_t outer = 1, channels, inner = 1;
  std::vector<int64_t> sizes;

  PackCall(const Tensor& given, const std::optional<Tensor>& threshold_, const std::optional<Tensor>& flip_,
           int64_t channel_dim, ScalarType type)
      : x(dense(given, is_last(given, channel_dim), type)),
        threshold(prepared(threshold_, ScalarType::Float)),
        flip(prepared(flip_, ScalarType::Long)) {
    const int64_t dims = given.dim(), channel = channel_dim < 0 ? channel_dim + dims : channel_dim;
    STD_TORCH_CHECK(0 <= channel && channel < dims, "xnor_pack: channel_dim must be a dimension of x");
    channels = given.size(channel);
    for (int64_t d = 0; d < dims; ++d) {
      if (d == channel) continue;
      (d < channel || is_last(given, channel_dim) ? outer : inner) *= given.size(d);
      sizes.push_back(given.size(d));
    }
    const int64_t words = (channels + 63) / 64;
    sizes.push_back(words);
    STD_TORCH_CHECK((!threshold || threshold->numel() == channels) && (!flip || flip->numel() == words),
                    "xnor_pack: threshold must have a value and flip a bit a channel");
  }

  // Whether the channels of images lie beside each other.
  static bool is_last(const Tensor& x, int64_t channel_dim) {
    return (channel_dim == 1 || channel_dim + x.dim() == 1) && channels_last(x);
  }
};

// The geometry, checked; results are empty yet.
inline XnorArgs xnor_geometry(const Tensor& a, const Tensor& w, int64_t channels, int64_t outputs,
                              int64_t kernel_h, int64_t kernel_w, int64_t stride_h, int64_t stride_w,
                              int64_t pad_h, int64_t pad_w, int64_t dilation_h, int64_t dilation_w) {
  STD_TORCH_CHECK(a.dim() == 4, "xnor_conv2d: bits must be [N, H, W, words]");
  XnorArgs args{};
  args.a = pointer<uint64_t>(a);
  args.w = pointer<uint64_t>(w);
  args.batch = a.size(0), args.height = a.size(1), args.width = a.size(2);
  args.channels = channels, args.outputs = outputs;
  args.kernel_h = kernel_h, args.kernel_w = kernel_w, args.stride_h = stride_h, args.stride_w = stride_w;
  args.pad_h = pad_h, args.pad_w = pad_w, args.dilation_h = dilation_h, args.dilation_w = dilation_w;
  args.out_h = (args.height + 2 * pad_h - dilation_h * (kernel_h - 1) - 1) / stride_h + 1;
  args.out_w = (args.width + 2 * pad_w - dilation_w * (kernel_w - 1) - 1) / stride_w + 1;
  const int64_t blocks = (outputs + kXnorOutputs - 1) / kXnorOutputs;
  STD_TORCH_CHECK(a.size(3) == args.words() && args.out_h > 0 && args.out_w > 0 &&
                      w.numel() == blocks * kernel_h * kernel_w * args.words() * kXnorOutputs &&
                      kernel_h * kernel_w <= 256,
                  "xnor_conv2d: bits, weight and geometry do not fit each other");
  return args;
}

}  // namespace vdk
