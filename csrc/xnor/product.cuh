// The product's counts of differing bits: tiles of pixels and of weights on their way through shared memory,
// and two ways to count.
#pragma once
#include "../cuda/divisor.cuh"
#include "../cuda/launch.cuh"
#include "cuda.h"

namespace vdk {
namespace cuda {

constexpr int kTileOutputs = 64;  // a word of packed results
constexpr int kStepWords = 8;     // of 64 bits along the reduction
constexpr int kSlots = 4;         // steps in flight or in use
// Words from row to row in shared memory, by 16 four apart: the four words of four rows that half a warp
// reads, or the four rows of four words, lie in banks of their own.
constexpr int kPixelPitch = kStepWords + 4, kWordPitch = kTileOutputs + 4;
constexpr int kCountPitch = kTileOutputs + 1;  // of finished counts, which are read along columns too

struct SignProductArgs {
  XnorArgs a;
  int64_t pixels;                   // of all images
  int words, row_words, reduction;  // of a pixel, of a row of pixels, of a window
  Divisor by_words, by_kernel_w, by_plane, by_out_w;
  bool wide;                       // a pixel's words come in pairs at multiples of 16 bytes
  int64_t tiles_m, tiles_n, band;  // tiles_n: words of a packed result too
  const int32_t* tap_counts;       // [taps, outputs], or null where every window lies inside
};

// Bits counted by POPC, of which a multiprocessor of any architecture does 16 a clock, and 64 of the logic
// beside it. So a full adder takes two words and what is left of those before: it leaves a word that counts
// once and goes on, and one that counts twice and is counted, half as many.
struct CountByPopc {
  static constexpr int kThreads = 256, kPixels = 64;
  int twos[4][4] = {};  // pixels 16 apart; two outputs, and two 32 further
  uint32_t ones[4][4] = {};

  VDK_DEVICE static int row() { return int(threadIdx.x) / 16; }
  VDK_DEVICE static int col() { return int(threadIdx.x) % 16 * 2; }

  VDK_DEVICE static int carried(uint32_t& one, uint32_t x, uint32_t y) {
    const uint32_t sum = one ^ x, carry = (sum & y) | (~sum & one);
    one = sum ^ y;
    return __popc(carry);
  }
  VDK_DEVICE void add(const uint64_t* pixels, const uint64_t* weights) {
    VDK_UNROLL
    for (int k = 0; k < kStepWords; k += 2) {
      uint4 a[4], b[2][2];
      VDK_UNROLL
      for (int i = 0; i < 4; ++i) a[i] = load_shared<uint4>(pixels + (row() + 16 * i) * kPixelPitch + k);
      VDK_UNROLL
      for (int j = 0; j < 2; ++j) VDK_UNROLL
      for (int next = 0; next < 2; ++next)
        b[j][next] = load_shared<uint4>(weights + (k + next) * kWordPitch + col() + 32 * j);
      VDK_UNROLL
      for (int i = 0; i < 4; ++i) VDK_UNROLL
      for (int j = 0; j < 2; ++j) {
        const uint4 now = b[j][0], next = b[j][1];
        uint32_t &one = ones[i][2 * j], &other = ones[i][2 * j + 1];
        twos[i][2 * j] +=
            carried(one, a[i].x ^ now.x, a[i].y ^ now.y) + carried(one, a[i].z ^ next.x, a[i].w ^ next.y);
        twos[i][2 * j + 1] +=
            carried(other, a[i].x ^ now.z, a[i].y ^ now.w) + carried(other, a[i].z ^ next.z, a[i].w ^ next.w);
      }
    }
  }
  VDK_DEVICE void store(int* tile) const {
    VDK_UNROLL
    for (int i = 0; i < 4; ++i) VDK_UNROLL
    for (int j = 0; j < 4; ++j)
      tile[(row() + 16 * i) * kCountPitch + col() + j / 2 * 32 + j % 2] = 2 * twos[i][j] + __popc(ones[i][j]);
  }
};

// Bits counted by the tensor cores of sm_80 to sm_89, some thirty times as fast. A warp has 32 by 32.
template <int kPixels_>
struct CountByMma {
  static constexpr int kPixels = kPixels_, kThreads = 2 * kPixels;
  int counts[2][4][4] = {};

