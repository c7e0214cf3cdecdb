// Both weight gradients: rows are output channels, columns (tap, channel), and the sum runs over pixels, in
// slices that depend on the shape alone, so that the result does not depend on the number of threads. In NHWC
// with one input channel rows are taps and columns output channels: both lie in memory as they are needed.
#pragma once
#include "gather.h"

namespace vdk {
namespace VDK_ISA {

// What the product of one group reads.
template <class T>
struct WeightGradient {
  const Gather& g;  // the forward pass's
  Source<T, true> x;
  const T *dy, *r;       // from the group's first channel on
  int64_t out, out_all;  // channels of the group, of the image
  bool channels_last;
  WeightSteps steps;

  static constexpr int kCols = Tile<T>::kCols, kL = kLanes<T>;

  int64_t plane() const { return g.grid_h * g.grid_w; }
  bool swapped() const { return channels_last && g.channels == 1; }
  int64_t rows() const { return swapped() ? g.depth() : out; }
  int64_t columns() const { return swapped() ? out : g.depth(); }

  // dy and g_v of pixels [q, q + n) as rows along the pixels
  void pack_rows(int64_t q, int64_t n, int64_t depth, T* to, T* partner) const {
    if (swapped()) return pack_taps(q, n, depth, to, partner);
    if (channels_last) return pack_rows_transposed(q, n, depth, to, partner);
    for (int64_t done = 0; done < n;) {
      const int64_t image = (q + done) / plane(), p = (q + done) % plane(),
                    run = at_most(n - done, plane() - p);
      for (int64_t o = 0; o < out; ++o) {
        const int64_t from = (image * out_all + o) * plane() + p, at = o * depth + done;
        for (int64_t i = 0; i < run; i += kL) {
          const Vec<T> d = load_first(dy + from + i, run - i);
          store_first(to + at + i, d, run - i);
          store_first(partner + at + i, d * load_first(r + from + i, run - i), run - i);
        }
      }
      done += run;
    }
  }
  void pack_rows_transposed(int64_t q, int64_t n, int64_t depth, T* to, T* partner) const {
    for (int64_t i0 = 0; i0 < n; i0 += kL)
      for (int64_t o = 0; o < out; o += kL) {
        Vec<T> d[kL], v[kL];
        for (int i = 0; i < kL; ++i) {
          const int64_t from = (q + i0 + i) * out_all + o;
          const bool inside = i0 + i < n;
          d[i] = inside ? load_first(dy + from, out - o) : Vec<T>{};
          v[i] = inside ? d[i] * load_first(r + from, out - o) : Vec<T>{};
        }
        transpose<T>(d);
        transpose<T>(v);
        for (int64_t i = 0; i < kL && o + i < out; ++i) {
          store(to + (o + i) * depth + i0, d[i]);  // depth is a multiple of the vector's length
          store(partner + (o + i) * depth + i0, v[i]);
        }
      }
  }
  // x and x^2 of a plane, a row a tap
  void pack_taps(int64_t q, int64_t n, int64_t depth, T* to, T* partner) const {
    const bool neighbours = g.step_w * g.pixel_stride == 1;
    Place at(g, q);
    for (int64_t done = 0, run; done < n; done += run, at.b += run - 1, at.advance(g)) {
      run = at_most(n - done, g.grid_w - at.b);
      Tap tap{0, 0};
      for (int64_t k = 0; k < g.depth(); ++k, tap.next(g)) {
        const int64_t h = at.a * g.step_h + g.first_h + tap.h * g.tap_step_h;
        const int64_t w = at.b * g.step_w + g.first_w + tap.w * g.tap_step_w;
        const bool inside = neighbours && h >= 0 && h < g.height && w >= 0 && w + run <= g.width;
        const T* const from = x.first + at.image * g.image_stride + h * g.width + w;
        Place first = at;
        for (int64_t i = 0; i < run; i += kL, first.b += kL) {
          Vec<T> v;
          if (inside) {
            v = load_first(from + i, run - i);
          } else {
            Lanes<T> lanes;
            lanes.find(g, first, run - i, tap);
            v = lanes.load_from(x.first);
          }
          const int64_t to_row = k * depth + done + i, left = depth - done - i;  // the next run overwrites
          store_first(to + to_row, v, left);
          store_first(partner + to_row, v * v, left);
        }
      }
    }
  }
  // x and x^2 of columns [k, k + kCols) as a panel along the pixels
  void pack_panel(int64_t q, int64_t n, int64_t k, T* to, T* partner) const {
    if (swapped()) return pack_gradients(q, n, k, to, partner);
    const int64_t cols = at_most(kCols, g.depth() - k);
    const int64_t last_h = g.height - 1 - (g.taps_h - 1) * g.tap_step_h;
    const int64_t last_w = g.width - 1 - (g.taps_w - 1) * g.tap_step_w;
    Place place(g, q);
    if (channels_last) {
      const Stretch stretch(g, k, k + cols);
      Lanes<T> lanes[Tile<T>::kVectors];
      for (int v = 0; v < Tile<T>::kVectors; ++v) lanes[v].find_columns(g, k + v * kL, cols - v * kL);
      for (int64_t i = 0; i < n; ++i, place.advance(g)) {
        T *const values = to + i * kCols, *const squares = partner + i * kCols;
        const int64_t h = place.a * g.step_h + g.first_h, w = place.b * g.step_w + g.first_w;
        if (h < 0 || w < 0 || h > last_h || w > last_w) {  // sees beyond the image
          pack_pixel(g, x, place, stretch, kCols, values, squares);
          continue;
        }
        const T* const from = x.first + place.image * g.image_stride + (h * g.width + w) * g.pixel_stride;
        for (int v = 0; v < Tile<T>::kVectors; ++v) {
          const Vec<T> value = lanes[v].load_from(from);
          store(values + v * kL, value);
          store(squares + v * kL, value * value);
        }
      }
      return;
    }
    for (int64_t i = 0; i < n; i += kL) {
      for (int64_t j = 0; j < cols; j += kL) {
        Vec<T> v[kL] = {};
        for_taps(g, k + j, at_most(k + cols, k + j + kL),
                 [&](int64_t first, int64_t tap, int64_t c, int64_t m) {
                   Lanes<T> lanes;
                   lanes.find(g, place, n - i, Tap{tap / g.taps_w, tap % g.taps_w});
                   for (int64_t t = 0; t < m; ++t)
                     v[first - k - j + t] = lanes.load_from(x.first + (c + t) * g.channel_stride);
                 });
        transpose<T>(v);
        for (int64_t t = 0; t < kL && i + t < n; ++t) {
          store(to + (i + t) * kCols + j, v[t]);
          store(partner + (i + t) * kCols + j, v[t] * v[t]);
        }
      }
      for (int t = 0; t < kL; ++t) place.advance(g);
    }
  }
  // dy and g_v of output channels [o, o + kCols)
  void pack_gradients(int64_t q, int64_t n, int64_t o, T* to, T* partner) const {
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < kCols && o + j < out; j += kL) {
        const int64_t from = (q + i) * out_all + o + j, left = out - o - j;
        const Vec<T> d = load_first(dy + from, left);
        store(to + i * kCols + j, d);
        store(partner + i * kCols + j, d * load_first(r + from, left));
      }
  }
};

// Writes dmu and dsigma2 of one group.
template <class T>
void weight_gradient(const WeightGradient<T>& w, T* dmu, T* dsigma2, const Parallel& parallel) {
  constexpr int kCols = Tile<T>::kCols, kL2Rows = 96;
  const int64_t columns = w.columns(), pixels = w.g.pixels(), taps = w.g.taps_h * w.g.taps_w;
  const int64_t depth = w.rows() > 256 ? 128 : 256, chunks = (pixels + depth - 1) / depth;
  const int64_t rows = round_up(w.rows(), Tile<T>::kRows), panels = (columns + kCols - 1) / kCols;
  const int64_t ld = panels * kCols + kLanes<T>, part = rows * ld;
  const int64_t fitting = at_least((int64_t{32} << 20) / int64_t(2 * sizeof(T) * part), 1);
  const int64_t slices = at_least(at_most(at_most(chunks / 4, 16), fitting), 1);
  const int64_t parts = at_most((parallel.threads + slices - 1) / slices, panels);
  T* const sums = static_cast<T*>(scratch(Scratch::kShared, size_t(slices * 2 * part) * sizeof(T)));
  constexpr int64_t kBlockPanels = 4;

  parallel(slices * parts, [&](int64_t task) {
    const int64_t slice = task / parts;
    const Range mine = part_of(chunks, 1, slice, slices), js = part_of(panels, 1, task % parts, parts);
    T* const c[2] = {sums + slice * 2 * part, sums + slice * 2 * part + part};
    Carver carver(
        scratch(Scratch::kTask, size_t(2 * depth * (rows + kBlockPanels * kCols)) * sizeof(T) + 256));
    T *const a = carver.take<T>(2 * rows * depth), *const b =
                                                       carver.take<T>(2 * kBlockPanels * depth * kCols);
    T* const partner = a + rows * depth;
    for (int64_t i = w.rows() * depth; i < rows * depth; ++i) a[i] = partner[i] = 0;
    for (int64_t chunk = mine.begin; chunk < mine.end; ++chunk) {
      const int64_t q = chunk * depth, n = at_most(depth, pixels - q);
      w.pack_rows(q, n, depth, a, partner);
      for (int64_t j0 = js.begin; j0 < js.end; j0 += kBlockPanels) {
        const int64_t count = at_most(kBlockPanels, js.end - j0);
        T* const squares = b + count * depth * kCols;
        for (int64_t j = 0; j < count; ++j)
          w.pack_panel(q, n, (j0 + j) * kCols, b + j * depth * kCols, squares + j * depth * kCols);
        for (int64_t i = 0; i < rows; i += kL2Rows)
          for (int64_t j = 0; j < count; ++j) {
            const int64_t to = i * ld + (j0 + j) * kCols, m = at_most(kL2Rows, rows - i);
            const bool half = columns - (j0 + j) * kCols <= kLanes<T>, more = chunk > mine.begin;
            chunk_product<T>(n, a + i * depth, depth, b + j * depth * kCols, m, half, c[0] + to, ld, more);
            chunk_product<T>(n, partner + i * depth, depth, squares + j * depth * kCols, m, half, c[1] + to,
                             ld, more);
          }
      }
    }
  });
  parallel(parallel.threads, [&](int64_t task) {
    share(2 * w.rows(), task, parallel.threads, [&](int64_t i) {
      const int64_t which = i % 2, row = i / 2;
      T* const total = sums + which * part + row * ld;
      for (int64_t s = 1; s < slices; ++s) {
        const T* const more = total + s * 2 * part;
        for (int64_t j = 0; j < columns; j += kLanes<T>) store(total + j, load(total + j) + load(more + j));
      }
      T* const to = which ? dsigma2 : dmu;
      for (int64_t o = 0; w.swapped() && o < w.out; ++o) to[o * w.steps.out + row * w.steps.tap] = total[o];
      for (int64_t tap = 0; !w.swapped() && tap < taps; ++tap)
        for (int64_t c = 0; c < w.g.channels; ++c)
          to[row * w.steps.out + c * w.steps.channel + tap * w.steps.tap] = total[tap * w.g.channels + c];
    });
  });
}

}  // namespace VDK_ISA
}  // namespace vdk
