// The input gradient by columns: a product with one tap, weights^T dy, says what every output pixel gives to
// each input under its window, and that is added up in dx block by block. An element of dx is a sum over taps
// and pixels in an order that depends on the shape alone.
#pragma once
#include "gather.h"

namespace vdk {
namespace VDK_ISA {

// One group's, and how it is cut: into `jobs` of some images and one block of channels each.
template <class T>
struct Columns {
  const ConvBackward<T>& a;
  int64_t group, in, out, taps, plane;      // channels of the group; pixels of dy
  int64_t blocks, channels;                 // of channels; in a block, of which the last may have fewer
  int64_t pixels, images, rows_or_columns;  // at once, pixels of at most so many images; of a block
  Chunks chunks;

  static constexpr int64_t kMaxColumns = 504, kMinJobs = 16;

  Columns(const ConvBackward<T>& a, int64_t group)
      : a(a),
        group(group),
        in(a.s.in / a.s.groups),
        out(a.s.out / a.s.groups),
        taps(a.s.kernel_h * a.s.kernel_w),
        plane(a.s.out_h * a.s.out_w),
        blocks((in * taps + kMaxColumns - 1) / kMaxColumns),
        channels((in + blocks - 1) / blocks),
        pixels(a.s.channels_last ? 96 : 128),
        images(at_least(pixels / at_least(plane, 1), 1)),
        rows_or_columns(channels * taps),
        chunks(out, 256) {
    blocks = (in + channels - 1) / channels;
  }
  int64_t jobs() const { return (a.s.batch + images - 1) / images * blocks; }

  // Whether adding up columns costs less than packing what each input sees of dy, zeros beyond dy's edge
  // included. Measured: the same for an element in NCHW, twice as much in NHWC, where packing copies runs of
  // taps, unless the phases of a stride leave only a few taps to a run.
  bool worthwhile() const {
    const ConvShape& s = a.s;
    const int64_t strides = s.stride_h * s.stride_w;
    if (jobs() < kMinJobs || taps == 1) return false;
    const int64_t adding = in * strides * plane, packing = out * s.height * s.width;
    if (!s.channels_last) return adding <= packing;
    const bool padded = 3 * strides * plane <= 2 * s.height * s.width;
    return 2 * adding <= packing && (padded || taps < 8 * strides);
  }

  // dy as the image of a convolution with one tap, in one line: its rows are neighbours
  Gather gather() const {
    const ConvShape& s = a.s;
    return {s.batch,
            out,
            1,
            plane,
            s.out * plane,
            s.channels_last ? 1 : plane,
            s.channels_last ? s.out : 1,
            1,
            plane,
            1,
            1,
            0,
            0,
            1,
            1,
            1,
            1};
  }
  Source<T, false> source() const {
    return Source<T, false>{a.dy, a.r} + group * out * (a.s.channels_last ? 1 : plane);
  }
};

// The weights of one block of channels: [channel][tap] as rows, or [tap][channel] as panels.
template <class T>
struct ColumnWeights {
  T *mean, *variance;
  int64_t stride, depth;

  static constexpr int kCols = Tile<T>::kCols;

  static int64_t stride_of(const Columns<T>& c) {
    return c.a.s.channels_last ? c.out * kCols : round_up(c.out, kLanes<T>) + kLanes<T>;
  }
  static int64_t units(const Columns<T>& c) {
    return c.a.s.channels_last ? (c.rows_or_columns + kCols - 1) / kCols
                               : round_up(c.rows_or_columns, Tile<T>::kRows);
  }
  // One row, or panel, of the block of `n` channels from c0 on
  VDK_INLINE void pack(const Columns<T>& c, int64_t c0, int64_t n, int64_t unit) const {
    const bool last = c.a.s.channels_last;
    const int64_t lanes = last ? kCols : 1;
    const WeightSteps& step = c.a.steps;
    const int64_t first = c.group * c.out * step.out + c0 * step.channel;
    for (int64_t lane = 0; lane < lanes; ++lane) {
      const int64_t i = unit * lanes + lane, channel = last ? i % n : i / c.taps;
      const int64_t from = first + channel * step.channel + (last ? i / n : i % c.taps) * step.tap;
      const bool inside = i < n * c.taps;
      for (int64_t o = 0; o < c.out; ++o) {
        mean[unit * stride + o * lanes + lane] = inside ? c.a.mu[from + o * step.out] : T(0);
        variance[unit * stride + o * lanes + lane] = inside ? c.a.sigma2[from + o * step.out] : T(0);
      }
    }
  }
  VDK_INLINE Packed<T, T> rows(int64_t, int64_t, int64_t chunk, T*, bool) const {
    return {mean + chunk * depth, variance + chunk * depth, stride};
  }
  VDK_INLINE Packed<T, T> panels(int64_t, int64_t, int64_t chunk, T*) const {
    return {mean + chunk * depth * kCols, variance + chunk * depth * kCols, stride};
  }
};

// What one block of columns adds to dx.
template <class T>
struct ColumnSum {
  const Columns<T>& c;
  int64_t c0, channels;
  int64_t first, count;  // pixels of dy
  const T *mean, *variance;
  int64_t ld;