  VDK_DEVICE static int group() { return int(threadIdx.x) % 32 / 4; }
  VDK_DEVICE static int quad() { return int(threadIdx.x) % 4; }
  VDK_DEVICE static int row() { return int(threadIdx.x) / 64 * 32 + group(); }
  VDK_DEVICE static int col() { return int(threadIdx.x) / 32 % 2 * 32; }

  // The order of bits along the reduction is free: a lane's word of 64 is its 32 of the first half and its 32
  // of the second.
  VDK_DEVICE void add(const uint64_t* pixels, const uint64_t* weights) {
    VDK_UNROLL
    for (int k = 0; k < kStepWords; k += 4) {
      uint32_t a[2][4], b[4][2];
      VDK_UNROLL
      for (int i = 0; i < 2; ++i) VDK_UNROLL
      for (int down = 0; down < 2; ++down) {
        const uint2 word =
            load_shared<uint2>(pixels + (row() + 16 * i + 8 * down) * kPixelPitch + k + quad());
        a[i][down] = word.x, a[i][2 + down] = word.y;
      }
      VDK_UNROLL
      for (int j = 0; j < 4; ++j) {
        const uint2 word = load_shared<uint2>(weights + (k + quad()) * kWordPitch + col() + 8 * j + group());
        b[j][0] = word.x, b[j][1] = word.y;
      }
      VDK_UNROLL
      for (int i = 0; i < 2; ++i) VDK_UNROLL
      for (int j = 0; j < 4; ++j) mma_m16n8k256_b1(counts[i][j], a[i], b[j]);
    }
  }
  VDK_DEVICE void store(int* tile) const {
    VDK_UNROLL
    for (int i = 0; i < 2; ++i) VDK_UNROLL
    for (int j = 0; j < 4; ++j) VDK_UNROLL
    for (int e = 0; e < 4; ++e)
      tile[(row() + 16 * i + e / 2 * 8) * kCountPitch + col() + 8 * j + 2 * quad() + e % 2] = counts[i][j][e];
  }
};

template <class Count>
struct SharedCounts {
  static constexpr int kPixelWords = Count::kPixels * kPixelPitch, kWeightWords = kStepWords * kWordPitch;
  static constexpr int kSlot = kPixelWords + kWeightWords;
  static constexpr int kOperands = kSlots * kSlot * 8, kCounts = Count::kPixels * kCountPitch * 4;
  static constexpr int kBytes = kOperands > kCounts ? kOperands : kCounts;
  static_assert(kBytes <= 99 << 10);  // what sm_86 gives a block
};

// Where an output pixel's window begins in its image, which may be outside.
struct Corner {
  int64_t image;
  int h, w;

  VDK_DEVICE Corner(const SignProductArgs& args, int64_t pixel) {
    const XnorArgs& a = args.a;
    image = args.by_plane.of(int(pixel));
    const int in_plane = int(pixel - image * a.out_h * a.out_w);
    const int out_h = args.by_out_w.of(in_plane), out_w = in_plane - out_h * int(a.out_w);
    h = out_h * int(a.stride_h) - int(a.pad_h);
    w = out_w * int(a.stride_w) - int(a.pad_w);
  }
};

VDK_DEVICE bool inside(int at, int64_t size) { return unsigned(at) < unsigned(size); }

// The operands of a tile on their way to shared memory. What lies outside the image, or past the end, comes
// as zeros.
template <class Count>
struct SignFeed {
  static constexpr int kPairs = kStepWords / 2, kRowsAtOnce = Count::kThreads / kPairs;
  static constexpr int kRows = Count::kPixels / kRowsAtOnce;                       // of a thread
  static constexpr int kChunks = kTileOutputs * kStepWords / 2 / Count::kThreads;  // of weights
  static constexpr int kOfBlock = kStepWords * kXnorOutputs / 2;  // chunks of eight outputs, all in a row
  using Layout = SharedCounts<Count>;

