// A task is a block of groups, about a vector of channels. Their images become planes with zeros around them,
// so that no tap is ever outside; results stay planes until they are written in the layout asked for.
#include "direct.h"
#include "phase.h"
#include "planes.h"
#include "sample.h"

namespace vdk {
namespace VDK_ISA {
namespace {

constexpr int64_t kRowsAtOnce = 4;  // of results, whose sums are independent of one another

struct Block {
  int64_t groups, group_in, group_out, in, out;  // groups of a block; channels of a group, of a block

  template <class T>
  static Block of(const ConvShape& s, T) {
    const int64_t group_in = s.in / s.groups, group_out = s.out / s.groups;
    const int64_t groups = at_least(at_most(kLanes<T> / at_least(group_in, group_out), s.groups), 1);
    return {groups, group_in, group_out, groups * group_in, groups * group_out};
  }
  int64_t count(const ConvShape& s) const { return (s.groups + groups - 1) / groups; }
  int64_t groups_in(const ConvShape& s, int64_t block) const {
    return at_most(groups, s.groups - block * groups);
  }
};

PlaneShape input_planes(const ConvShape& s) {
  const int64_t rows = (s.out_h - 1) * s.stride_h + (s.kernel_h - 1) * s.dilation_h + 1;
  const int64_t cols = (s.out_w - 1) * s.stride_w + (s.kernel_w - 1) * s.dilation_w + 1;
  // inputs below or right of the last window are no tap's either, but they are copied
  return {at_least(rows, s.height + s.pad_h), at_least(cols, s.width + s.pad_w), s.stride_w, s.pad_h,
          s.pad_w};
}

// Outputs with as many zeros around them as any tap of the input gradient reaches.
PlaneShape output_planes(const ConvShape& s) {
  int64_t low[2] = {0, 0}, high[2] = {s.out_h - 1, s.out_w - 1};
  const auto reach = [&](int d, const Phase& p) {
    if (p.taps == 0) return;
    low[d] = at_most(low[d], p.first + (p.taps - 1) * p.source_step);
    high[d] = at_least(high[d], p.grid - 1 + p.first);
  };
  for (int64_t i = 0; i < s.stride_h; ++i)
    reach(0, Phase(s.height, s.kernel_h, s.stride_h, s.pad_h, s.dilation_h, i));
  for (int64_t i = 0; i < s.stride_w; ++i)
    reach(1, Phase(s.width, s.kernel_w, s.stride_w, s.pad_w, s.dilation_w, i));
  return {high[0] - low[0] + 1, high[1] - low[1] + 1, 1, -low[0], -low[1]};
}

// Where a tap's weight and its first element stand, as two arithmetic progressions.
struct Taps {
  int64_t taps_h, taps_w, weight, weight_h, weight_w;
};

// mean and variance [grid_h, grid_w], distance `ld` between rows, += the sums over one plane's taps.
// `element(i, j)`: the place in the plane of tap (i, j) for the grid's first pixel.
template <bool kSquare, class T, class Element>
void correlate(const Taps& t, const T* first, const T* second, int64_t row_step, const Element& element,
               const T* mu, const T* sigma2, int64_t grid_h, int64_t grid_w, T* mean, T* variance,
               int64_t ld) {
  for (int64_t a0 = 0; a0 < grid_h; a0 += kRowsAtOnce)
    for (int64_t b = 0; b < grid_w; b += kLanes<T>) {
      const int64_t left = grid_w - b;
      int64_t row[kRowsAtOnce];
      Vec<T> m[kRowsAtOnce], v[kRowsAtOnce];
      for (int r = 0; r < kRowsAtOnce; ++r) {
        row[r] = at_most(a0 + r, grid_h - 1);
        m[r] = load_first(mean + row[r] * ld + b, left);
        v[r] = load_first(variance + row[r] * ld + b, left);
      }
      for (int64_t i = 0; i < t.taps_h; ++i)
        for (int64_t j = 0; j < t.taps_w; ++j) {
          const int64_t at = element(i, j) + b, w = t.weight + i * t.weight_h + j * t.weight_w;
          for (int r = 0; r < kRowsAtOnce; ++r) {
            const Vec<T> x = load(first + at + row[r] * row_step);
            const Vec<T> y = kSquare ? x * x : load(second + at + row[r] * row_step);
            m[r] += mu[w] * x;
            v[r] += sigma2[w] * y;
          }
        }
      for (int r = 0; r < kRowsAtOnce; ++r) {
        store_first(mean + row[r] * ld + b, m[r], left);
        store_first(variance + row[r] * ld + b, v[r], left);
      }
    }
}

template <class T>
void set_zero(T* p, int64_t n) {
  for (int64_t i = 0; i < n; ++i) p[i] = 0;
}

template <class T>
void forward(const ConvForward<T>& a, const Parallel& all) {
  constexpr int kL = kLanes<T>;
  const ConvShape& s = a.s;
  const Block block = Block::of(s, T());
  const PlaneShape planes = input_planes(s);
  const NoiseGrid grid(a.seed, s.out_h * s.out_w);
  const int64_t blocks = block.count(s), pixels = s.out_h * s.out_w, taps = s.kernel_h * s.kernel_w;
  const Parallel parallel = limited(all, 4 * s.batch * s.out * block.group_in * pixels * taps);
  const auto element = [&](int64_t i, int64_t j) {
    return planes.at(i * s.dilation_h - s.pad_h, j * s.dilation_w - s.pad_w);
  };
  parallel(parallel.threads, [&](int64_t task) {
    const int64_t wide = round_up(block.out, kL), drawn = kSampleRows * (pixels + 4 * (kRunGroups + 1));
    const auto carve = [&](Carver carver, T*& x, T*& mean, T*& variance, T*& z, T*& turned) {
      x = carver.take<T>(block.in * planes.size());
      mean = carver.take<T>(block.out * pixels);
      variance = carver.take<T>(block.out * pixels);
      z = carver.take<T>(s.channels_last ? 0 : drawn);
      turned = carver.take<T>(2 * kL * wide);
      return carver.used();
    };
    T *x, *mean, *variance, *z, *turned;
    carve(Carver(scratch(Scratch::kTask, carve(Carver(), x, mean, variance, z, turned))), x, mean, variance,
          z, turned);
    share(s.batch * blocks, task, parallel.threads, [&](int64_t index) {
      const int64_t image = index / blocks, b = index % blocks, groups = block.groups_in(s, b);
      const int64_t c0 = b * block.in, o0 = b * block.out, out = groups * block.group_out;
      fill_planes<T>(planes, {a.x, s.height, s.width, s.in, s.channels_last}, nullptr, image, c0,
                     groups * block.group_in, x, nullptr);
      set_zero(mean, out * pixels);
      set_zero(variance, out * pixels);
      for (int64_t o = 0; o < out; ++o)
        for (int64_t c = 0; c < block.group_in; ++c) {
          const T* const plane = x + (o / block.group_out * block.group_in + c) * planes.size();
          const Taps read{s.kernel_h, s.kernel_w, (o0 + o) * a.steps.out + c * a.steps.channel,
                          s.kernel_w * a.steps.tap, a.steps.tap};
          correlate<true>(read, plane, plane, planes.row_step() * s.stride_h, element, a.mu, a.sigma2,
                          s.out_h, s.out_w, mean + o * pixels, variance + o * pixels, s.out_w);
        }
      if (!s.channels_last) return sample_rows(a, grid, image, o0, out, 0, pixels, mean, variance, pixels, z);
      for (int64_t p = 0; p < pixels; p += kL) {
        const int64_t n = at_most(kL, pixels - p);
        transpose_block(mean, out, pixels, p, n, turned, wide);
        transpose_block(variance, out, pixels, p, n, turned + kL * wide, wide);
        sample_pixels(a, grid, image, o0, out, p, n, turned, turned + kL * wide, wide);
      }
    });
  });
}

// What a task of the backward pass works with.
template <class T>
struct Workspace {
  T *x, *dy, *gv;      // planes of the block's channels
  T *mean, *variance;  // of dx, [in, height, width]
  T* grid[2];          // of one phase of dx
  T* sums;             // of both weight gradients, a vector each
  T* turned;

