// Signs of floats as bits. Memory-bound: x is read once, in the order of its memory.
#pragma once
#include "../cuda/divisor.cuh"
#include "../cuda/launch.cuh"
#include "../cuda/vector.cuh"
#include "cuda.h"

namespace vdk {
namespace cuda {

constexpr int kPackThreads = 256, kPackWarps = kPackThreads / 32;
constexpr int kPackRows = 16, kPackRowsAtOnce = 4;  // of a thread; thresholds are read once for them
constexpr int kPackChannels = 32;                   // a thread's of planes: half a word
constexpr int kPackPixels = 4 * 32;                 // a warp's of planes

template <class E>
struct PackKernelArgs {
  XnorPackArgs<E> a;
  Divisor by;           // rows: words of a row; planes: pixels of a plane
  bool wide;            // rows: vectors lie at multiples of 16 bytes; planes: fours do, and are of one plane
  bool wide_threshold;  // rows
  int rows;             // a thread takes
  int halves;           // planes: half words a block takes, 2, 4 or 8
};

template <class E>
VDK_DEVICE uint32_t half_of_flip(const XnorPackArgs<E>& a, int64_t half) {
  return a.flip ? load_global<uint32_t>(reinterpret_cast<const uint32_t*>(a.flip) + half) : 0;
}

// Channels beside each other: a thread compares 16 bytes of them, in row after row, and the lanes of half a
// word put their bits together.
template <class E>
VDK_KERNEL void __launch_bounds__(kPackThreads) xnor_pack_rows(PackKernelArgs<E> args) {
  constexpr int kVector = kPer16<E>, kLanes = 32 / kVector;  // of half a word
  const XnorPackArgs<E>& a = args.a;
  const int words = int(args.by.divisor), lane = int(threadIdx.x) % (2 * kLanes);
  const int place = int(blockIdx.x) * (kPackThreads / (2 * kLanes)) + int(threadIdx.x) / (2 * kLanes);
  const int group = args.by.of(place), word = place - group * words, channel = word * 64 + lane * kVector;
  const int64_t row0 = int64_t(group) * args.rows;
  float t[kVector] = {};
  if (a.threshold && row0 < a.outer) {
    VDK_UNROLL
    for (int j = 0; j < kVector; j += 4) {
      float four[4];
      load_vector(four, a.threshold, channel + j, a.channels, args.wide_threshold, 0.0f);
      VDK_UNROLL
      for (int k = 0; k < 4; ++k) t[j + k] = four[k];
    }
  }
  const bool stores = lane % kLanes == 0;
  const uint32_t flip = stores && row0 < a.outer ? half_of_flip(a, channel / 32) : 0;
  VDK_ROLLED
  for (int r = 0; r < args.rows; r += kPackRowsAtOnce) {
    E x[kPackRowsAtOnce][kVector];
    VDK_UNROLL
    for (int i = 0; i < kPackRowsAtOnce; ++i) {
      const int64_t row = row0 + r + i;
      load_vector(x[i], a.x + row * a.channels, channel, row < a.outer ? a.channels : 0, args.wide, E{});
    }
    VDK_UNROLL
    for (int i = 0; i < kPackRowsAtOnce; ++i) {
      const int64_t row = row0 + r + i;
      uint32_t bits = 0;  // beyond the channels x and t are 0
      VDK_UNROLL
      for (int j = 0; j < kVector; ++j)
        if (to_float(x[i][j]) < t[j]) bits |= 1u << j;
      bits <<= lane % kLanes * kVector;
      VDK_UNROLL
      for (int step = 1; step < kLanes; step *= 2) bits |= __shfl_xor_sync(~0u, bits, step);
      if (stores && row < a.outer)
        store_global(reinterpret_cast<uint32_t*>(a.bits) + 2 * (row * words + word) + lane / kLanes,
                     bits ^ flip);
    }
  }
}

// Bits of channels `channel` to channel + kCount of kAcross pixels from `from` on, all on their way at once;
// lane l of the warp brings the threshold of channel l.
template <int kCount, class E, int kAcross>
VDK_DEVICE void pack_channels(const E* from, bool valid, int channel, int64_t inner, float threshold,
                              uint32_t (&bits)[kAcross]) {
  float x[kCount][kAcross];
  VDK_UNROLL
  for (int i = 0; i < kCount; ++i) {
    const E* const at = from + (channel + i) * inner;
    if constexpr (kAcross == 1) {
      x[i][0] = valid ? to_float(load_global<E>(at)) : 0.0f;
    } else {
      const Four<E> four = load_four(at, valid ? 4 : 0, true);
      VDK_UNROLL
      for (int j = 0; j < 4; ++j) x[i][j] = to_float(four.v[j]);
    }
  }
  uint32_t below[kAcross] = {};
  VDK_UNROLL
  for (int i = 0; i < kCount; ++i) {
    const float t = __shfl_sync(~0u, threshold, channel + i);
    VDK_UNROLL
    for (int j = 0; j < kAcross; ++j)
      if (x[i][j] < t) below[j] |= 1u << i;
  }
  VDK_UNROLL
  for (int j = 0; j < kAcross; ++j) bits[j] |= below[j] << channel;
}

// Pixels beside each other: a lane takes four of them, at once or, where they cannot be read together, every
// 32nd one after the other, and of each 32 channels. Half words go through shared memory, so that a pixel's
// are stored beside each other.
template <class E, bool kWide>
VDK_KERNEL void __launch_bounds__(kPackThreads) xnor_pack_planes(PackKernelArgs<E> args) {
  constexpr int kAcross = kWide ? 4 : 1, kAtOnce = kWide ? 8 : 16;
  const XnorPackArgs<E>& a = args.a;
  VDK_SHARED_ARRAY(uint32_t, tile, kPackWarps* kPackPixels);
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  const int slot = warp % args.halves, group = warp / args.halves * kPackPixels;
  const int pixels = kPackWarps / args.halves * kPackPixels;  // of the block
  const int64_t pixel0 = int64_t(blockIdx.x) * pixels, total = a.outer * a.inner;
  const int64_t half = int64_t(blockIdx.y) * args.halves + slot, channel0 = half * kPackChannels;
  const int64_t left = a.channels - channel0, words = (a.channels + 63) / 64;
  const int n = int(left < kPackChannels ? left : kPackChannels);
  const float threshold = a.threshold && lane < n ? load_global<float>(a.threshold + channel0 + lane) : 0.0f;
  const uint32_t flip = half < 2 * words ? half_of_flip(a, half) : 0;
  const int64_t image0 = args.by.of(int(pixel0));
  VDK_ROLLED
  for (int first = group + lane * kAcross; first < group + kPackPixels; first += 32 * kAcross) {
    const int in_image0 = int(pixel0 - image0 * a.inner) + first, images = args.by.of(in_image0);
    const int64_t image = image0 + images, in_image = in_image0 - images * a.inner;
    const E* const from = a.x + (image * a.channels + channel0) * a.inner + in_image;
    const bool valid = image < a.outer;
    uint32_t bits[kAcross] = {};
    int c = 0;
    VDK_ROLLED
    for (; c + kAtOnce <= n; c += kAtOnce) pack_channels<kAtOnce>(from, valid, c, a.inner, threshold, bits);
    VDK_ROLLED
    for (; c < n; ++c) pack_channels<1>(from, valid, c, a.inner, threshold, bits);
    VDK_UNROLL
    for (int j = 0; j < kAcross; ++j) tile[(first + j) * args.halves + slot] = bits[j] ^ flip;
  }
  __syncthreads();
  const int per_pixel = args.halves / 2;  // words
  for (int i = int(threadIdx.x); i < pixels * per_pixel; i += kPackThreads) {
    const int64_t pixel = pixel0 + i / per_pixel, word = int64_t(blockIdx.y) * per_pixel + i % per_pixel;
    if (pixel < total && word < words)
      store_global(a.bits + pixel * words + word, tile[2 * i] | uint64_t(tile[2 * i + 1]) << 32);
  }
}

}  // namespace cuda
}  // namespace vdk
