// Operands gathered from images: where a pixel of the product's grid meets an image under a place of the
// kernel. No patch is stored anywhere but in the tile that is multiplied.
#pragma once
#include "../cuda/divisor.cuh"
#include "../linear_lrt/stage.cuh"

namespace vdk {
namespace cuda {

constexpr int kNowhere =
    -(1 << 30);  // of a pixel or a place that does not exist: it meets no row of an image

// Rows and columns at which the products look: pixel (h, w) of the grid and place (i, j) of the kernel meet
// row (h scale.h + origin.h + i step.h) / by_h of the image, where that is whole and there is such a row.
struct Pair {
  int h, w;
};

// The pixels of a grid of images, each padded to a multiple of four, so that no noise of four straddles two.
struct PixelGrid {
  Divisor by_padded, by_width;
  int pixels;  // of an image

  VDK_DEVICE int padded() const { return int(by_padded.divisor); }
};

struct Gather {
  PixelGrid grid;
  Pair scale, origin, step;
  Divisor by_h, by_w;
  Pair size;                         // of the image
  Divisor by_channels, by_kernel_w;  // channels of a group; a place's index runs over those first
  int64_t image, group;              // elements from one to the next
  Pair stride;
  int channel;
};

// A pixel of the grid: its image, and where the kernel's first place lies in it.
struct Pixel {
  int64_t image;
  int h, w;
};
struct Place {
  int h, w, channel;
};

template <bool kTransposed>
struct Patch {
  const Gather& g;

  VDK_DEVICE Pixel pixel(int index, int end, int64_t group) const {
    const int image = g.grid.by_padded.of(index), at = index - image * g.grid.padded();
    const int h = g.grid.by_width.of(at), w = at - h * int(g.grid.by_width.divisor);
    const bool there = index < end && at < g.grid.pixels;
    return {image * g.image + group, there ? h * g.scale.h + g.origin.h : kNowhere,
            w * g.scale.w + g.origin.w};
  }
  VDK_DEVICE Place place(int index, int end) const {
    const int tap = g.by_channels.of(index), channel = index - tap * int(g.by_channels.divisor);
    const int h = g.by_kernel_w.of(tap), w = tap - h * int(g.by_kernel_w.divisor);
    return {index < end ? h * g.step.h : kNowhere, w * g.step.w, channel * g.channel};
  }
  // Where they meet, in elements from the beginning of the images.
  VDK_DEVICE bool meet(const Pixel& pixel, const Place& place, int64_t& at) const {
    int h = pixel.h + place.h, w = pixel.w + place.w;
    bool there = true;
    if constexpr (kTransposed) {  // between the pixels that a stride reaches there is nothing
      const int down = g.by_h.of(h), across = g.by_w.of(w);
      there = h >= 0 && w >= 0 && down * int(g.by_h.divisor) == h && across * int(g.by_w.divisor) == w;
      h = down;
      w = across;
    }
    there = there && unsigned(h) < unsigned(g.size.h) && unsigned(w) < unsigned(g.size.w);
    at = there ? pixel.image + (h * g.stride.h + w * g.stride.w + place.channel) : 0;
    return there;
  }
};

// A tile of patches, in chunks of 16 bytes where channels lie side by side and whole, else by elements.
// Pixels are its rows, or the reduction; places of the kernel are the other.
template <class Tile, int kThreads, bool kPixelRows, bool kTransposed>
struct Patches {
  using E = typename Tile::E;
  using C = Chunks<Tile, kThreads>;
  static constexpr int kRows = Tile::kDeep ? Tile::kLines : Tile::kLength;
  // element by element the threads go along pixels, which lie side by side where channels do not
  static constexpr int kAlong = kPixelRows ? kRows : kBlockK<E>, kElements = C::kCount * C::kWidth;
  static constexpr int kApart = kThreads / kAlong;
  static_assert(kThreads % kAlong == 0 && Tile::kDeep == kPixelRows);

  // what the kernel was given, by reference: it takes no registers
  const Patch<kTransposed> patch;
  const int64_t &rows_end, &depth_end;
  int64_t group;
  int pixel, place;                        // of this thread's first chunk or element, at this step
  Pixel rows[kPixelRows ? C::kCount : 1];  // pixels that stay: of chunks, or one

