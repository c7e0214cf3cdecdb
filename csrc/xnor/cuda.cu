// Launchers: which kernel packs, how a convolution is cut into tiles, and how its bits are counted.
#include "cuda.cuh"

namespace vdk {
namespace cuda {
namespace {

template <class E>
void pack(const XnorPackArgs<E>& a, void* stream) {
  const int64_t words = ceil_div(a.channels, 64);
  if (a.outer * a.inner * words == 0) return;
  constexpr int kSpare = 1 << 16;  // of a last block beyond the end
  if (words > (INT_MAX - kSpare) / 64 || a.outer * a.inner > (INT_MAX - kSpare) / (a.inner == 1 ? words : 1))
    throw std::runtime_error("xnor_pack: more than 2^31 - 2^16 channels, pixels, or words of rows");
  PackKernelArgs<E> args{};
  args.a = a;
  if (a.inner == 1) {
    args.by = Divisor(words);
    args.wide = (a.channels * sizeof(E) % 16 == 0 || a.outer == 1) && all_aligned16(a.x);
    args.wide_threshold = all_aligned16(a.threshold);
    const int64_t rows = ceil_div(a.outer, kPackRowsAtOnce) * kPackRowsAtOnce;
    args.rows = int(rows < kPackRows ? rows : kPackRows);
    const int64_t vectors = ceil_div(a.outer, args.rows) * words * (64 / kPer16<E>);
    VDK_LAUNCH(xnor_pack_rows<E>, Grid{ceil_div(vectors, kPackThreads)}, kPackThreads, 0, stream, args);
    return;
  }
  args.by = Divisor(a.inner);
  args.wide = a.inner % 4 == 0 && reinterpret_cast<uintptr_t>(a.x) % alignof(Four<E>) == 0;
  args.halves = words == 1 ? 2 : words == 2 ? 4 : 8;
  const Grid grid{ceil_div(a.outer * a.inner, kPackWarps / args.halves * kPackPixels),
                  ceil_div(2 * words, args.halves)};
  if (args.wide)
    VDK_LAUNCH((xnor_pack_planes<E, true>), grid, kPackThreads, 0, stream, args);
  else
    VDK_LAUNCH((xnor_pack_planes<E, false>), grid, kPackThreads, 0, stream, args);
}

// Whether a window may meet the outside.
bool is_padded(const XnorArgs& a) { return a.pad_h > 0 || a.pad_w > 0; }

template <class Count>
void launch(SignProductArgs args, int multiprocessors, int blocks_at_once, void* stream) {
  args.tiles_m = ceil_div(args.pixels, Count::kPixels);
  args.tiles_n = ceil_div(args.a.outputs, kTileOutputs);
  args.band =
      band_height(args.tiles_m, double(blocks_at_once) * multiprocessors, Count::kPixels, kTileOutputs);
  VDK_LAUNCH(xnor_product<Count>, Grid{args.tiles_m * args.tiles_n}, Count::kThreads,
             SharedCounts<Count>::kBytes, stream, args);
}

}  // namespace

void xnor_pack(const XnorPackArgs<float>& args, void* stream) { pack(args, stream); }
void xnor_pack(const XnorPackArgs<Float16>& args, void* stream) { pack(args, stream); }
void xnor_pack(const XnorPackArgs<BFloat16>& args, void* stream) { pack(args, stream); }

size_t xnor_workspace(const XnorArgs& a) {
  return is_padded(a) ? size_t(a.kernel_h * a.kernel_w * a.outputs) * sizeof(int32_t) : 0;
}

void xnor_conv2d(const XnorArgs& a, int capability, int multiprocessors, void* workspace, void* stream) {
  const int64_t taps = a.kernel_h * a.kernel_w;
  SignProductArgs args{};
  args.a = a;
  args.pixels = a.batch * a.out_h * a.out_w;
  if (args.pixels * a.outputs == 0) return;
  for (const int64_t size : {args.pixels, a.outputs, taps * a.channels,
                             (a.height + 2 * a.pad_h) * (a.width + 2 * a.pad_w) * a.words()})
    if (size > INT_MAX - 128)
      throw std::runtime_error(
          "xnor_conv2d: more than 2^31 - 129 pixels, outputs, signs in a window or words in an image");
  args.words = int(a.words());
  args.row_words = int(a.width) * args.words;
  args.reduction = int(taps) * args.words;
  args.by_words = Divisor(args.words ? args.words : 1);
  args.by_kernel_w = Divisor(a.kernel_w);
  args.by_plane = Divisor(a.out_h * a.out_w);
  args.by_out_w = Divisor(a.out_w);
  args.wide = a.words() % 2 == 0 && reinterpret_cast<uintptr_t>(a.a) % 16 == 0;
  if (is_padded(a)) {
    int32_t* const counts = static_cast<int32_t*>(workspace);
    VDK_LAUNCH(xnor_tap_counts, Grid{ceil_div(taps * a.outputs, kTapThreads)}, kTapThreads, 0, stream,
               TapCountArgs{a.w, a.outputs, taps, a.words(), counts});
    args.tap_counts = counts;
  }
  // the tensor cores of sm_90 and later count no differing bits, see mma_m16n8k256_b1
  if (capability < 80 || capability >= 90) return launch<CountByPopc>(args, multiprocessors, 3, stream);
  const int64_t large = ceil_div(args.pixels, 128) * ceil_div(a.outputs, kTileOutputs);
  if (large < multiprocessors) return launch<CountByMma<64>>(args, multiprocessors, 2, stream);
  launch<CountByMma<128>>(args, multiprocessors, 2, stream);
}

}  // namespace cuda
}  // namespace vdk
