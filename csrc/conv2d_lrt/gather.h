// Convolutions as products over a grid of pixels, and how its operands are packed from images in place.
#pragma once
#include "../common/gemm.h"
#include "conv2d_lrt.h"

namespace vdk {
namespace VDK_ISA {

// Pixel (a, b) of a grid takes, for tap (i, j), the source's pixel (a step_h + first_h + i tap_step_h, ...),
// which is 0 outside the image. The forward pass is one such grid, the input gradient of a strided
// convolution several: one for each remainder of the input's position.
struct Gather {
  int64_t batch, channels, height, width;              // of the source; channels of one group
  int64_t image_stride, channel_stride, pixel_stride;  // of the source
  int64_t grid_h, grid_w, step_h, step_w, first_h, first_w;
  int64_t taps_h, taps_w, tap_step_h, tap_step_w;

  int64_t pixels() const { return batch * grid_h * grid_w; }
  int64_t depth() const { return taps_h * taps_w * channels; }  // k = (tap, channel)
};

// A pixel of the grid, and the next one.
struct Place {
  int64_t image, a, b;
  Place(const Gather& g, int64_t pixel)
      : image(pixel / (g.grid_h * g.grid_w)), a(pixel / g.grid_w % g.grid_h), b(pixel % g.grid_w) {}
  void advance(const Gather& g) {
    if (++b < g.grid_w) return;
    b = 0;
    if (++a < g.grid_h) return;
    a = 0;
    ++image;
  }
};

// Two images packed side by side: x and x^2, or dy and g_v = dy r.
template <class T, bool kSquare>
struct Source {
  const T* first;
  const T* factor;  // r, where not kSquare

  Source operator+(int64_t offset) const { return {first + offset, kSquare ? factor : factor + offset}; }
};

// Lanes [lo, hi) are p[lane * step], the others those of `rest`, which must be 0 in [lo, hi).
template <class T>
VDK_INLINE Vec<T> load_lanes(const T* p, int lo, int hi, int64_t step, Vec<T> rest) {
  alignas(64) T lanes[kLanes<T>];
  store(lanes, rest);
  for (int i = lo; i < hi; ++i) lanes[i] = p[i * step];
  return load(lanes);
}
#if defined(__AVX512F__)
VDK_INLINE VecF load_lanes(const float* p, int lo, int hi, int64_t step, VecF rest) {
  const __mmask16 wanted = __mmask16((1u << hi) - (1u << lo));
  if (step == 1) return (VecF)_mm512_mask_loadu_ps((__m512)rest, wanted, p);
  if (step == 2) {  // every other element of two vectors, of which nothing outside [lo, hi) is touched
    const uint32_t touched = uint32_t((uint64_t{1} << (2 * hi - 1)) - (uint64_t{1} << 2 * lo));
    const __m512 a = _mm512_maskz_loadu_ps(__mmask16(touched), p);
    const __m512 b = _mm512_maskz_loadu_ps(__mmask16(touched >> 16), p + 16);
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return (VecF)_mm512_mask_mov_ps((__m512)rest, wanted, _mm512_permutex2var_ps(a, even, b));
  }
  return load_lanes<float>(p, lo, hi, step, rest);
}
#elif defined(__AVX2__)
VDK_INLINE VecF load_lanes(const float* p, int lo, int hi, int64_t step, VecF rest) {
  if (step != 1) return load_lanes<float>(p, lo, hi, step, rest);
  const __m256i wanted = _mm256_andnot_si256(lane_mask<int32_t>(lo), lane_mask<int32_t>(hi));
  return (VecF)_mm256_or_ps((__m256)rest, _mm256_maskload_ps(p, wanted));
}
#endif

// A vector of neighbouring grid pixels under one tap: pieces of rows of the image.
template <class T>
struct Lanes {
  struct Piece {
    int64_t offset;
    int lo, hi;
  };
  Piece pieces[kLanes<T>];
  int count;
  bool whole;  // one piece of all lanes, neighbours in memory
  int64_t step;