  const SignProductArgs& args;
  uint64_t* shared;
  uintptr_t corner[kRows];  // addresses, which may be outside of the image
  int h[kRows], w[kRows];
  const uint64_t* weights[kChunks];  // null: no such outputs

  VDK_DEVICE SignFeed(const SignProductArgs& args, uint64_t* shared, int64_t pixel0, int64_t output0)
      : args(args), shared(shared) {
    const XnorArgs& a = args.a;
    VDK_UNROLL
    for (int i = 0; i < kRows; ++i) {
      const int64_t pixel = pixel0 + row(i);
      const bool valid = pixel < args.pixels;
      const Corner at(args, valid ? pixel : 0);
      h[i] = valid ? at.h : INT_MIN;  // outside
      w[i] = at.w;
      const int64_t words =
          at.image * a.height * args.row_words + int64_t(at.h) * args.row_words + int64_t(at.w) * args.words;
      corner[i] = reinterpret_cast<uintptr_t>(a.a) + 8 * uintptr_t(words);
    }
    VDK_UNROLL
    for (int i = 0; i < kChunks; ++i) {
      const int64_t block = output0 / kXnorOutputs + chunk(i) / kOfBlock;
      const bool valid = block * kXnorOutputs < a.outputs;
      weights[i] = valid ? a.w + block * args.reduction * kXnorOutputs + chunk(i) % kOfBlock * 2 : nullptr;
    }
  }
  VDK_DEVICE static int row(int i) { return int(threadIdx.x) / kPairs + i * kRowsAtOnce; }
  VDK_DEVICE static int chunk(int i) { return int(threadIdx.x) + i * Count::kThreads; }

  // From word k of the reduction on: one of this thread's pixels, one word or a pair.
  template <bool kPair>
  VDK_DEVICE void fetch_pixels(uint64_t* to, int k) const {
    const XnorArgs& a = args.a;
    const int tap = args.by_words.of(k), word = k - tap * args.words;
    const int tap_h = args.by_kernel_w.of(tap), tap_w = tap - tap_h * int(a.kernel_w);
    const int down = tap_h * int(a.dilation_h), along = tap_w * int(a.dilation_w);
    const int offset = down * args.row_words + along * args.words + word;
    VDK_UNROLL
    for (int i = 0; i < kRows; ++i) {
      const bool valid = k < args.reduction && inside(h[i] + down, a.height) && inside(w[i] + along, a.width);
      const uintptr_t from = corner[i] + uintptr_t(int64_t(offset) * 8);
      const uint64_t* const source = valid ? reinterpret_cast<const uint64_t*>(from) : a.a;
      uint64_t* const place = to + row(i) * kPixelPitch;
      if constexpr (kPair)
        cp_async16(place, source, valid);
      else
        cp_async8(place, source, valid);
    }
  }

  VDK_DEVICE void fetch(int step) const {
    uint64_t* const to = shared + step % kSlots * Layout::kSlot;
    const int pair = int(threadIdx.x) % kPairs * 2, k = step * kStepWords + pair;
    if (args.wide) {
      fetch_pixels<true>(to + pair, k);
    } else {
      fetch_pixels<false>(to + pair, k);
      fetch_pixels<false>(to + pair + 1, k + 1);
    }
    VDK_UNROLL
    for (int i = 0; i < kChunks; ++i) {
      const int word = chunk(i) % kOfBlock / 4;
      const int place = word * kWordPitch + chunk(i) / kOfBlock * kXnorOutputs + chunk(i) % 4 * 2;
      const bool valid = weights[i] && step * kStepWords + word < args.reduction;
      const uint64_t* const from = valid ? weights[i] + step * (kStepWords * kXnorOutputs) : args.a.w;
      cp_async16(to + Layout::kPixelWords + place, from, valid);
    }
  }
};

}  // namespace cuda
}  // namespace vdk
