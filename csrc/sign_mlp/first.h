// The first layer of a draw and its mirror image. x and the noise are rounded to sixteen bits, whose products
// take half the time of floats; the error that makes is bounded, and what lies within the bound of 0 is
// summed again in floats. The sums of mu are kept, those of the noise are added to and subtracted from them.
#pragma once
#include "../common/workspace.h"
#include "sign_mlp.h"
#include "words.h"

namespace vdk {
namespace VDK_ISA {

VDK_INLINE int64_t blocks_of(int64_t width) { return (width + kBlock - 1) / kBlock; }
VDK_INLINE int64_t pairs_of(int64_t width) { return (width + 1) / 2; }

// sum of a b
VDK_INLINE float dot(const float* a, const float* b, int64_t n) {
  VecF sum{};
  for (int64_t i = 0; i < n; i += kLanes<float>) sum += load_first(a + i, n - i) * load_first(b + i, n - i);
  return sum_lanes<float>(sum);
}

// Largest values in some rows of x and of the net's own sums; `finite`: whether there is no infinity, no NaN.
struct Extent {
  float x, sum;   // |x|, |sum of |x| in a row|
  double square;  // sum of x^2 in a row
  float own;
  bool finite;

  VDK_INLINE void include(const Extent& e) {
    x = e.x > x ? e.x : x;
    sum = e.sum > sum ? e.sum : sum;
    square = e.square > square ? e.square : square;
    own = e.own > own ? e.own : own;
    finite = finite && e.finite;
  }
};

// Sums of sixteen bits leave room for a bound of their errors.
constexpr int16_t kOwnMost = 24000;

constexpr int64_t kTogether = VDK_VECTOR_BYTES == 64 ? 8 : VDK_VECTOR_BYTES / 16;  // rows that share a load
static_assert(kRows % kTogether == 0, "");

// What all draws share.
struct FirstLayer {
  float* columns;      // [width][blocks][kBlock]: mu, an input a row
  float* own;          // [rows][blocks][kBlock]: the net's own sums
  int16_t* x;          // [groups][pairs][kTogether][2], in units of x_unit
  int16_t* own_words;  // [groups][kTogether][blocks][kBlock] by `place`, in units of `unit`
  Extent extent;
  float x_unit, unit, own_error;  // the last in units

  void carve(const SignMlpArgs& a, Carver& carver) {
    columns = carver.take<float>((a.width + 1) * blocks_of(a.width) * kBlock);
    own = carver.take<float>(a.rows * blocks_of(a.width) * kBlock);
    const int64_t whole = (a.rows + kTogether - 1) / kTogether * kTogether;
    x = carver.take<int16_t>(whole * pairs_of(a.width) * 2);
    own_words = carver.take<int16_t>(whole * blocks_of(a.width) * kBlock);
  }

  VDK_INLINE void transpose(const SignMlpArgs& a) const {  // biases as of one more input
    const int64_t n = a.width, stride = blocks_of(n) * kBlock;
    for (int64_t j = 0; j <= n; ++j)
      for (int64_t o = 0; o < stride; ++o)
        columns[j * stride + o] = o >= n ? 0 : j < n ? a.mu[o * n + j] : a.mu[n * n + o];
  }

  // Sums of rows, and their extent.
  VDK_INLINE Extent sum_rows(const SignMlpArgs& a, Range rows) const {
    const int64_t n = a.width, stride = blocks_of(n) * kBlock;
    constexpr int kVectors = kBlock / kLanes<float>;
    Extent all{0, 0, 0, 0, true};
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      Extent e{0, 0, 0, 0, true};
      for (int64_t j = 0; j < n; ++j) {
        const float v = magnitude(a.x[row * n + j]);
        e.x = v > e.x ? v : e.x;
        e.sum += v;
        e.square += double(v) * v;
      }
      float total = e.sum;
      for (int64_t o = 0; o < stride; o += kBlock) {
        VecF z[kVectors];
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) z[v] = load(columns + n * stride + o + v * kLanes<float>);
        for (int64_t j = 0; j < n; ++j)
#pragma GCC unroll 8
          for (int v = 0; v < kVectors; ++v)
            z[v] += a.x[row * n + j] * load(columns + j * stride + o + v * kLanes<float>);
        for (int v = 0; v < kVectors; ++v) store(own + row * stride + o + v * kLanes<float>, z[v]);
      }
      for (int64_t o = 0; o < n; ++o) {
        const float v = magnitude(own[row * stride + o]);
        e.own = v > e.own ? v : e.own;
        total += v;
      }
      e.finite = total < 1e30f;
      all.include(e);
    }
    return all;
  }

