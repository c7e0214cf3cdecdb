#include "../cuda/binding.h"
#include "checks.h"
#include "cuda.h"

namespace vdk {
namespace {

template <class E>
void pack(const PackCall& call, const Tensor& bits, void* stream) {
  cuda::xnor_pack(
      cuda::XnorPackArgs<E>{pointer<E>(call.x), pointer<float>(call.threshold), pointer<uint64_t>(call.flip),
                            call.outer, call.channels, call.inner, output<uint64_t>(bits)},
      stream);
}

Tensor xnor_pack(const Tensor& x, const OptionalTensor& threshold, const OptionalTensor& flip,
                 int64_t channel_dim) {
  const Gpu gpu(x);
  require_on_gpu("xnor_pack", threshold, flip);
  const PackCall call(x, threshold, flip, channel_dim, x.scalar_type());
  const Tensor bits = gpu.empty(call.sizes, ScalarType::Long);
  switch (x.scalar_type()) {
    case ScalarType::Float:
      pack<float>(call, bits, gpu.stream());
      break;
    case ScalarType::Half:
      pack<Float16>(call, bits, gpu.stream());
      break;
    default:
      STD_TORCH_CHECK(x.scalar_type() == ScalarType::BFloat16,
                      "xnor_pack: x must be float32, bfloat16 or float16");
      pack<BFloat16>(call, bits, gpu.stream());
  }
  return bits;
}

void run(const Gpu& gpu, const XnorArgs& args) {
  const Tensor workspace = gpu.workspace(cuda::xnor_workspace(args));
  cuda::xnor_conv2d(args, gpu.capability(), gpu.multiprocessors(), workspace.mutable_data_ptr(),
                    gpu.stream());
}

Tensor xnor_conv2d(const Tensor& bits, const Tensor& weight, const Tensor& alpha, const OptionalTensor& bias,
                   int64_t channels, int64_t kernel_h, int64_t kernel_w, int64_t stride_h, int64_t stride_w,
                   int64_t pad_h, int64_t pad_w, int64_t dilation_h, int64_t dilation_w, bool pixels_first) {
  const Gpu gpu(bits);
  require_on_gpu("xnor_conv2d", weight, alpha, bias);
  const Tensor a = prepared(bits, ScalarType::Long), w = aligned16(prepared(weight, ScalarType::Long));
  const Tensor scale = prepared(alpha, ScalarType::Float);
  const OptionalTensor shift = prepared(bias, ScalarType::Float);
  STD_TORCH_CHECK(!shift || shift->numel() == scale.numel(), "xnor_conv2d: bias must have a value an output");
  XnorArgs args = xnor_geometry(a, w, channels, scale.numel(), kernel_h, kernel_w, stride_h, stride_w, pad_h,
                                pad_w, dilation_h, dilation_w);
  const std::vector<int64_t> sizes{args.batch, args.outputs, args.out_h, args.out_w};
  const Tensor y = torch::stable::empty({sizes.data(), sizes.size()}, ScalarType::Float, std::nullopt,
                                        bits.device(), std::nullopt,
                                        pixels_first ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
  args.alpha = pointer<float>(scale);
  args.bias = pointer<float>(shift);
  args.y = output<float>(y);
  args.pixels_first = pixels_first;
  run(gpu, args);
  return y;
}

Tensor xnor_conv2d_bits(const Tensor& bits, const Tensor& weight, const Tensor& threshold, const Tensor& flip,
                        int64_t channels, int64_t kernel_h, int64_t kernel_w, int64_t stride_h,
                        int64_t stride_w, int64_t pad_h, int64_t pad_w, int64_t dilation_h,
                        int64_t dilation_w) {
  const Gpu gpu(bits);
  require_on_gpu("xnor_conv2d_bits", weight, threshold, flip);
  const Tensor a = prepared(bits, ScalarType::Long), w = aligned16(prepared(weight, ScalarType::Long));
  const Tensor t = prepared(threshold, ScalarType::Int), f = prepared(flip, ScalarType::Long);
  XnorArgs args = xnor_geometry(a, w, channels, t.numel(), kernel_h, kernel_w, stride_h, stride_w, pad_h,
                                pad_w, dilation_h, dilation_w);
  STD_TORCH_CHECK(f.numel() == args.out_words(), "xnor_conv2d: flip must have a bit an output");
  const Tensor out = gpu.empty({args.batch, args.out_h, args.out_w, args.out_words()}, ScalarType::Long);
  args.threshold = pointer<int32_t>(t);
  args.flip = pointer<uint64_t>(f);
  args.bits = output<uint64_t>(out);
  run(gpu, args);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(vdropkern, CUDA, m) {
  m.impl("xnor_pack", TORCH_BOX(&xnor_pack));
  m.impl("xnor_conv2d", TORCH_BOX(&xnor_conv2d));
  m.impl("xnor_conv2d_bits", TORCH_BOX(&xnor_conv2d_bits));
}

}  // namespace vdk