  // `n` pixels from `at` on
  VDK_INLINE void find(const Gather& g, Place at, int64_t n, int64_t tap) {
    count = 0;
    const int64_t i = tap / g.taps_w, j = tap % g.taps_w;
    step = g.step_w * g.pixel_stride;
    for (int64_t lane = 0; lane < n && lane < kLanes<T>;) {
      const int64_t run = at_most(at_most(n, kLanes<T>) - lane, g.grid_w - at.b);
      const int64_t h = at.a * g.step_h + g.first_h + i * g.tap_step_h;
      const int64_t w = at.b * g.step_w + g.first_w + j * g.tap_step_w;  // of the first lane
      if (h >= 0 && h < g.height) {
        const int64_t skip = w < 0 ? (-w + g.step_w - 1) / g.step_w : 0;
        const int64_t end = w < g.width ? at_most(run, (g.width - w + g.step_w - 1) / g.step_w) : 0;
        if (skip < end)
          pieces[count++] = {at.image * g.image_stride + (h * g.width + w - lane * g.step_w) * g.pixel_stride,
                             int(lane + skip), int(lane + end)};
      }
      lane += run;
      at.b += run - 1;
      at.advance(g);
    }
    whole = count == 1 && step == 1 && pieces[0].lo == 0 && pieces[0].hi == kLanes<T>;
  }
  VDK_INLINE Vec<T> load_from(const T* p) const {
    if (whole) return load(p + pieces[0].offset);
    Vec<T> v{};
    for (int i = 0; i < count; ++i) v = load_lanes(p + pieces[i].offset, pieces[i].lo, pieces[i].hi, step, v);
    return v;
  }
  template <bool kSquare>
  VDK_INLINE void prefetch(const Source<T, kSquare>& from) const {
    if (count == 0) return;
    __builtin_prefetch(from.first + pieces[0].offset + pieces[0].lo * step);
    if (!kSquare) __builtin_prefetch(from.factor + pieces[0].offset + pieces[0].lo * step);
  }
  // The vector and its partner.
  template <bool kSquare>
  VDK_INLINE void load_both(const Source<T, kSquare>& from, Vec<T>& v, Vec<T>& partner) const {
    if (kSquare || whole) {
      v = load_from(from.first);
      partner = kSquare ? v * v : v * load_from(from.factor);
      return;
    }
    Vec<T> factor{};
    v = factor;
    for (int i = 0; i < count; ++i) {
      v = load_lanes(from.first + pieces[i].offset, pieces[i].lo, pieces[i].hi, step, v);
      factor = load_lanes(from.factor + pieces[i].offset, pieces[i].lo, pieces[i].hi, step, factor);
    }
    partner = v * factor;
  }
};

// Calls f(k, tap, first channel, n) for the runs of one tap in [k0, k1).
template <class F>
VDK_INLINE void for_taps(const Gather& g, int64_t k0, int64_t k1, F&& f) {
  for (int64_t k = k0; k < k1;) {
    const int64_t c = k % g.channels, n = at_most(g.channels - c, k1 - k);
    f(k, k / g.channels, c, n);
    k += n;
  }
}

// NCHW: panels with lanes along the pixels.
template <class T, bool kSquare>
struct PixelPanels {
  const Gather& g;
  Source<T, kSquare> source;
  const Chunks& chunks;