  // Units: sums of sixteen bits reach as far as the net's own, and a bit. Beyond that they saturate, which
  // leaves the sign right: no own sum is that large.
  VDK_INLINE void settle(const SignMlpArgs& a, const Extent& e) {
    extent = e;
    float sigma = 0, mu = 0;
    const int64_t n = a.width, count = n * n + n;
    for (int64_t i = 0; i < count; ++i) {
      sigma = a.sigma[i] > sigma ? a.sigma[i] : sigma;
      mu = magnitude(a.mu[i]) > mu ? magnitude(a.mu[i]) : mu;
    }
    const float reach = e.own + 0.25f * sqrtf(float(n * e.square)) * sigma;
    extent.finite = e.finite && reach > 1e-30f && reach < 1e30f;
    x_unit = e.x > 1e-30f ? e.x / kMost : 1;
    unit = extent.finite ? reach / kOwnMost : 1;
    own_error = kRounding + 1.2e-7f * float(n + 2) * (e.sum + 1) * mu / unit;
  }

  VDK_INLINE void round_rows(const SignMlpArgs& a, Range rows) const {
    const int64_t n = a.width, pairs = pairs_of(n), stride = blocks_of(n) * kBlock;
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      int16_t* const to = x + (row / kTogether * pairs * kTogether + row % kTogether) * 2;
      for (int64_t j = 0; j < 2 * pairs; ++j)
        to[j / 2 * kTogether * 2 + j % 2] = j < n ? rounded(a.x[row * n + j] / x_unit) : int16_t(0);
      for (int64_t o = 0; o < stride; ++o)  // outputs that are not there: far from 0
        own_words[row * stride + o / kBlock * kBlock + place(int(o % kBlock))] =
            o < n ? rounded(own[row * stride + o] / unit) : kOwnMost;
    }
  }
};

constexpr int64_t kAhead = 12;  // rows fetched ahead of their use

// What one draw adds to it.
struct FirstDraw {
  const float* noise;  // sigma e
  int16_t* weights;    // [blocks][pairs][kBlock][2] by `wide_place`
  int32_t* bias;       // [blocks][kBlock] by `wide_place`
  int shift;           // sums, shifted by it, are in units of FirstLayer::unit
  int16_t bound;       // of the error of a sum
  uint32_t all_near;   // ~0: no bound is known

  void carve(const SignMlpArgs& a, Carver& carver) {
    weights = carver.take<int16_t>(blocks_of(a.width) * pairs_of(a.width) * kBlock * 2);
    bias = carver.take<int32_t>(blocks_of(a.width) * kBlock);
  }

  VDK_INLINE void fill(const SignMlpArgs& a, const FirstLayer& layer) {
    const int64_t n = a.width, pairs = pairs_of(n);
    float most = 0, sum = 0, most_bias = 0;
    double square = 0;
    for (int64_t o = 0; o < n; ++o) {
      float own_sum = 0;
      double own_square = 0;
      for (int64_t j = 0; j < n; ++j) {
        const float v = magnitude(noise[o * n + j]);
        most = v > most ? v : most;
        own_sum += v;
        own_square += double(v) * v;
      }
      sum = own_sum > sum ? own_sum : sum;
      square = own_square > square ? own_square : square;
      const float b = magnitude(noise[n * n + o]);
      most_bias = b > most_bias ? b : most_bias;
    }
    // the largest shift, the finest weights, with which they and all sums (Cauchy, Schwarz) keep their room
    double weight_unit = 0;
    for (shift = 20; shift >= 0; --shift) {
      const double finest = double(layer.unit) / (1 << shift);  // unit of a sum before the shift
      weight_unit = finest / layer.x_unit;
      const double lengths = (sqrt(layer.extent.square) / layer.x_unit + 0.6 * sqrt(double(n))) *
                             (sqrt(square) / weight_unit + 0.6 * sqrt(double(n)));
      if (most < 32766 * weight_unit && lengths + most_bias / finest + (1 << shift) < 2.14e9) break;
    }
    const double error = layer.own_error + 0.6 +
                         (kRounding * (weight_unit * layer.extent.sum + double(layer.x_unit) * sum) +
                          0.3 * double(n) * weight_unit * layer.x_unit) /
                             layer.unit;
    all_near = layer.extent.finite && shift >= 0 && error < 8000 ? 0 : ~0u;
    bound = all_near ? 0 : int16_t(error + 1);
    if (all_near) shift = 0;
    const float scale = all_near ? 0 : float(1 / weight_unit);
    const double bias_scale = double(scale) / layer.x_unit;
    for (int64_t o = 0; o < blocks_of(n) * kBlock; ++o) {
      const int64_t block = o / kBlock;
      const int at = wide_place(int(o % kBlock));
      const bool there = o < n && !all_near;
      bias[block * kBlock + at] =
          there ? int32_t(noise[n * n + o] * bias_scale + (1 << shift) * 0.5) : 0;  // half: to the nearest
      for (int64_t j = 0; j < 2 * pairs; ++j)
        weights[((block * pairs + j / 2) * kBlock + at) * 2 + j % 2] =
            there && j < n ? rounded(noise[o * n + j] * scale) : 0;
    }
  }