  VDK_DEVICE Patches(const Gather& gather, bool whole, const int64_t& rows_end, const int64_t& depth_end,
                     int64_t row0, int64_t k0)
      : patch{gather}, rows_end(rows_end), depth_end(depth_end), group(blockIdx.z * gather.group) {
    const int thread = threadIdx.x;
    const int line = whole ? C::line() : thread % kAlong, at = whole ? C::at() : thread / kAlong;
    pixel = int(kPixelRows ? row0 : k0) + line;
    place = int(kPixelRows ? k0 : row0) + at;
    if constexpr (kPixelRows) VDK_UNROLL
    for (int i = 0; i < C::kCount; ++i) rows[i] = pixel_at(i * C::kLinesAtOnce);
  }

  VDK_DEVICE void advance() { (kPixelRows ? place : pixel) += kBlockK<E>; }
  VDK_DEVICE Pixel pixel_at(int further) const {
    return patch.pixel(pixel + further, int(kPixelRows ? rows_end : depth_end), group);
  }
  VDK_DEVICE Place place_at(int further) const {
    return patch.place(place + further, int(kPixelRows ? depth_end : rows_end));
  }

  VDK_DEVICE static int in_tile(int i) {
    const int along = int(threadIdx.x) % kAlong, other = int(threadIdx.x) / kAlong + i * kApart;
    return kPixelRows ? Tile::at(along, other) : Tile::at(other, along);
  }
  // f(chunk, where it is in the images, whether it is there)
  template <class F>
  VDK_DEVICE void for_chunks(F&& f) const {
    const Place now = place_at(0);
    VDK_UNROLL
    for (int i = 0; i < C::kCount; ++i) {
      int64_t at;
      const bool there =
          patch.meet(kPixelRows ? rows[kPixelRows ? i : 0] : pixel_at(i * C::kLinesAtOnce), now, at);
      f(i, at, there);
    }
  }
  VDK_DEVICE Pixel now() const { return kPixelRows ? rows[0] : pixel_at(0); }
  VDK_DEVICE bool element(const Pixel& along, int i, int64_t& at) const {
    return patch.meet(along, place_at(i * kApart), at);
  }
};

// Elements one at a time: of four bytes nothing waits for the copy, of two as many are loaded at a time as
// hide each other's way.
template <bool kPair, class E, class V, class W>
VDK_DEVICE void copy_elements(E* to, V* to2, const E* from, const V* from2, const W& patches) {
  constexpr int kAtOnce = 4;
  const Pixel along = patches.now();
  VDK_ROLLED
  for (int first = 0; first < W::kElements; first += kAtOnce) {
    E x[kAtOnce];
    V x2[kAtOnce];
    VDK_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      int64_t at;
      const bool there = patches.element(along, first + i, at);
      if constexpr (sizeof(E) == 4) {
        cp_async4(to + W::in_tile(first + i), from + at, there);
        if constexpr (kPair) cp_async4(to2 + W::in_tile(first + i), from2 + at, there);
      } else {
        x[i] = there ? load_global<E>(from + at) : E{};
        if constexpr (kPair) x2[i] = there ? load_global<V>(from2 + at) : V{};
      }
    }
    if constexpr (sizeof(E) == 2) VDK_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      store_shared(to + W::in_tile(first + i), x[i]);
      if constexpr (kPair) store_shared(to2 + W::in_tile(first + i), x2[i]);
    }
  }
}

template <bool kPair, class E, class V, class Tile, int kThreads, bool kPixelRows, bool kTransposed>
VDK_DEVICE void copy_tile(E* to, V* to2, const void* const& from, const void* const& from2, const bool& whole,
                          const Patches<Tile, kThreads, kPixelRows, kTransposed>& patches) {
  using W = Patches<Tile, kThreads, kPixelRows, kTransposed>;
  const E* const x = static_cast<const E*>(from);
  const V* const x2 = static_cast<const V*>(from2);
  if (!whole) return copy_elements<kPair>(to, to2, x, x2, patches);
  patches.for_chunks([&](int i, int64_t at, bool there) {
    cp_async16(to + W::C::in_tile(i), x + at, there);
    if constexpr (kPair) cp_async16(to2 + W::C::in_tile(i), x2 + at, there);
  });
}

}  // namespace cuda
}  // namespace vdk