  // Channel by channel over all panels, since what lies side by side in the image is fetched side by side.
  VDK_INLINE Packed<T, T> panels(int64_t j0, int64_t n, int64_t chunk, T* to) const {
    constexpr int kCols = Tile<T>::kCols, kL = kLanes<T>;
    const int64_t panel = chunks.depth * kCols, count = (n + kCols - 1) / kCols, beyond = count * panel;
    const int64_t k0 = chunk * chunks.depth;
    for (int64_t p0 = 0; p0 < count; p0 += kPanelsAtOnce) {
      const int64_t vectors = at_most(count - p0, kPanelsAtOnce) * Tile<T>::kVectors;
      for_taps(g, k0, k0 + chunks.length(chunk), [&](int64_t k, int64_t tap, int64_t c, int64_t channels) {
        Lanes<T> lanes[kPanelsAtOnce * Tile<T>::kVectors];
        for (int64_t v = 0; v < vectors; ++v) {
          const int64_t at = p0 * kCols + v * kL;
          lanes[v].find(g, Place(g, j0 + at), n - at, tap);
        }
        // a few channels at a time, so that branches on the pieces of a vector repeat themselves
        for (int64_t i0 = 0; i0 < channels; i0 += kAhead) {
          const int64_t tile = at_most(channels - i0, kAhead);
          const auto from = source + (c + i0) * g.channel_stride;
          const auto ahead = from + (i0 + kAhead < channels ? kAhead * g.channel_stride : 0);
          for (int64_t v = 0; v < vectors; ++v) {
            T* const row = to + (p0 + v / Tile<T>::kVectors) * panel + (k - k0 + i0) * kCols +
                           v % Tile<T>::kVectors * kL;
            for (int64_t i = 0; i < tile; ++i) {
              Vec<T> value, partner;
              lanes[v].load_both(from + i * g.channel_stride, value, partner);
              lanes[v].prefetch(ahead + i * g.channel_stride);
              store(row + i * kCols, value);
              store(row + i * kCols + beyond, partner);
            }
          }
        }
      });
    }
    return {to, to + beyond, panel};
  }
  static constexpr int64_t kPanelsAtOnce = 4, kAhead = 8;  // channels fetched ahead
};

// NHWC: what grid pixel `at` sees, [k0, k1) of it, written along k to `to` and its partner to `partner`.
template <class T, bool kSquare>
VDK_INLINE void pack_pixel(const Gather& g, const Source<T, kSquare>& source, const Place& at, int64_t k0,
                           int64_t k1, T* to, T* partner) {
  const auto zeros = [&](int64_t k, int64_t n) __attribute__((always_inline)) {
    for (int64_t i = 0; i < n; i += kLanes<T>) {
      store_first(to + k - k0 + i, Vec<T>{}, n - i);
      store_first(partner + k - k0 + i, Vec<T>{}, n - i);
    }
  };
  const auto copy = [&](int64_t k, int64_t offset, int64_t n) __attribute__((always_inline)) {
    for (int64_t i = 0; i < n; i += kLanes<T>) {
      const Vec<T> v = load_first(source.first + offset + i, n - i);
      const Vec<T> other = kSquare ? v : load_first(source.factor + offset + i, n - i);
      store_first(to + k - k0 + i, v, n - i);
      store_first(partner + k - k0 + i, v * other, n - i);
    }
  };
  const int64_t w0 = at.b * g.step_w + g.first_w, line = g.taps_w * g.channels;
  // taps that are neighbours in memory are one run
  const bool joined = g.tap_step_w == 1 && g.pixel_stride == g.channels;
  for (int64_t k = k0; k < k1;) {
    const int64_t i = k / line, h = at.a * g.step_h + g.first_h + i * g.tap_step_h;
    const int64_t row = at.image * g.image_stride + h * g.width * g.pixel_stride;
    const int64_t q = k - i * line, unit = joined ? line : g.channels;
    const int64_t end = at_most(k1, k + unit - q % unit),
                  w = w0 + (joined ? 0 : q / g.channels * g.tap_step_w);
    int64_t lo = k, hi = end;  // what lies inside the image
    if (h < 0 || h >= g.height) {
      lo = hi = end;
    } else if (joined) {
      lo = at_most(at_least(k, k - q - w * g.channels), end);
      hi = at_least(at_most(end, k - q + (g.width - w) * g.channels), lo);
    } else if (w < 0 || w >= g.width) {
      lo = hi = end;
    }
    zeros(k, lo - k);
    copy(lo, row + w * g.pixel_stride + (lo - k) + (joined ? q : q % unit), hi - lo);
    zeros(hi, end - hi);
    k = end;
  }
}

// NHWC: rows are pixels, contiguous in k.
template <class T, bool kSquare>
struct PixelRows {
  const Gather& g;
  Source<T, kSquare> source;
  const Chunks& chunks;

  VDK_INLINE Packed<T, T> rows(int64_t i0, int64_t n, int64_t chunk, T* to, bool) const {
    const int64_t depth = chunks.depth, k0 = chunk * depth, k1 = k0 + chunks.length(chunk);
    const int64_t padded = round_up(n, Tile<T>::kRows);
    T* const partner = to + padded * depth;
    Place place(g, i0);
    for (int64_t i = 0; i < n; ++i, place.advance(g))
      pack_pixel(g, source, place, k0, k1, to + i * depth, partner + i * depth);
    for (int64_t i = n * depth; i < padded * depth; ++i) to[i] = partner[i] = 0;
    return {to, partner, depth};
  }
};

}  // namespace VDK_ISA
}  // namespace vdk
