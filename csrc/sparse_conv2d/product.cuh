// A sparse convolution on a GPU: a block takes an output channel and some pixels of all images, and gathers
// the input that each weight meets straight from the padded image (no columns are laid out).
#pragma once
#include "../cuda/divisor.cuh"
#include "../cuda/launch.cuh"
#include "cuda.h"

namespace vdk {
namespace cuda {

constexpr int kConvThreads = 128, kPadThreads = 256;

template <class E>
struct PadArgs {
  const E* x;      // [planes, height, width]
  E* padded;       // [planes, padded_h, padded_w]
  int64_t pixels;  // of `padded` in this launch, below 2^31
  int height, width, pad_h, pad_w;
  Divisor by_plane, by_row;  // of `padded`
};

template <class E>
VDK_KERNEL void __launch_bounds__(kPadThreads) sparse_conv_pad(PadArgs<E> a) {
  const int64_t i = int64_t(blockIdx.x) * kPadThreads + threadIdx.x;
  if (i >= a.pixels) return;
  const int plane = a.by_plane.of(int(i)), in_plane = int(i) - plane * int(a.by_plane.divisor);
  const int row = a.by_row.of(in_plane), h = row - a.pad_h;
  const int w = in_plane - row * int(a.by_row.divisor) - a.pad_w;
  const bool inside = unsigned(h) < unsigned(a.height) && unsigned(w) < unsigned(a.width);
  const int64_t from = inside ? (int64_t(plane) * a.height + h) * a.width + w : 0;
  store_global(a.padded + i, inside ? load_global<E>(a.x + from) : E{});
}

template <class E>
struct ConvProductArgs {
  SparseConvArgs<E> a;  // its x padded
  Extent padded;
  int64_t pixels;                // of all images, below 2^31
  int per_group;                 // outputs
  Divisor by_taps, by_kernel_w;  // of columns of the weight
  Divisor by_plane, by_out_w, by_outputs;
};

template <class E, int kPixels>
VDK_KERNEL void __launch_bounds__(kConvThreads) sparse_conv_product(ConvProductArgs<E> args) {
  const SparseConvArgs<E>& a = args.a;
  VDK_SHARED_ARRAY(uint2, staged, kConvThreads);  // an input's place in its image, in bytes, and the weight
  const int tid = int(threadIdx.x), tile = args.by_outputs.of(int(blockIdx.x));
  const int row = load_global<int32_t>(a.order + (int(blockIdx.x) - tile * int(a.outputs)));
  const int begin = load_global<int32_t>(a.rows + row), end = load_global<int32_t>(a.rows + row + 1);
  const int plane = int(a.out.h * a.out.w), padded_w = int(args.padded.w);
  const int padded_plane = int(args.padded.h) * padded_w;
  const int channel0 = row / args.per_group * int(a.channels / a.groups);

  const char* window[kPixels];  // where a pixel's begins, in the first channel of the group
  const auto pixel_of = [&](int i) { return (int64_t(tile) * kPixels + i) * kConvThreads + tid; };
  VDK_UNROLL
  for (int i = 0; i < kPixels; ++i) {
    const int pixel = pixel_of(i) < args.pixels ? int(pixel_of(i)) : 0;
    const int image = args.by_plane.of(pixel), in_plane = pixel - image * plane;
    const int out_h = args.by_out_w.of(in_plane), out_w = in_plane - out_h * int(a.out.w);
    const int place = channel0 * padded_plane + out_h * int(a.stride.h) * padded_w + out_w * int(a.stride.w);
    window[i] = reinterpret_cast<const char*>(a.x + image * (a.channels * padded_plane) + place);
  }

  float sums[kPixels] = {};
  for (int at = begin; at < end; at += kConvThreads) {
    const int left = end - at, count = left < kConvThreads ? left : kConvThreads;
    __syncthreads();  // nobody reads the last ones any more
    if (tid < count) {
      const int column = load_global<int32_t>(a.cols + at + tid);
      const int channel = args.by_taps.of(column), tap = column - channel * int(args.by_taps.divisor);
      const int tap_h = args.by_kernel_w.of(tap), tap_w = tap - tap_h * int(a.kernel.w);
      const int place =
          channel * padded_plane + tap_h * int(a.dilation.h) * padded_w + tap_w * int(a.dilation.w);
      staged[tid] = make_uint2(unsigned(place) * unsigned(sizeof(E)),
                               __float_as_uint(load_global<float>(a.values + at + tid)));
    }
    __syncthreads();
    int j = 0;
    VDK_ROLLED
    for (; j + 4 <= count; j += 4) {
      float in[4][kPixels], weight[4];
      VDK_UNROLL
      for (int n = 0; n < 4; n += 2) {
        const uint4 two = load_shared<uint4>(staged + j + n);
        weight[n] = __uint_as_float(two.y), weight[n + 1] = __uint_as_float(two.w);
        VDK_UNROLL
        for (int i = 0; i < kPixels; ++i) {
          in[n][i] = to_float(load_global<E>(window[i] + two.x));
          in[n + 1][i] = to_float(load_global<E>(window[i] + two.z));
        }
      }
      VDK_UNROLL
      for (int n = 0; n < 4; ++n) VDK_UNROLL
      for (int i = 0; i < kPixels; ++i) sums[i] = fmaf(weight[n], in[n][i], sums[i]);
    }
    VDK_ROLLED
    for (; j < count; ++j) {
      const uint2 one = load_shared<uint2>(staged + j);
      VDK_UNROLL
      for (int i = 0; i < kPixels; ++i)
        sums[i] = fmaf(__uint_as_float(one.y), to_float(load_global<E>(window[i] + one.x)), sums[i]);
    }
  }
  const float bias = a.bias ? load_global<float>(a.bias + row) : 0.0f;
  VDK_UNROLL
  for (int i = 0; i < kPixels; ++i) {
    if (pixel_of(i) >= args.pixels) break;
    const int pixel = int(pixel_of(i)), image = args.by_plane.of(pixel);
    const float y = sums[i] + bias;
    store_global(a.y + (image * a.outputs + row) * plane + (pixel - image * plane),
                 round_to<E>(a.relu && y < 0 ? 0.0f : y));  // NaN stays
  }
}

}  // namespace cuda
}  // namespace vdk
