// Convolutions of packed signs, a linear layer being one of 1x1 images: an implicit GEMM of integer counts.
// Taps outside of the image are fed as zeros; the weights' bits, which were counted there, are taken off
// again.
#pragma once
#include "../cuda/bands.cuh"
#include "pack.cuh"
#include "product.cuh"

namespace vdk {
namespace cuda {

constexpr int kTapThreads = 256;

struct TapCountArgs {
  const uint64_t* w;
  int64_t outputs, taps, words;
  int32_t* counts;  // [taps, outputs]
};

// Bits of each tap of each output.
VDK_KERNEL void __launch_bounds__(kTapThreads) xnor_tap_counts(TapCountArgs a) {
  const int64_t i = int64_t(blockIdx.x) * kTapThreads + threadIdx.x;
  if (i >= a.taps * a.outputs) return;
  const int64_t tap = i / a.outputs, output = i - tap * a.outputs, block = output / kXnorOutputs;
  const uint64_t* const w = a.w + (block * a.taps + tap) * a.words * kXnorOutputs + output % kXnorOutputs;
  int count = 0;
  for (int64_t k = 0; k < a.words; ++k) {
    const uint2 word = load_global<uint2>(w + k * kXnorOutputs);
    count += __popc(word.x) + __popc(word.y);
  }
  store_global(a.counts + i, count);
}

// What becomes of a tile of counts. Lanes take the outputs of a pixel, `output0` to the 64th after it.
template <class Count>
struct SignFinish {
  static constexpr int kWarps = Count::kThreads / 32;
  const SignProductArgs& args;
  int* tile;
  int64_t pixel0, output0;

  VDK_DEVICE bool has(int output) const { return output0 + output < args.a.outputs; }

  // Sums of signs of outputs `lane` and `lane + 32`.
  VDK_DEVICE void sums(int pixel, int (&z)[2]) const {
    const XnorArgs& a = args.a;
    const int lane = int(threadIdx.x) % 32;
    const Corner corner(args, pixel0 + pixel);
    int taps = int(a.kernel_h * a.kernel_w);
    VDK_UNROLL
    for (int j = 0; j < 2; ++j) z[j] = tile[pixel * kCountPitch + lane + 32 * j];
    if (args.tap_counts) {
      const int32_t* counts = args.tap_counts + output0 + lane;
      for (int i = 0; i < int(a.kernel_h); ++i)
        for (int k = 0; k < int(a.kernel_w); ++k, counts += a.outputs) {
          if (inside(corner.h + i * int(a.dilation_h), a.height) &&
              inside(corner.w + k * int(a.dilation_w), a.width))
            continue;
          --taps;
          VDK_UNROLL
          for (int j = 0; j < 2; ++j)
            if (has(lane + 32 * j)) z[j] -= load_global<int32_t>(counts + 32 * j);
        }
    }
    VDK_UNROLL
    for (int j = 0; j < 2; ++j) z[j] = taps * int(a.channels) - 2 * z[j];
  }

  VDK_DEVICE float value(int z, int64_t output) const {
    const float scaled = __fmul_rn(float(z), load_global<float>(args.a.alpha + output));
    return args.a.bias ? __fadd_rn(scaled, load_global<float>(args.a.bias + output)) : scaled;
  }

  VDK_DEVICE void by_pixel() const {
    const XnorArgs& a = args.a;
    const int lane = int(threadIdx.x) % 32;
    for (int pixel = int(threadIdx.x) / 32; pixel < Count::kPixels; pixel += kWarps) {
      const int64_t at = pixel0 + pixel;
      if (at >= args.pixels) break;
      int z[2];
      sums(pixel, z);
      if (a.y && !a.pixels_first) {
        VDK_UNROLL
        for (int j = 0; j < 2; ++j) tile[pixel * kCountPitch + lane + 32 * j] = z[j];
      } else if (a.y) {
        VDK_UNROLL
        for (int j = 0; j < 2; ++j)
          if (has(lane + 32 * j)) {
            const int64_t output = output0 + lane + 32 * j;
            store_global(a.y + at * a.outputs + output, value(z[j], output));
          }
      } else {
        uint32_t half[2];
        VDK_UNROLL
        for (int j = 0; j < 2; ++j) {
          const int64_t output = output0 + lane + 32 * j;
          half[j] =
              __ballot_sync(~0u, has(lane + 32 * j) ? z[j] < load_global<int32_t>(a.threshold + output) : 0);
        }
        const int64_t word = output0 / 64;
        if (lane == 0)
          store_global(a.bits + at * args.tiles_n + word,
                       (half[0] | uint64_t(half[1]) << 32) ^ load_global<uint64_t>(a.flip + word));
      }
    }
  }

  // Sums of signs to planes: lanes take the pixels of an output.
  VDK_DEVICE void by_plane() const {
    constexpr int kOfLane = Count::kPixels / 32;
    const XnorArgs& a = args.a;
    const int64_t plane = a.out_h * a.out_w;
    const int lane = int(threadIdx.x) % 32;
    float* to[kOfLane];
    VDK_UNROLL
    for (int i = 0; i < kOfLane; ++i) {
      const int64_t pixel = pixel0 + lane + 32 * i, image = args.by_plane.of(int(pixel));
      to[i] = a.y + (image * a.outputs + output0) * plane + (pixel - image * plane);
    }
    for (int output = int(threadIdx.x) / 32; output < kTileOutputs; output += kWarps) {
      if (!has(output)) break;
      VDK_UNROLL
      for (int i = 0; i < kOfLane; ++i)
        if (pixel0 + lane + 32 * i < args.pixels)
          store_global(to[i] + output * plane,
                       value(tile[(lane + 32 * i) * kCountPitch + output], output0 + output));
    }
  }
};

template <class Count>
VDK_KERNEL void __launch_bounds__(Count::kThreads) xnor_product(SignProductArgs args) {
  VDK_SHARED(uint64_t, shared);
  const TilePlace place(args);
  const int64_t pixel0 = place.m * Count::kPixels, output0 = place.n * kTileOutputs;
  const SignFeed<Count> feed(args, shared, pixel0, output0);
  const int steps = (args.reduction + kStepWords - 1) / kStepWords;
  Count count;
  for (int step = 0; step < kSlots - 1; ++step) {
    if (step < steps) feed.fetch(step);
    cp_async_commit();
  }
  for (int step = 0; step < steps; ++step) {
    cp_async_wait<kSlots - 2>();
    __syncthreads();  // the step's operands are here, and nobody reads the slot filled next
    if (step + kSlots - 1 < steps) feed.fetch(step + kSlots - 1);
    cp_async_commit();
    const uint64_t* const pixels = shared + step % kSlots * SharedCounts<Count>::kSlot;
    count.add(pixels, pixels + SharedCounts<Count>::kPixelWords);
  }
  cp_async_wait<0>();
  __syncthreads();
  const SignFinish<Count> finish{args, reinterpret_cast<int*>(shared), pixel0, output0};
  count.store(finish.tile);
  __syncthreads();
  finish.by_pixel();
  if (!args.a.y || args.a.pixels_first) return;
  __syncthreads();
  finish.by_plane();
}

}  // namespace cuda
}  // namespace vdk