  // Signs of kTogether rows in one block of outputs, of mu + noise and mu - noise, and which of the sums
  // could be wrong. kWords: blocks of outputs, if known.
  template <bool kMirrored, int kWords>
  VDK_INLINE void signs(const SignMlpArgs& a, const FirstLayer& layer, int64_t row, int64_t block,
                        uint32_t* plus, uint32_t* minus, uint32_t* unsure) const {
    const int64_t pairs = pairs_of(a.width), blocks = kWords ? kWords : blocks_of(a.width);
    const int16_t *x = layer.x + row * pairs * 2, *w = weights + block * pairs * kBlock * 2;
    VecI wide[kTogether][kWide];
#pragma GCC unroll 8
    for (int r = 0; r < kTogether; ++r)
#pragma GCC unroll 8
      for (int i = 0; i < kWide; ++i) wide[r][i] = load_wide(bias + block * kBlock + i * kLanes<float>);
    for (int64_t p = 0; p < pairs; ++p, w += 2 * kBlock) {
      VecS in[kTogether];
#pragma GCC unroll 8
      for (int r = 0; r < kTogether; ++r) {
        int32_t pair;
        __builtin_memcpy(&pair, x + (p * kTogether + r) * 2, sizeof pair);
        in[r] = (VecS)(VecI{} + pair);
      }
#pragma GCC unroll 8
      for (int i = 0; i < kWide; ++i) {
        const VecS weight = load_sums(w + i * 2 * kLanes<float>);
#pragma GCC unroll 8
        for (int r = 0; r < kTogether; ++r) wide[r][i] += multiply_pairs(weight, in[r]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kTogether; ++r) {
#pragma GCC unroll 8
      for (int i = 0; i < kWide; ++i) wide[r][i] >>= shift;
      VecS noisy[kParts], up[kParts], down[kParts], close[kParts];
      pack_block(wide[r], noisy);
      const int16_t* const own = layer.own_words + ((row + r) * blocks + block) * kBlock;
#pragma GCC unroll 8
      for (int i = 0; i < kParts; ++i) {
        const VecS mean = load_sums(own + i * (kBlock / kParts)) + bound;
        up[i] = add_saturated(mean, noisy[i]);
        close[i] = within(up[i], int16_t(2 * bound));
        if (kMirrored) {
          down[i] = subtract_saturated(mean, noisy[i]);
          close[i] |= within(down[i], int16_t(2 * bound));
        }
      }
      plus[r] = negative(up);
      if (kMirrored) minus[r] = negative(down);
      unsure[r] = negative(close) | all_near;
    }
  }

  // Signs of what was unsure, from floats. plus and minus begin with row `first`.
  template <bool kMirrored>
  VDK_INLINE void sum_again(const SignMlpArgs& a, const FirstLayer& layer, int64_t first, int64_t block,
                            const Unsure* from, const Unsure* to, uint32_t* plus, uint32_t* minus) const {
    const int64_t n = a.width, blocks = blocks_of(n);
    for (; from < to; ++from) {
      if (to - from > kAhead) {  // these rows are far away in memory
        const Unsure& later = from[kAhead];
        __builtin_prefetch(layer.own + later.row * blocks * kBlock + block * kBlock +
                           __builtin_ctz(later.outputs));
        for (int64_t j = 0; j < n; j += 16) __builtin_prefetch(a.x + later.row * n + j);
      }
      const int64_t row = from->row, at = row - first;
      for (uint32_t outputs = from->outputs; outputs; outputs &= outputs - 1) {
        const int bit = __builtin_ctz(outputs);
        const int64_t o = block * kBlock + bit;
        if (o >= n) break;
        const float mean = layer.own[row * blocks * kBlock + o];
        const float d = noise[n * n + o] + dot(a.x + row * n, noise + o * n, n);
        set_bit(plus + at, bit, !(mean + d >= 0));
        if (kMirrored) set_bit(minus + at, bit, !(mean - d >= 0));
      }
    }
  }
};

}  // namespace VDK_ISA
}  // namespace vdk
