// What the kernels of conv2d_lrt are given, and the products that they are.
#pragma once
#include "cuda.h"
#include "patches.cuh"

namespace vdk {
namespace cuda {

struct ConvArgs : ProductArgs {
  Gather from_a, from_b;
  int outputs, taps;  // of a group; of the kernel
  // of what has the form of the result of a product with rows of pixels
  int channels;
  int64_t image;
  Pair stride;  // h: from a channel to the next, w: from a pixel
};

// A finished tile whose quads are four pixels of a channel: those that share a draw of the noise.
template <int kBlockM>
struct PixelQuads {
  static constexpr int kPitch = kBlockM + 4;  // so that quads of neighbouring channels meet every bank once
  static constexpr int kSize = kBlockN * kPitch, kCount = kBlockM * kBlockN / 4;

  VDK_DEVICE static int at(int row, int col) { return col * kPitch + row; }
  VDK_DEVICE static int row(int i) { return i % (kBlockM / 4) * 4; }
  VDK_DEVICE static int col(int i) { return i / (kBlockM / 4); }
  VDK_DEVICE static int64_t in_part(const Plan& plan, int64_t row, int64_t col) { return col * plan.m + row; }
  VDK_DEVICE static void store_two(float* tile, int row, int col, float x, float y) {
    store_shared(tile + at(row, col), x);
    store_shared(tile + at(row, col + 1), y);
  }
};

// Of a group; depths run over channels first, then over the places of the kernel.
//              rows           columns          reduction        A           B             result
// kForward     output pixels  outputs          inputs, places   x, x^2      mu, sigma^2   y, r
// kInput       input pixels   inputs           outputs, places  dy, g_v     mu, sigma^2   dx
// kWeights     outputs        inputs, places   output pixels    dy, g_v     x, x^2        dmu, dlog
template <class Math, Pass kPass, int kBlockM>
struct ConvProduct : Product<Math, kPass, kBlockM> {
  using Args = ConvArgs;
  using Result = std::conditional_t<kPass == Pass::kWeights, RowQuads<kBlockM>, PixelQuads<kBlockM>>;
  static constexpr bool kImages = true;
};

// Weights [outputs, places, inputs] as a matrix whose lines are those of the input gradient's depth.
template <class Tile, int kThreads>
struct PlaceLines : Window<Tile, kThreads> {
  using Base = Window<Tile, kThreads>;
  using C = typename Base::C;
  const ConvArgs& args;

  VDK_DEVICE PlaceLines(const ConvArgs& args, int64_t at0, int64_t k0)
      : Base(args.plan.k, args.plan.n, k0, at0), args(args) {}

  VDK_DEVICE int64_t chunk(int i) const {
    const int depth = int(args.plan.k) - this->lines_left + i * C::kLinesAtOnce;
    const int tap = args.from_a.by_channels.of(depth);
    const int64_t output = blockIdx.z * args.outputs + (depth - tap * args.outputs);
    return (output * args.taps + tap) * args.plan.n + (int(args.plan.n) - this->elements_left);
  }
};

// The rows of every product are patches.
template <class P, bool kPixelRows, bool kTransposed>
struct PatchRows {
  using A = Patches<typename P::A, P::kThreads, kPixelRows, kTransposed>;

  VDK_DEVICE static A a(const ConvArgs& args, const TilePlace& tile, int64_t begin) {
    return {args.from_a, args.whole_a,        args.plan.m,
            args.plan.k, tile.m * P::kBlockM, begin * kBlockK<typename P::E>};
  }
};

template <class Math, int kBlockM>
struct Sources<ConvProduct<Math, Pass::kForward, kBlockM>>
    : PatchRows<ConvProduct<Math, Pass::kForward, kBlockM>, true, false> {
  using P = ConvProduct<Math, Pass::kForward, kBlockM>;
  using B = Window<typename P::B, P::kThreads>;

  VDK_DEVICE static B b(const ConvArgs& args, const TilePlace& tile, int64_t begin) {
    B window(args.plan.n, args.plan.k, tile.n * kBlockN, begin * kBlockK<typename P::E>);
    window.offset += blockIdx.z * args.plan.n * args.plan.k;
    return window;
  }
};
template <class Math, int kBlockM>
struct Sources<ConvProduct<Math, Pass::kInput, kBlockM>>
    : PatchRows<ConvProduct<Math, Pass::kInput, kBlockM>, true, true> {
  using P = ConvProduct<Math, Pass::kInput, kBlockM>;
  using B = PlaceLines<typename P::B, P::kThreads>;

  VDK_DEVICE static B b(const ConvArgs& args, const TilePlace& tile, int64_t begin) {
    return {args, tile.n * kBlockN, begin * kBlockK<typename P::E>};
  }
};
template <class Math, int kBlockM>
struct Sources<ConvProduct<Math, Pass::kWeights, kBlockM>>
    : PatchRows<ConvProduct<Math, Pass::kWeights, kBlockM>, false, false> {
  using P = ConvProduct<Math, Pass::kWeights, kBlockM>;
  using B = Patches<typename P::B, P::kThreads, false, false>;

  VDK_DEVICE static B b(const ConvArgs& args, const TilePlace& tile, int64_t begin) {
    return {args.from_b, args.whole_b,     args.plan.n,
            args.plan.k, tile.n * kBlockN, begin * kBlockK<typename P::E>};
  }
};

}  // namespace cuda
}  // namespace vdk
