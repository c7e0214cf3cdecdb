// The kernels of conv2d_lrt: the products of linear_lrt over operands gathered from images, with epilogues
// that take four pixels of a channel at a time, and the noise's gradient before them.
#pragma once
#include "args.cuh"
#include "../linear_lrt/cuda.cuh"

namespace vdk {
namespace cuda {

// Four pixels of an image in a channel, or the `valid` there are.
struct PixelQuad {
  int image, pixel, channel, valid;
  int64_t at;  // in a tensor of the result's form
};

// Pixels side by side, in one access where they are whole, or apart.
template <class E>
VDK_DEVICE void load_pixels(const E* from, const ConvArgs& args, int valid, float (&v)[4]) {
  if (args.stride.w == 1) return load_four(from, valid, args.whole_result, v);
  VDK_UNROLL
  for (int i = 0; i < 4; ++i) v[i] = i < valid ? widen(load_global<E>(from + i * args.stride.w)) : 0.0f;
}
template <class E>
VDK_DEVICE void store_pixels(E* to, const ConvArgs& args, int valid, const float (&v)[4]) {
  if (args.stride.w == 1) return store_four(to, valid, args.whole_result, v);
  VDK_UNROLL
  for (int i = 0; i < 4; ++i)
    if (i < valid) store_global(to + i * args.stride.w, narrow<E>(v[i]));
}

template <class Math, int kBlockM>
struct Epilogue<ConvProduct<Math, Pass::kForward, kBlockM>> {
  using E = typename Math::E;
  const ConvArgs& args;
  NoiseKey key;

  VDK_DEVICE explicit Epilogue(const ConvArgs& a) : args(a), key(noise_key(a.seed)) {}

  VDK_DEVICE void operator()(const PixelQuad& q, float (&mean)[4], float (&variance)[4]) const {
    const int64_t plane = int64_t(q.image) * args.channels + q.channel;
    float z[4];
    noise_normals(key, uint64_t(plane * groups_of(args.from_a.grid.pixels) + q.pixel / 4), z);
    const float bias = args.bias ? load_global<float>(args.bias + q.channel) : 0.0f;
    VDK_UNROLL
    for (int i = 0; i < 4; ++i) {
      const float std = square_root(variance[i] + args.eps);
      mean[i] += std * z[i];
      mean[i] += bias;
      z[i] = z[i] / (2 * std);
    }
    store_pixels(static_cast<E*>(args.result) + q.at, args, q.valid, mean);
    store_pixels(args.std + q.at, args, q.valid, z);
  }
};
template <class Math, int kBlockM>
struct Epilogue<ConvProduct<Math, Pass::kInput, kBlockM>> {
  using E = typename Math::E;
  const ConvArgs& args;

  VDK_DEVICE void operator()(const PixelQuad& q, float (&mean)[4], float (&variance)[4]) const {
    float x[4];
    load_pixels(static_cast<const E*>(args.x) + q.at, args, q.valid, x);
    VDK_UNROLL
    for (int i = 0; i < 4; ++i) mean[i] += 2 * x[i] * variance[i];
    store_pixels(static_cast<E*>(args.result) + q.at, args, q.valid, mean);
  }
};
template <class Math, int kBlockM>
struct Epilogue<ConvProduct<Math, Pass::kWeights, kBlockM>>
    : WeightEpilogue<ConvProduct<Math, Pass::kWeights, kBlockM>> {
  using WeightEpilogue<ConvProduct<Math, Pass::kWeights, kBlockM>>::WeightEpilogue;
};

// Threads go along what lies side by side in the result: pixels, or channels.
template <class P>
struct FinishPixels {
  template <class Four>
  VDK_DEVICE static void tile(const ConvArgs& args, const TilePlace& tile, float*, Four&& four) {
    const Plan& plan = args.plan;
    const PixelGrid& grid = args.from_a.grid;
    const Epilogue<P> epilogue{args};
    const bool along_pixels = args.stride.w == 1;
    VDK_ROLLED
    for (int i = threadIdx.x; i < P::Result::kCount; i += P::kThreads) {
      const int r = along_pixels ? P::Result::row(i) : i / kBlockN * 4;
      const int c = along_pixels ? P::Result::col(i) : i % kBlockN;
      const int64_t row = tile.m * P::kBlockM + r, col = tile.n * kBlockN + c;
      if (row >= plan.m || col >= plan.n) continue;
      PixelQuad quad;
      quad.image = grid.by_padded.of(int(row));
      quad.pixel = int(row) - quad.image * grid.padded();
      quad.channel = int(blockIdx.z * plan.n + col);
      quad.valid = grid.pixels - quad.pixel < 4 ? grid.pixels - quad.pixel : 4;
      quad.at = quad.image * args.image + int64_t(quad.channel) * args.stride.h +
                int64_t(quad.pixel) * args.stride.w;
      float mean[4], variance[4];
      four(r, c, mean, variance);
      epilogue(quad, mean, variance);
    }
  }
};
template <class Math, int kBlockM>
struct Finish<ConvProduct<Math, Pass::kForward, kBlockM>>
    : FinishPixels<ConvProduct<Math, Pass::kForward, kBlockM>> {};
template <class Math, int kBlockM>
struct Finish<ConvProduct<Math, Pass::kInput, kBlockM>>
    : FinishPixels<ConvProduct<Math, Pass::kInput, kBlockM>> {};

struct ConvNoiseArgs {
  const void* dy;
  const float* r;
  void* g_v;
  int64_t n;
  bool whole;  // all keep the alignment of four elements
};

// g_v = dy r, whatever the format.
template <class E>
VDK_KERNEL void __launch_bounds__(kGradientThreads) conv_noise_gradient(ConvNoiseArgs args) {
  const int64_t at = 4 * (int64_t(blockIdx.x) * kGradientThreads + threadIdx.x), left = args.n - at;
  if (left <= 0) return;
  const int valid = left < 4 ? int(left) : 4;
  const bool whole = args.whole && valid == 4;
  float dy[4], r[4];
  load_four(static_cast<const E*>(args.dy) + at, valid, whole, dy);
  load_four(args.r + at, valid, whole, r);
  VDK_UNROLL
  for (int i = 0; i < 4; ++i) r[i] *= dy[i];
  store_four(static_cast<Variance<E>*>(args.g_v) + at, valid, whole, r);
}

}  // namespace cuda
}  // namespace vdk
