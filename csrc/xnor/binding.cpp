#include <atomic>

#include "../common/binding.h"
#include "xnor.h"

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

Tensor xnor_pack(const Tensor& x, const OptionalTensor& threshold, const OptionalTensor& flip,
                 int64_t channel_dim) {
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float, "xnor_pack: x must be float32");
  const int64_t dims = x.dim(), channel = channel_dim < 0 ? channel_dim + dims : channel_dim;
  STD_TORCH_CHECK(0 <= channel && channel < dims, "xnor_pack: channel_dim must be a dimension of x");
  const bool last = channel == 1 && channels_last(x);
  const Tensor in = dense(x, last, ScalarType::Float);
  XnorPackArgs args{pointer<float>(in), nullptr, nullptr, 1, x.size(channel), 1, nullptr};
  std::vector<int64_t> sizes;
  for (int64_t d = 0; d < dims; ++d) {
    if (d == channel) continue;
    (d < channel || last ? args.outer : args.inner) *= x.size(d);
    sizes.push_back(x.size(d));
  }
  sizes.push_back((args.channels + 63) / 64);
  const Tensor bits = empty(sizes, ScalarType::Long);
  args.bits = output<uint64_t>(bits);
  const OptionalTensor t = prepared(threshold, ScalarType::Float), f = prepared(flip, ScalarType::Long);
  STD_TORCH_CHECK((!t || t->numel() == args.channels) && (!f || f->numel() == (args.channels + 63) / 64),
                  "xnor_pack: threshold must have a value and flip a bit a channel");
  args.threshold = pointer<float>(t);
  args.flip = pointer<uint64_t>(f);
  if (bits.numel()) VDK_SELECT_AS(Pack, xnor_pack)(args, torch_parallel());
  return bits;
}

// The geometry, checked; results are empty yet.
XnorArgs geometry(const Tensor& a, const Tensor& w, int64_t channels, int64_t outputs, int64_t kernel_h,
                  int64_t kernel_w, int64_t stride_h, int64_t stride_w, int64_t pad_h, int64_t pad_w,
                  int64_t dilation_h, int64_t dilation_w) {
  XnorArgs args{};
  args.a = pointer<uint64_t>(a);
  args.w = pointer<uint64_t>(w);
  args.batch = a.size(0), args.height = a.size(1), args.width = a.size(2);
  args.channels = channels, args.outputs = outputs;
  args.kernel_h = kernel_h, args.kernel_w = kernel_w, args.stride_h = stride_h, args.stride_w = stride_w;
  args.pad_h = pad_h, args.pad_w = pad_w, args.dilation_h = dilation_h, args.dilation_w = dilation_w;
  args.out_h = (args.height + 2 * pad_h - dilation_h * (kernel_h - 1) - 1) / stride_h + 1;
  args.out_w = (args.width + 2 * pad_w - dilation_w * (kernel_w - 1) - 1) / stride_w + 1;
  args.popcount = has_popcount();
  const int64_t blocks = (outputs + kXnorOutputs - 1) / kXnorOutputs;
  STD_TORCH_CHECK(a.dim() == 4 && a.size(3) == args.words() && args.out_h > 0 && args.out_w > 0 &&
                      w.numel() == blocks * kernel_h * kernel_w * args.words() * kXnorOutputs &&
                      kernel_h * kernel_w <= 256,
                  "xnor_conv2d: bits, weight and geometry do not fit each other");
  return args;
}

Tensor xnor_conv2d(const Tensor& bits, const Tensor& weight, const Tensor& alpha, const OptionalTensor& bias,
                   int64_t channels, int64_t kernel_h, int64_t kernel_w, int64_t stride_h, int64_t stride_w,
                   int64_t pad_h, int64_t pad_w, int64_t dilation_h, int64_t dilation_w, bool pixels_first) {
  const Tensor a = prepared(bits, ScalarType::Long), w = prepared(weight, ScalarType::Long);
  const Tensor scale = prepared(alpha, ScalarType::Float);
  const OptionalTensor shift = prepared(bias, ScalarType::Float);
  STD_TORCH_CHECK(!shift || shift->numel() == scale.numel(), "xnor_conv2d: bias must have a value an output");
  XnorArgs args = geometry(a, w, channels, scale.numel(), kernel_h, kernel_w, stride_h, stride_w, pad_h,
                           pad_w, dilation_h, dilation_w);
  const std::vector<int64_t> sizes{args.batch, args.outputs, args.out_h, args.out_w};
  const Tensor y = torch::stable::empty({sizes.data(), sizes.size()}, ScalarType::Float, std::nullopt,
                                        std::nullopt, std::nullopt,
                                        pixels_first ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
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
  XnorArgs args = geometry(a, w, channels, t.numel(), kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w,
                           dilation_h, dilation_w);
  STD_TORCH_CHECK(f.numel() == args.out_words(), "xnor_conv2d: flip must have a bit an output");
  const Tensor out = empty({args.batch, args.out_h, args.out_w, args.out_words()}, ScalarType::Long);
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
