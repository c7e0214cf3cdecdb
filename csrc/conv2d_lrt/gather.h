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
  Place() = default;
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

// One of the kernel's.
struct Tap {
  int64_t h, w;
  void next(const Gather& g) {
    if (++w < g.taps_w) return;
    w = 0;
    ++h;
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
  VDK_INLINE void find(const Gather& g, Place at, int64_t n, const Tap& tap) {
    count = 0;
    step = g.step_w * g.pixel_stride;
    const auto steps = [&](int64_t w) { return g.step_w == 1 ? w : (w + g.step_w - 1) / g.step_w; };
    for (int64_t lane = 0; lane < n && lane < kLanes<T>;) {
      const int64_t run = at_most(at_most(n, kLanes<T>) - lane, g.grid_w - at.b);
      const int64_t h = at.a * g.step_h + g.first_h + tap.h * g.tap_step_h;
      const int64_t w = at.b * g.step_w + g.first_w + tap.w * g.tap_step_w;  // of the first lane
      if (h >= 0 && h < g.height) {
        const int64_t skip = w < 0 ? steps(-w) : 0;
        const int64_t end = w < g.width ? at_most(run, steps(g.width - w)) : 0;
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
  // columns [k, k + n) of what one pixel sees, from its first tap on
  VDK_INLINE void find_columns(const Gather& g, int64_t k, int64_t n) {
    count = 0;
    step = 1;
    for (int64_t lane = 0, run; lane < n && lane < kLanes<T>; lane += run) {
      const int64_t tap = (k + lane) / g.channels, c = (k + lane) % g.channels;
      run = at_most(at_most(n, kLanes<T>) - lane, g.channels - c);
      const int64_t pixel = tap / g.taps_w * g.tap_step_h * g.width + tap % g.taps_w * g.tap_step_w;
      const int64_t offset = pixel * g.pixel_stride + c - lane;
      if (count > 0 && pieces[count - 1].offset == offset)
        pieces[count - 1].hi += int(run);
      else
        pieces[count++] = {offset, int(lane), int(lane + run)};
    }
    whole = count == 1 && pieces[0].hi == kLanes<T>;
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
      Place places[kPanelsAtOnce * Tile<T>::kVectors];
      for (int64_t v = 0; v < vectors; ++v) places[v] = Place(g, j0 + p0 * kCols + v * kL);
      for_taps(g, k0, k0 + chunks.length(chunk), [&](int64_t k, int64_t tap, int64_t c, int64_t channels) {
        Lanes<T> lanes[kPanelsAtOnce * Tile<T>::kVectors];
        const Tap window{tap / g.taps_w, tap % g.taps_w};
        for (int64_t v = 0; v < vectors; ++v) lanes[v].find(g, places[v], n - p0 * kCols - v * kL, window);
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

// [begin, end) of what a pixel sees, and where in the kernel that begins.
struct Stretch {
  int64_t begin, end, tap_h, tap_w, channel;
  Stretch(const Gather& g, int64_t begin, int64_t end)
      : begin(begin),
        end(end),
        tap_h(begin / (g.taps_w * g.channels)),
        tap_w(begin / g.channels % g.taps_w),
        channel(begin % g.channels) {}
};

// NHWC: a stretch of what grid pixel `at` sees, written along k to `to` and its partner to `partner`.
// Elements up to `room` may be written beyond, with zeros: whole vectors are faster than pieces.
template <class T, bool kSquare>
VDK_INLINE void pack_pixel(const Gather& g, const Source<T, kSquare>& source, const Place& at,
                           const Stretch& stretch, int64_t room, T* to, T* partner) {
  const T* const last = to + room - kLanes<T>;
  const auto put = [&](Vec<T> v, Vec<T> other, int64_t i, int64_t n) __attribute__((always_inline)) {
    n = to + i <= last ? kLanes<T> : n;
    store_first(to + i, v, n);
    store_first(partner + i, other, n);
  };
  const auto zeros = [&](int64_t i, int64_t end) __attribute__((always_inline)) {
    for (; i < end; i += kLanes<T>) put(Vec<T>{}, Vec<T>{}, i, end - i);
  };
  const auto copy = [&](int64_t i, int64_t end, int64_t offset) __attribute__((always_inline)) {
    for (; i < end; i += kLanes<T>, offset += kLanes<T>) {
      const Vec<T> v = load_first(source.first + offset, end - i);
      put(v, v * (kSquare ? v : load_first(source.factor + offset, end - i)), i, end - i);
    }
  };
  const int64_t w0 = at.b * g.step_w + g.first_w, line = g.taps_w * g.channels,
                n = stretch.end - stretch.begin;
  // taps that are neighbours in memory are one run
  const bool joined = g.tap_step_w == 1 && g.pixel_stride == g.channels;
  int64_t h = at.a * g.step_h + g.first_h + stretch.tap_h * g.tap_step_h;
  int64_t tap = stretch.tap_w, c = stretch.channel;
  const bool inside = joined && h >= 0 && h + (g.taps_h - 1 - stretch.tap_h) * g.tap_step_h < g.height &&
                      g.tap_step_h > 0 && w0 >= 0 && w0 + g.taps_w <= g.width;
  if (inside) {
    int64_t i = 0, from = at.image * g.image_stride + (h * g.width + w0 + tap) * g.channels + c;
    const int64_t next_line = g.tap_step_h * g.width * g.channels;
    if (tap == 0 && c == 0)  // lines shorter than a vector: what is written beyond one, the next overwrites
      for (; line < kLanes<T> && i + kLanes<T> <= room && i + line <= n; i += line, from += next_line) {
        const Vec<T> v = load_masked(source.first + from, int(line));
        store(to + i, v);
        store(partner + i, v * (kSquare ? v : load_masked(source.factor + from, int(line))));
      }
    for (int64_t end = i + line - tap * g.channels - c; i < n; i = end, end += line) {
      copy(i, at_most(n, end), from);
      from += next_line - line + end - i;
    }
    return;
  }
  for (int64_t i = 0; i < n; h += g.tap_step_h, tap = c = 0) {
    const int64_t zero = i - tap * g.channels - c, end = at_most(n, zero + line);  // where the line begins
    if (h < 0 || h >= g.height) {
      zeros(i, end);
      i = end;
      continue;
    }
    const int64_t row = at.image * g.image_stride + h * g.width * g.pixel_stride;
    if (joined) {
      const int64_t lo = at_most(at_least(i, zero - w0 * g.channels), end);
      const int64_t hi = at_least(at_most(end, zero + (g.width - w0) * g.channels), lo);
      zeros(i, lo);
      copy(lo, hi, row + w0 * g.channels + lo - zero);
      zeros(hi, end);
      i = end;
      continue;
    }
    for (; i < end; ++tap, c = 0) {
      const int64_t w = w0 + tap * g.tap_step_w, stop = at_most(end, i + g.channels - c);
      if (w >= 0 && w < g.width)
        copy(i, stop, row + w * g.pixel_stride + c);
      else
        zeros(i, stop);
      i = stop;
    }
  }
}

// NHWC: rows are pixels, contiguous in k.
template <class T, bool kSquare>
struct PixelRows {
  const Gather& g;
  Source<T, kSquare> source;
  const Chunks& chunks;

  VDK_INLINE Packed<T, T> rows(int64_t i0, int64_t n, int64_t chunk, T* to, bool) const {
    const int64_t depth = chunks.depth, k0 = chunk * depth;
    const int64_t padded = round_up(n, Tile<T>::kRows);
    const Stretch stretch(g, k0, k0 + chunks.length(chunk));
    T* const partner = to + padded * depth;
    Place place(g, i0);
    for (int64_t i = 0; i < n; ++i, place.advance(g))
      pack_pixel(g, source, place, stretch, depth, to + i * depth, partner + i * depth);
    for (int64_t i = n * depth; i < padded * depth; ++i) to[i] = partner[i] = 0;
    return {to, partner, depth};
  }
};

}  // namespace VDK_ISA
}  // namespace vdk
