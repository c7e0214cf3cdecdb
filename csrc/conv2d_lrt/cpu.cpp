// Implicit GEMM on the driver of common/gemm.h. NCHW: weights are the rows, pixels the lanes, so results lie
// as they are stored. NHWC: pixels are the rows, channels the lanes, for the same reason. Groups
// of a few channels are cpu_direct.cpp's, most 3x3 convolutions winograd.cpp's.
#include "columns.h"
#include "direct.h"
#include "gather.h"
#include "phase.h"
#include "sample.h"
#include "weight_gradient.h"
#include "weights.h"

namespace vdk {
namespace VDK_ISA {
namespace {

Gather forward_gather(const ConvShape& s) {
  const int64_t plane = s.height * s.width;
  return {s.batch,
          s.in / s.groups,
          s.height,
          s.width,
          s.in * plane,
          s.channels_last ? 1 : plane,
          s.channels_last ? s.in : 1,
          s.out_h,
          s.out_w,
          s.stride_h,
          s.stride_w,
          -s.pad_h,
          -s.pad_w,
          s.kernel_h,
          s.kernel_w,
          s.dilation_h,
          s.dilation_w};
}

constexpr int64_t kMaxCols = 512, kMaxRows = 504;  // of a block of results

template <class T>
struct ForwardFinish {
  const ConvForward<T>& a;
  const NoiseGrid& grid;
  int64_t o0;  // of the group

  void operator()(int64_t i0, int64_t rows, int64_t j0, int64_t cols, const T* mean, const T* variance,
                  int64_t ld, const Grid&) const {
    const int64_t plane = a.s.out_h * a.s.out_w;
    const bool last = a.s.channels_last;
    const int64_t q0 = last ? i0 : j0, count = last ? rows : cols;
    alignas(64) T z[kSampleRows * (kPixelBlock + 4 * (kRunGroups + 1))];
    for (int64_t done = 0; done < count;) {
      const int64_t image = (q0 + done) / plane, p = (q0 + done) % plane;
      const int64_t n = at_most(count - done, plane - p);
      if (last)
        sample_pixels(a, grid, image, o0 + j0, cols, p, n, mean + done * ld, variance + done * ld, ld);
      else
        sample_rows(a, grid, image, o0 + i0, rows, p, n, mean + done, variance + done, ld, z);
      done += n;
    }
  }
  static constexpr int64_t kPixelBlock = 128;
};

// dx = mean + 2 x variance at the pixels of one phase.
template <class T>
struct InputFinish {
  const ConvBackward<T>& a;
  const Gather& g;
  int64_t c0, rest_h, rest_w;

