#include <atomic>

#include "checks.h"

namespace vdk {

namespace {
std::atomic<bool> popcount_allowed{true};

bool cpu_counts() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512vpopcntdq");
#else
  return false;
#endif
}
}  // namespace

bool has_popcount() {
  static const bool counts = cpu_counts();
  return counts && popcount_allowed.load(std::memory_order_relaxed) && active_isa() == Isa::kAvx512;
}
void allow_popcount(bool allowed) { popcount_allowed.store(allowed, std::memory_order_relaxed); }

namespace {

using OptionalTensor = std::optional<Tensor>;
using Pack = void (*)(const XnorPackArgs&, const Parallel&);
using Convolve = void (*)(const XnorArgs&, const Parallel&);

bool is_floating(ScalarType type) {
  return type == ScalarType::Float || type == ScalarType::BFloat16 || type == ScalarType::Half;
}

Tensor xnor_pack(const Tensor& x, const OptionalTensor& threshold, const OptionalTensor& flip,
                 int64_t channel_dim) {
  STD_TORCH_CHECK(is_floating(x.scalar_type()), "xnor_pack: x must be float32, bfloat16 or float16");
  const PackCall call(x, threshold, flip, channel_dim, ScalarType::Float);
  const Tensor bits = empty(call.sizes, ScalarType::Long);
  const XnorPackArgs args{pointer<float>(call.x),
                          pointer<float>(call.threshold),
                          pointer<uint64_t>(call.flip),
                          call.outer,
                          call.channels,
                          call.inner,
                          output<uint64_t>(bits)};
  if (bits.numel()) VDK_SELECT_AS(Pack, xnor_pack)(args, torch_parallel());
  return bits;
}

Tensor xnor_conv2d(const Tensor& bits, const Tensor& weight, const Tensor& alpha, const OptionalTensor& bias,
                   int64_t channels, int64_t kernel_h, int64_t kernel_w, int64_t stride_h, int64_t stride_w,
                   int64_t pad_h, int64_t pad_w, int64_t dilation_h, int64_t dilation_w, bool pixels_first) {
  const Tensor a = prepared(bits, ScalarType::Long), w = prepared(weight, ScalarType::Long);
  const Tensor scale = prepared(alpha, ScalarType::Float);
  const OptionalTensor shift = prepared(bias, ScalarType::Float);
  STD_TORCH_CHECK(!shift || shift->numel() == scale.numel(), "xnor_conv2d: bias must have a value an output");
  XnorArgs args = xnor_geometry(a, w, channels, scale.numel(), kernel_h, kernel_w, stride_h, stride_w, pad_h,
                                pad_w, dilation_h, dilation_w);
  const std::vector<int64_t> sizes{args.batch, args.outputs, args.out_h, args.out_w};
  const Tensor y = torch::stable::empty({sizes.data(), sizes.size()}, ScalarType::Float, std::nullopt,
                                        std::nullopt, std::nullopt,
                                        pixels_first ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
  args.popcount = has_popcount();
  args.alpha = pointer<float>(scale);
  args.bias = pointer<float>(shift);
  args.y = output<float>(y);
  args.pixels_first = pixels_first;
  if (y.numel()) VDK_SELECT_AS(Convolve, xnor_conv2d)(args, torch_parallel());
  return y;
}

Tensor xnor_conv2d_bits(const Tensor& bits, const Tensor& weight, const Tensor& threshold, const Tensor& flip,
                        int64_t channels, int64_t kernel_h, int64_t kernel_w, int64_t stride_h,
                        int64_t stride_w, int64_t pad_h, int64_t pad_w, int64_t dilation_h,
                        int64_t dilation_w) {
  const Tensor a = prepared(bits, ScalarType::Long), w = prepared(weight, ScalarType::Long);
  const Tensor t = prepared(threshold, ScalarType::Int), f = prepared(flip, ScalarType::Long);
  XnorArgs args = xnor_geometry(a, w, channels, t.numel(), kernel_h, kernel_w, stride_h, stride_w, pad_h,
                                pad_w, dilation_h, dilation_w);
  STD_TORCH_CHECK(f.numel() == args.out_words(), "xnor_conv2d: flip must have a bit an output");
  const Tensor out = empty({args.batch, args.out_h, args.out_w, args.out_words()}, ScalarType::Long);
  args.popcount = has_popcount();
  args.threshold = pointer<int32_t>(t);
  args.flip = pointer<uint64_t>(f);
  args.bits = output<uint64_t>(out);
  if (out.numel()) VDK_SELECT_AS(Convolve, xnor_conv2d)(args, torch_parallel());
  return out;
}

// Allow (1) or forbid (0) the instruction that counts bits in vectors (-1: leave it), and report: bit 0
// whether it is used.
int64_t cpu_popcount(int64_t select) {
  if (select >= 0) allow_popcount(select != 0);
  return has_popcount();
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(vdropkern, CPU, m) {
  m.impl("xnor_pack", TORCH_BOX(&xnor_pack));
  m.impl("xnor_conv2d", TORCH_BOX(&xnor_conv2d));
  m.impl("xnor_conv2d_bits", TORCH_BOX(&xnor_conv2d_bits));
}
STABLE_TORCH_LIBRARY_IMPL(vdropkern, CompositeExplicitAutograd, m) {
  m.impl("cpu_popcount", TORCH_BOX(&cpu_popcount));
}

}  // namespace vdk