  size_t carve(Carver carver, const ConvShape& s, const Block& block, const PlaneShape& in,
               const PlaneShape& out) {
    const int64_t plane = s.height * s.width;
    x = carver.take<T>(block.in * in.size());
    dy = carver.take<T>(block.out * out.size());
    gv = carver.take<T>(block.out * out.size());
    mean = carver.take<T>(block.in * plane);
    variance = carver.take<T>(block.in * plane);
    for (T*& g : grid) g = carver.take<T>(plane);
    sums = carver.take<T>(2 * kLanes<T> * block.out * block.group_in * s.kernel_h * s.kernel_w);
    turned = carver.take<T>(2 * kLanes<T> * round_up(block.in, kLanes<T>));
    return carver.used();
  }
};

// dx of the block's channels of one image.
template <class T>
void input_gradient(const ConvBackward<T>& a, const Block& block, const PlaneShape& planes,
                    const Workspace<T>& w, int64_t image, int64_t b) {
  constexpr int kL = kLanes<T>;
  const ConvShape& s = a.s;
  const int64_t in = block.groups_in(s, b) * block.group_in, plane = s.height * s.width;
  set_zero(w.mean, in * plane);
  set_zero(w.variance, in * plane);
  for (int64_t rest = 0; rest < s.stride_h * s.stride_w; ++rest) {
    const int64_t rest_h = rest / s.stride_w, rest_w = rest % s.stride_w;
    const Phase h(s.height, s.kernel_h, s.stride_h, s.pad_h, s.dilation_h, rest_h);
    const Phase v(s.width, s.kernel_w, s.stride_w, s.pad_w, s.dilation_w, rest_w);
    if (h.taps * v.taps == 0 || h.grid <= 0 || v.grid <= 0) continue;
    const auto element = [&](int64_t i, int64_t j) {
      return planes.at(h.first + i * h.source_step, v.first + j * v.source_step);
    };
    const bool direct = s.stride_w == 1;
    for (int64_t c = 0; c < in; ++c) {
      const int64_t group = c / block.group_in, to = c * plane + rest_h * s.width;
      T* const mean = direct ? w.mean + to : w.grid[0];
      T* const variance = direct ? w.variance + to : w.grid[1];
      const int64_t ld = direct ? s.stride_h * s.width : v.grid;
      if (!direct) {
        set_zero(mean, h.grid * v.grid);
        set_zero(variance, h.grid * v.grid);
      }
      for (int64_t o = group * block.group_out; o < (group + 1) * block.group_out; ++o) {
        const WeightSteps& step = a.steps;
        const int64_t weight = (b * block.out + o) * step.out + c % block.group_in * step.channel +
                               (h.first_tap * s.kernel_w + v.first_tap) * step.tap;
        const Taps read{h.taps, v.taps, weight, h.tap_step * s.kernel_w * step.tap, v.tap_step * step.tap};
        correlate<false>(read, w.dy + o * planes.size(), w.gv + o * planes.size(), planes.row_step(), element,
                         a.mu, a.sigma2, h.grid, v.grid, mean, variance, ld);
      }
      if (direct) continue;
      for (int64_t i = 0; i < h.grid; ++i)
        for (int64_t j = 0; j < v.grid; ++j) {
          const int64_t at = to + i * s.stride_h * s.width + rest_w + j * s.stride_w;
          w.mean[at] = mean[i * v.grid + j];
          w.variance[at] = variance[i * v.grid + j];
        }
    }
  }
  const int64_t c0 = b * block.in, wide = round_up(block.in, kL);
  if (!s.channels_last) {
    const int64_t at = (image * s.in + c0) * plane;
    for (int64_t i = 0; i < in * plane; i += kL) {
      const int64_t left = in * plane - i;
      const Vec<T> x = load_first(a.x + at + i, left);
      store_first(a.dx + at + i, load_first(w.mean + i, left) + x * load_first(w.variance + i, left) * T(2),
                  left);
    }
    return;
  }
  for (int64_t p = 0; p < plane; p += kL) {
    const int64_t n = at_most(kL, plane - p);
    transpose_block(w.mean, in, plane, p, n, w.turned, wide);
    transpose_block(w.variance, in, plane, p, n, w.turned + kL * wide, wide);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t c = 0; c < in; c += kL) {
        const int64_t at = (image * plane + p + i) * s.in + c0 + c, left = in - c;
        const T* const from = w.turned + i * wide + c;
        const Vec<T> x = load_first(a.x + at, left);
        store_first(a.dx + at, load_first(from, left) + x * load_first(from + kL * wide, left) * T(2), left);
      }
  }
}

// Adds one image to the sums behind both weight gradients of a pair of channels, a vector of them a tap.
template <class T>
void add_weight_gradient(const ConvShape& s, const PlaneShape& in, const PlaneShape& out, const T* x,
                         const T* dy, const T* gv, T* sums) {
  constexpr int kL = kLanes<T>, kTaps = 4;
  const int64_t taps = s.kernel_h * s.kernel_w;
  for (int64_t t0 = 0; t0 < taps; t0 += kTaps) {
    const T* from[kTaps];
    Vec<T> m[kTaps] = {}, v[kTaps] = {};
    for (int t = 0; t < kTaps; ++t) {
      const int64_t tap = at_most(t0 + t, taps - 1);
      from[t] =
          x + in.at(tap / s.kernel_w * s.dilation_h - s.pad_h, tap % s.kernel_w * s.dilation_w - s.pad_w);
    }
    for (int64_t a = 0; a < s.out_h; ++a)
      for (int64_t b = 0; b < s.out_w; b += kL) {
        const int64_t at = out.at(a, b);
        const Vec<T> d = load_first(dy + at, s.out_w - b), g = load_first(gv + at, s.out_w - b);
        for (int t = 0; t < kTaps; ++t) {
          const Vec<T> value = load(from[t] + a * s.stride_h * in.row_step() + b);
          m[t] += d * value;
          v[t] += g * value * value;
        }
      }
    for (int t = 0; t < kTaps && t0 + t < taps; ++t) {
      T* const to = sums + (t0 + t) * 2 * kL;
      store(to, load(to) + m[t]);
      store(to + kL, load(to + kL) + v[t]);
    }
  }
}

template <class T>
void backward(const ConvBackward<T>& a, const Parallel& all) {
  constexpr int kL = kLanes<T>;
  const ConvShape& s = a.s;
  const Block block = Block::of(s, T());
  const PlaneShape in = input_planes(s), out = output_planes(s);
  const int64_t taps = s.kernel_h * s.kernel_w, pair = taps * 2 * kL;
  const Parallel parallel = limited(all, 8 * s.batch * s.out * block.group_in * s.out_h * s.out_w * taps);
  parallel(parallel.threads, [&](int64_t task) {
    Workspace<T> w;
    w.carve(Carver(scratch(Scratch::kTask, w.carve(Carver(), s, block, in, out))), s, block, in, out);
    share(block.count(s), task, parallel.threads, [&](int64_t b) {
      const int64_t groups = block.groups_in(s, b), n_out = groups * block.group_out;
      const int64_t pairs = n_out * block.group_in;
      set_zero(w.sums, pairs * pair);
      for (int64_t image = 0; image < s.batch; ++image) {
        fill_planes<T>(out, {a.dy, s.out_h, s.out_w, s.out, s.channels_last}, a.r, image, b * block.out,
                       n_out, w.dy, w.gv);
        if (a.dx) input_gradient(a, block, out, w, image, b);
        if (!a.dmu) continue;
        fill_planes<T>(in, {a.x, s.height, s.width, s.in, s.channels_last}, nullptr, image, b * block.in,
                       groups * block.group_in, w.x, nullptr);
        for (int64_t i = 0; i < pairs; ++i) {
          const int64_t o = i / block.group_in, c = o / block.group_out * block.group_in + i % block.group_in;
          add_weight_gradient(s, in, out, w.x + c * in.size(), w.dy + o * out.size(), w.gv + o * out.size(),
                              w.sums + i * pair);
        }
      }
      if (!a.dmu) return;
      for (int64_t i = 0; i < pairs * taps; ++i) {
        const int64_t o = b * block.out + i / taps / block.group_in, c = i / taps % block.group_in;
        const int64_t to = o * a.steps.out + c * a.steps.channel + i % taps * a.steps.tap;
        a.dmu[to] = sum_lanes<T>(load(w.sums + i * 2 * kL));
        a.dsigma2[to] = sum_lanes<T>(load(w.sums + i * 2 * kL + kL));
      }
    });
  });
}

}  // namespace

// Measured: with more channels a group, the matrix product wins although most of its rows are padding.
bool direct_fits(const ConvShape& s) { return s.groups > 1 && s.out / s.groups <= 4 && s.in / s.groups <= 4; }
void direct_forward(const ConvForward<float>& a, const Parallel& p) { forward(a, p); }
void direct_forward(const ConvForward<double>& a, const Parallel& p) { forward(a, p); }
void direct_backward(const ConvBackward<float>& a, const Parallel& p) { backward(a, p); }
void direct_backward(const ConvBackward<double>& a, const Parallel& p) { backward(a, p); }

}  // namespace VDK_ISA
}  // namespace vdk