  void operator()(int64_t i0, int64_t rows, int64_t j0, int64_t cols, const T* mean, const T* variance,
                  int64_t ld, const Grid&) const {
    const ConvShape& s = a.s;
    const bool last = s.channels_last;
    const int64_t channels = last ? cols : rows, first = c0 + (last ? j0 : i0), plane = s.height * s.width;
    const int64_t count = last ? rows : cols;
    if (last) {
      Place at(g, i0);
      for (int64_t i = 0; i < count; ++i, at.advance(g))
        write(mean + i * ld, variance + i * ld, channels, (at.image * plane + pixel(at)) * s.in + first, 1);
      return;
    }
    const bool dense = s.stride_h == 1 && s.stride_w == 1;  // rows of the grid are neighbours in memory
    for (int64_t c = 0; c < channels; ++c) {
      Place at(g, j0);
      for (int64_t done = 0; done < count;) {
        const int64_t p = at.a * g.grid_w + at.b;
        const int64_t run = at_most(count - done, dense ? g.grid_h * g.grid_w - p : g.grid_w - at.b);
        write(mean + c * ld + done, variance + c * ld + done, run,
              (at.image * s.in + first + c) * plane + pixel(at), s.stride_w);
        done += run;
        if (done < count) at = Place(g, j0 + done);
      }
    }
  }
  VDK_INLINE int64_t pixel(const Place& at) const {
    return (at.a * a.s.stride_h + rest_h) * a.s.width + at.b * a.s.stride_w + rest_w;
  }
  VDK_INLINE void write(const T* mean, const T* variance, int64_t n, int64_t to, int64_t step) const {
    if (step != 1) {
      for (int64_t i = 0; i < n; ++i) a.dx[to + i * step] = mean[i] + 2 * a.x[to + i * step] * variance[i];
      return;
    }
    for (int64_t i = 0; i < n; i += kLanes<T>) {
      const Vec<T> x = load_first(a.x + to + i, n - i);
      store_first(a.dx + to + i, load_first(mean + i, n - i) + x * load_first(variance + i, n - i) * T(2),
                  n - i);
    }
  }
};

// The two products of one grid of pixels with one view of the weights.
template <class T, bool kSquare, class Finish>
void image_product(const Gather& g, const Source<T, kSquare>& source, const WeightView<T>& w,
                   bool channels_last, const Finish& finish, const Parallel& all) {
  const Chunks chunks(w.depth(), 256);
  const int64_t pixels = g.pixels();
  const Parallel parallel = limited(all, 4 * pixels * w.rows * w.depth());
  if (channels_last) {
    const auto weights = packed_weights<T, WeightPanels>(w, chunks, parallel);
    const Blocking blocking{96, kMaxCols, chunks};
    dual_gemm<T, T>(pixels, w.rows, blocking, make_grid<T>(pixels, w.rows, parallel.threads, OnTheFly::kRows),
                    PixelRows<T, kSquare>{g, source, chunks}, weights, finish, parallel);
  } else {
    const auto weights = packed_weights<T, WeightRows>(w, chunks, parallel);
    const Blocking blocking{kMaxRows, w.rows > 320 ? 64 : ForwardFinish<T>::kPixelBlock, chunks};
    dual_gemm<T, T>(w.rows, pixels, blocking,
                    make_grid<T>(w.rows, pixels, parallel.threads, OnTheFly::kPanels), weights,
                    PixelPanels<T, kSquare>{g, source, chunks}, finish, parallel);
  }
}

template <class T>
void forward(const ConvForward<T>& a, const Parallel& parallel) {
  const ConvShape& s = a.s;
  const Gather g = forward_gather(s);
  if (g.pixels() == 0) return;
  const int64_t out = s.out / s.groups, in = g.channels, tap = a.steps.tap;
  const NoiseGrid grid(a.seed, s.out_h * s.out_w);
  for (int64_t group = 0; group < s.groups; ++group) {
    const int64_t at = group * out * a.steps.out;
    const WeightView<T> w{a.mu + at,   a.sigma2 + at,    out,        in,
                          a.steps.out, a.steps.channel,  s.kernel_h, s.kernel_w,
                          0,           s.kernel_w * tap, tap};
    const Source<T, true> x{a.x, nullptr};
    image_product(g, x + group * in * g.channel_stride, w, s.channels_last,
                  ForwardFinish<T>{a, grid, group * out}, parallel);
  }
}

// Rows [begin, end) of the inputs of one phase, which reach outputs through its taps [first, last) alone.
struct Band {
  int64_t begin, end, first, last;

