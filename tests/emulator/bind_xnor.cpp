#include "binding.h"
#include "cuda/divisor.cuh"
#include "xnor/cuda.h"

namespace emu {
namespace {

template <class E>
void pack(const Buffer* x, const Buffer* threshold, const Buffer* flip, int64_t outer, int64_t channels,
          int64_t inner, const Buffer* bits) {
  vdk::cuda::xnor_pack(
      vdk::cuda::XnorPackArgs<E>{pointer<E>(x), pointer<float>(threshold), pointer<uint64_t>(flip), outer,
                                 channels, inner, pointer<uint64_t>(bits)},
      nullptr);
}

// batch, height, width, channels, outputs; kernel, stride, padding, dilation and outputs, height first.
vdk::XnorArgs geometry(const std::vector<int64_t>& s) {
  vdk::XnorArgs args{};
  args.batch = s[0], args.height = s[1], args.width = s[2], args.channels = s[3], args.outputs = s[4];
  args.kernel_h = s[5], args.kernel_w = s[6], args.stride_h = s[7], args.stride_w = s[8];
  args.pad_h = s[9], args.pad_w = s[10], args.dilation_h = s[11], args.dilation_w = s[12];
  args.out_h = s[13], args.out_w = s[14];
  return args;
}

// scale: alpha, or the integer thresholds of packed results; shift: the bias, or the flips.
void conv2d(const Buffer* bits, const Buffer* weight, const Buffer* scale, const Buffer* shift,
            const std::vector<int64_t>& sizes, bool pixels_first, bool packed, int capability,
            int multiprocessors, const Buffer* workspace, const Buffer* out) {
  vdk::XnorArgs args = geometry(sizes);
  args.a = pointer<uint64_t>(bits);
  args.w = pointer<uint64_t>(weight);
  if (packed) {
    args.threshold = pointer<int32_t>(scale);
    args.flip = pointer<uint64_t>(shift);
    args.bits = pointer<uint64_t>(out);
  } else {
    args.alpha = pointer<float>(scale);
    args.bias = pointer<float>(shift);
    args.y = pointer<float>(out);
    args.pixels_first = pixels_first;
  }
  vdk::cuda::xnor_conv2d(args, capability, multiprocessors, pointer<void>(workspace), nullptr);
}

}  // namespace

VDK_BINDING(xnor, m) {
  m.def("xnor_pack_float32", &pack<float>);
  m.def("xnor_pack_float16", &pack<vdk::Float16>);
  m.def("xnor_pack_bfloat16", &pack<vdk::BFloat16>);
  m.def("xnor_workspace",
        [](const std::vector<int64_t>& sizes) { return vdk::cuda::xnor_workspace(geometry(sizes)); });
  m.def("xnor_conv2d", &conv2d);
  m.def("divided", [](std::vector<int> n, int64_t divisor) {
    const vdk::Divisor by(divisor);
    for (int& i : n) i = by.of(i);
    return n;
  });
}

}  // namespace emu
