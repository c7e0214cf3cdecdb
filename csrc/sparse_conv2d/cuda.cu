// Launchers: images padded, and how many pixels a thread takes.
#include "product.cuh"

namespace vdk {
namespace cuda {
namespace {

template <class E>
bool is_padded(const SparseConvArgs<E>& a) {
  return a.padding.h > 0 || a.padding.w > 0;
}

template <class E>
Extent padded_image(const SparseConvArgs<E>& a) {
  return {a.image.h + 2 * a.padding.h, a.image.w + 2 * a.padding.w};
}

template <class E>
size_t workspace_bytes(const SparseConvArgs<E>& a) {
  const Extent padded = padded_image(a);
  return is_padded(a) ? size_t(a.batch * a.channels * padded.h * padded.w) * sizeof(E) : 0;
}

// Some images at a time: the kernel counts pixels in 32 bits.
template <class E>
void pad(const SparseConvArgs<E>& a, E* padded, void* stream) {
  const Extent to = padded_image(a);
  const int64_t per_image = a.channels * to.h * to.w, image = a.channels * a.image.h * a.image.w;
  if (per_image == 0) return;
  const int64_t at_once = (INT_MAX - kPadThreads) / per_image;
  for (int64_t first = 0; first < a.batch; first += at_once) {
    const int64_t images = a.batch - first < at_once ? a.batch - first : at_once;
    const PadArgs<E> args{
        a.x + first * image, padded + first * per_image, images * per_image,   int(a.image.h), int(a.image.w),
        int(a.padding.h),    int(a.padding.w),           Divisor(to.h * to.w), Divisor(to.w)};
    VDK_LAUNCH(sparse_conv_pad<E>, Grid{ceil_div(args.pixels, kPadThreads)}, kPadThreads, 0, stream, args);
  }
}

template <int kPixels, class E>
void launch(const ConvProductArgs<E>& args, void* stream) {
  const int64_t tiles = ceil_div(args.pixels, int64_t(kConvThreads) * kPixels);
  VDK_LAUNCH((sparse_conv_product<E, kPixels>), Grid{args.a.outputs * tiles}, kConvThreads, 0, stream, args);
}

template <class E>
void run(const SparseConvArgs<E>& a, int multiprocessors, void* workspace, void* stream) {
  ConvProductArgs<E> args{};
  args.a = a;
  args.padded = padded_image(a);
  args.pixels = a.batch * a.out.h * a.out.w;
  if (args.pixels * a.outputs == 0) return;
  constexpr int64_t kSpare = 1 << 10;  // of a last block beyond the end
  // nvcc takes no list in a template's loop
  const int64_t sizes[] = {args.pixels, 2 * a.channels * args.padded.h * args.padded.w, a.nnz,
                           a.channels / a.groups * a.kernel.h * a.kernel.w};
  for (const int64_t size : sizes)
    if (size > INT_MAX - kSpare)
      throw std::runtime_error(
          "sparse_conv2d: more than 2^31 - 2^10 output pixels, weights or columns, or 2^30 - 2^9 numbers in "
          "a "
          "padded image");
  if (is_padded(a)) {
    E* const padded = static_cast<E*>(workspace);
    pad(a, padded, stream);
    args.a.x = padded;
  }
  args.per_group = int(a.outputs / a.groups);
  args.by_taps = Divisor(a.kernel.h * a.kernel.w);
  args.by_kernel_w = Divisor(a.kernel.w);
  args.by_plane = Divisor(a.out.h * a.out.w);
  args.by_out_w = Divisor(a.out.w);
  args.by_outputs = Divisor(a.outputs);
  const int64_t blocks = ceil_div(args.pixels, 4 * kConvThreads) * a.outputs;
  if (blocks < 4 * int64_t(multiprocessors)) return launch<1>(args, stream);
  launch<4>(args, stream);
}

}  // namespace

size_t sparse_conv_workspace(const SparseConvArgs<float>& args) { return workspace_bytes(args); }
size_t sparse_conv_workspace(const SparseConvArgs<BFloat16>& args) { return workspace_bytes(args); }

void sparse_conv2d(const SparseConvArgs<float>& args, int multiprocessors, void* workspace, void* stream) {
  run(args, multiprocessors, workspace, stream);
}
void sparse_conv2d(const SparseConvArgs<BFloat16>& args, int multiprocessors, void* workspace, void* stream) {
  run(args, multiprocessors, workspace, stream);
}

}  // namespace cuda
}  // namespace vdk