  // The longest band from row `begin` on. Without `split` it is all the rest, with all taps.
  Band(const Phase& p, int64_t outputs, int64_t begin, bool split)
      : begin(begin), end(p.grid), first(0), last(p.taps) {
    if (!split) return;
    reach(p, outputs, begin, first, last);
    end = begin + 1;
    for (int64_t lo, hi; end < p.grid; ++end) {
      reach(p, outputs, end, lo, hi);
      if (lo != first || hi != last) break;
    }
    if (first < last) return;
    first = 0;  // inputs that no output sees: one tap, which finds zeros
    last = 1;
  }
  static void reach(const Phase& p, int64_t outputs, int64_t row, int64_t& lo, int64_t& hi) {
    const auto inside = [&](int64_t tap) {
      const int64_t h = row + p.first + tap * p.source_step;
      return h >= 0 && h < outputs;
    };
    for (lo = 0; lo < p.taps && !inside(lo);) ++lo;
    for (hi = lo; hi < p.taps && inside(hi);) ++hi;
  }
  // Whether bands save more than they cost: a convolution without padding, of a large kernel on a small
  // image.
  static bool worthwhile(const Phase& p, int64_t outputs) {
    int64_t reached = 0;
    for (int64_t row = 0, lo, hi; row < p.grid; ++row) {
      reach(p, outputs, row, lo, hi);
      reached += hi - lo;
    }
    return 10 * reached < 8 * p.grid * p.taps;
  }
};

// dx of one group, at the inputs of one pair of remainders.
template <class T>
void input_gradient(const ConvBackward<T>& a, int64_t group, int64_t rest_h, int64_t rest_w,
                    const Parallel& parallel) {
  const ConvShape& s = a.s;
  const Phase h(s.height, s.kernel_h, s.stride_h, s.pad_h, s.dilation_h, rest_h);
  const Phase w(s.width, s.kernel_w, s.stride_w, s.pad_w, s.dilation_w, rest_w);
  if (h.taps == 0 || w.taps == 0) return;
  const int64_t out = s.out / s.groups, in = s.in / s.groups;
  const int64_t plane = s.out_h * s.out_w, channel = s.channels_last ? 1 : plane;
  const Source<T, false> dy{a.dy, a.r};
  const bool split = Band::worthwhile(h, s.out_h);
  for (int64_t row = 0; row < h.grid;) {
    const Band band(h, s.out_h, row, split);
    const int64_t first = row + h.first + band.first * h.source_step, taps_h = band.last - band.first;
    const Gather g{s.batch,
                   out,
                   s.out_h,
                   s.out_w,
                   s.out * plane,
                   channel,
                   s.channels_last ? s.out : 1,
                   band.end - row,
                   w.grid,
                   1,
                   1,
                   first,
                   w.first,
                   taps_h,
                   w.taps,
                   h.source_step,
                   w.source_step};
    const int64_t tap = (h.first_tap + band.first * h.tap_step) * s.kernel_w + w.first_tap;
    const int64_t at = group * out * a.steps.out, step = a.steps.tap;
    const WeightView<T> weights{
        a.mu + at,        a.sigma2 + at, in,     out,        a.steps.channel,
        a.steps.out,      taps_h,        w.taps, tap * step, h.tap_step * s.kernel_w * step,
        w.tap_step * step};
    if (g.pixels() > 0)
      image_product(g, dy + group * out * channel, weights, s.channels_last,
                    InputFinish<T>{a, g, group * in, rest_h + row * s.stride_h, rest_w}, parallel);
    row = band.end;
  }
}

template <class T>
void bias_gradient(const ConvBackward<T>& a, const Parallel& all) {
  const ConvShape& s = a.s;
  const int64_t plane = s.out_h * s.out_w;
  const Parallel parallel = limited(all, s.batch * s.out * plane);
  if (s.channels_last) {
    const int64_t vectors = (s.out + kLanes<T> - 1) / kLanes<T>, pixels = s.batch * plane;
    parallel(parallel.threads, [&](int64_t task) {
      share(vectors, task, parallel.threads, [&](int64_t i) {
        const int64_t o = i * kLanes<T>;
        Vec<T> total{};
        for (int64_t q0 = 0; q0 < pixels; q0 += 256) {  // runs, so that rounding does not grow with the batch
          Vec<T> sum{};
          for (int64_t q = q0; q < at_most(q0 + 256, pixels); ++q)
            sum += load_first(a.dy + q * s.out + o, s.out - o);
          total += sum;
        }
        store_first(a.dbias + o, total, s.out - o);
      });
    });
    return;
  }
  parallel(parallel.threads, [&](int64_t task) {
    share(s.out, task, parallel.threads, [&](int64_t o) {
      double total = 0;
      for (int64_t n = 0; n < s.batch; ++n) {
        const T* const dy = a.dy + (n * s.out + o) * plane;
        Vec<T> sum{};
        for (int64_t i = 0; i < plane; i += kLanes<T>) sum += load_first(dy + i, plane - i);
        total += double(sum_lanes<T>(sum));
      }
      a.dbias[o] = T(total);
    });
  });
}

// Whether some input is seen by no output's window, so that its gradient is never written.
bool leaves_inputs_out(const ConvShape& s) {
  for (int64_t i = 0; i < s.stride_h; ++i)
    if (!Phase(s.height, s.kernel_h, s.stride_h, s.pad_h, s.dilation_h, i).taps) return true;
  for (int64_t i = 0; i < s.stride_w; ++i)
    if (!Phase(s.width, s.kernel_w, s.stride_w, s.pad_w, s.dilation_w, i).taps) return true;
  return false;
}

template <class T>
void zero(T* p, int64_t n, const Parallel& parallel) {
  parallel(parallel.threads, [&](int64_t task) {
    const Range mine = part_of(n, 1024, task, parallel.threads);
    for (int64_t i = mine.begin; i < mine.end; ++i) p[i] = 0;
  });
}

template <class T>
void backward(const ConvBackward<T>& a, const Parallel& parallel) {
  const ConvShape& s = a.s;
  const Gather g = forward_gather(s);
  const int64_t out = s.out / s.groups, in = g.channels, taps = s.kernel_h * s.kernel_w;
  if (a.dx) {
    if (leaves_inputs_out(s)) zero(a.dx, s.batch * s.in * s.height * s.width, parallel);
    for (int64_t group = 0; group < s.groups; ++group) {
      const Columns<T> columns(a, group);
      if (columns.worthwhile()) {
        input_by_columns(columns, parallel);
        continue;
      }
      for (int64_t i = 0; i < s.stride_h * s.stride_w; ++i)
        input_gradient(a, group, i / s.stride_w, i % s.stride_w, parallel);
    }
  }
  if (!a.dmu) return;
  if (g.pixels() == 0) {
    zero(a.dmu, s.out * in * taps, parallel);
    zero(a.dsigma2, s.out * in * taps, parallel);
    return;
  }
  for (int64_t group = 0; group < s.groups; ++group) {
    const Source<T, true> x{a.x, nullptr};
    const int64_t o = group * out * (s.channels_last ? 1 : s.out_h * s.out_w), at = group * out * a.steps.out;
    weight_gradient(WeightGradient<T>{g, x + group * in * g.channel_stride, a.dy + o, a.r + o, out, s.out,
                                      s.channels_last, a.steps},
                    a.dmu + at, a.dsigma2 + at, limited(parallel, 4 * g.pixels() * out * g.depth()));
  }
}

// Winograd's tiles are 4x4 whatever the image fills of them. In an image of a pixel or two most of a tile is
// padding: slower, and inexact relative to weight gradients that only an edge of it feeds.
bool winograd_pays(const ConvShape& s) {
  const int64_t tiles = (s.out_h + 3) / 4 * ((s.out_w + 3) / 4);
  return winograd_fits(s) && s.out_h > 2 && s.out_w > 2 && 3 * s.out_h * s.out_w >= 16 * tiles;
}

template <class T>
void forward_any(const ConvForward<T>& a, const Parallel& parallel) {
  if (direct_fits(a.s)) return direct_forward(a, parallel);
  if constexpr (sizeof(T) == 4)
    if (winograd_pays(a.s)) return winograd_forward(a, parallel);
  forward(a, parallel);
}
template <class T>
void backward_any(const ConvBackward<T>& a, const Parallel& parallel) {
  if (a.dbias) bias_gradient(a, parallel);
  if (direct_fits(a.s)) return direct_backward(a, parallel);
  if constexpr (sizeof(T) == 4)
    if (winograd_pays(a.s)) return winograd_backward(a, parallel);
  backward(a, parallel);
}

}  // namespace

void conv2d_lrt_forward(const ConvForward<float>& a, const Parallel& p) { forward_any(a, p); }
void conv2d_lrt_forward(const ConvForward<double>& a, const Parallel& p) { forward_any(a, p); }
void conv2d_lrt_backward(const ConvBackward<float>& a, const Parallel& p) { backward_any(a, p); }
void conv2d_lrt_backward(const ConvBackward<double>& a, const Parallel& p) { backward_any(a, p); }

}  // namespace VDK_ISA
}  // namespace vdk