  // n elements `step` apart
  VDK_INLINE void add(const T* m, const T* v, int64_t n, int64_t to, int64_t step) const {
    T* const dx = c.a.dx + to;
    const T* const x = c.a.x + to;
    if (step != 1) {
      for (int64_t i = 0; i < n; ++i) dx[i * step] += m[i] + 2 * x[i * step] * v[i];
      return;
    }
    for (int64_t i = 0; i < n; i += kLanes<T>)
      store_first(dx + i,
                  load_first(dx + i, n - i) +
                      (load_first(m + i, n - i) + load_first(x + i, n - i) * load_first(v + i, n - i) * T(2)),
                  n - i);
  }
  // Outputs [lo, hi) of `n` that see an input of `size` through a tap.
  static Range seen(int64_t n, int64_t size, int64_t stride, int64_t offset) {
    const int64_t lo = offset < 0 ? (-offset + stride - 1) / stride : 0;
    const int64_t hi = offset < size ? (size - offset + stride - 1) / stride : 0;
    return {lo, at_most(hi, n)};
  }
  // NCHW: rows of the block are (channel, tap), the pieces of rows of pixels that a tap reaches the same for
  // all channels.
  void add_rows() const {
    struct Run {
      int64_t from, to, n;
    };
    Run runs[128];
    const ConvShape& s = c.a.s;
    const int64_t size = s.height * s.width;
    for (int64_t tap = 0; tap < c.taps; ++tap) {
      const int64_t top = tap / s.kernel_w * s.dilation_h - s.pad_h;
      const int64_t left = tap % s.kernel_w * s.dilation_w - s.pad_w;
      const Range as = seen(s.out_h, s.height, s.stride_h, top),
                  bs = seen(s.out_w, s.width, s.stride_w, left);
      int64_t n = 0;
      for (int64_t done = 0; done < count;) {
        const int64_t image = (first + done) / c.plane, p = (first + done) % c.plane;
        const int64_t i = p / s.out_w, j = p % s.out_w, run = at_most(count - done, s.out_w - j);
        const int64_t lo = at_least(j, bs.begin), hi = at_most(j + run, bs.end);
        if (i >= as.begin && i < as.end && lo < hi)
          runs[n++] = {done + lo - j,
                       (image * s.in + c.group * c.in + c0) * size + (i * s.stride_h + top) * s.width +
                           lo * s.stride_w + left,
                       hi - lo};
        done += run;
      }
      for (int64_t i = 0; i < channels; ++i) {
        const int64_t row = (i * c.taps + tap) * ld;
        for (int64_t r = 0; r < n; ++r)
          add(mean + row + runs[r].from, variance + row + runs[r].from, runs[r].n, runs[r].to + i * size,
              s.stride_w);
      }
    }
  }
  // NHWC: rows are pixels; taps that are neighbours in memory are one run.
  void add_pixels() const {
    const ConvShape& s = c.a.s;
    const bool joined = s.dilation_w == 1 && channels == s.in;
    for (int64_t p = 0; p < count; ++p) {
      const int64_t image = (first + p) / c.plane, q = (first + p) % c.plane;
      const int64_t top = q / s.out_w * s.stride_h - s.pad_h, left = q % s.out_w * s.stride_w - s.pad_w;
      const Range js = seen(s.kernel_w, s.width, s.dilation_w, left);
      if (js.begin >= js.end) continue;
      for (int64_t i = 0; i < s.kernel_h; ++i) {
        const int64_t h = top + i * s.dilation_h;
        if (h < 0 || h >= s.height) continue;
        const int64_t to = ((image * s.height + h) * s.width + left) * s.in + c.group * c.in + c0;
        const int64_t row = p * ld + i * s.kernel_w * channels, step = joined ? js.end - js.begin : 1;
        for (int64_t j = js.begin; j < js.end; j += step)
          add(mean + row + j * channels, variance + row + j * channels, step * channels,
              to + j * s.dilation_w * s.in, 1);
      }
    }
  }
};

// Channels [c0, c0 + n) of the group in some images of dx.
template <class T>
void clear(const Columns<T>& c, int64_t image, int64_t images, int64_t c0, int64_t n) {
  const ConvShape& s = c.a.s;
  const int64_t size = s.height * s.width, from = c.group * c.in + c0;
  const int64_t runs = s.channels_last ? images * size : images, length = s.channels_last ? n : n * size;
  T* const to = c.a.dx + image * s.in * size + (s.channels_last ? from : from * size);
  const int64_t step = s.channels_last ? s.in : s.in * size;
  for (int64_t i = 0; i < runs; ++i)
    for (int64_t j = 0; j < length; ++j) to[i * step + j] = 0;
}

// dx of one group.
template <class T>
void input_by_columns(const Columns<T>& c, const Parallel& all) {
  constexpr int kCols = Tile<T>::kCols, kRows = Tile<T>::kRows;
  const ConvShape& s = c.a.s;
  const Parallel parallel = limited(all, 4 * s.batch * c.plane * c.out * c.in * c.taps);
  using Operand = ColumnWeights<T>;
  const int64_t units = Operand::units(c), stride = Operand::stride_of(c), size = units * stride;
  Carver shared(scratch(Scratch::kShared, size_t(2 * c.blocks * size) * sizeof(T) + 128));
  T *const mean = shared.take<T>(c.blocks * size), *const variance = shared.take<T>(c.blocks * size);
  const auto weights = [&](int64_t block) {
    return Operand{mean + block * size, variance + block * size, stride, c.chunks.depth};
  };
  const auto width = [&](int64_t block) { return at_most(c.channels, c.in - block * c.channels); };
  parallel(parallel.threads, [&](int64_t task) {
    share(c.blocks * units, task, parallel.threads, [&](int64_t i) {
      weights(i / units).pack(c, i / units * c.channels, width(i / units), i % units);
    });
  });

  const Gather g = c.gather();
  const int64_t pixel_rows = round_up(c.pixels, kRows), columns = round_up(c.rows_or_columns, kCols);
  const int64_t weight_rows = round_up(c.rows_or_columns, kRows), panels = round_up(c.pixels, kCols);
  const int64_t ld = (s.channels_last ? columns : panels) + kLanes<T>;
  const int64_t packed = (s.channels_last ? pixel_rows : panels) * c.chunks.depth;
  const int64_t results = (s.channels_last ? pixel_rows : weight_rows) * ld;
  parallel(parallel.threads, [&](int64_t task) {
    Carver carver(scratch(Scratch::kTask, size_t(2 * (packed + results)) * sizeof(T) + 256));
    T* const pixels = carver.take<T>(2 * packed);
    T* const sums[2] = {carver.take<T>(results), carver.take<T>(results)};
    share(c.jobs(), task, parallel.threads, [&](int64_t job) {
      const int64_t block = job % c.blocks, c0 = block * c.channels, n = width(block);
      const int64_t image = job / c.blocks * c.images, images = at_most(c.images, s.batch - image);
      clear(c, image, images, c0, n);
      const int64_t end = (image + images) * c.plane;
      for (int64_t q = image * c.plane; q < end; q += c.pixels) {
        const int64_t count = at_most(c.pixels, end - q);
        const ColumnSum<T> sum{c, c0, n, q, count, sums[0], sums[1], ld};
        if (s.channels_last) {
          block_product<T, T>(c.chunks, PixelRows<T, false>{g, c.source(), c.chunks}, weights(block), q,
                              count, 0, n * c.taps, pixels, nullptr, sums, ld);
          sum.add_pixels();
        } else {
          block_product<T, T>(c.chunks, weights(block), PixelPanels<T, false>{g, c.source(), c.chunks}, 0,
                              n * c.taps, q, count, nullptr, pixels, sums, ld);
          sum.add_rows();
        }
      }
    });
  });
}

}  // namespace VDK_ISA
}  // namespace vdk
