// The 3x3 convolution of stride 1 by Winograd's F(4x4, 3x3): forward, and the gradient of the input.
#include "../random/normal.h"
#include "winograd_pass.h"
#include "winograd_weights.h"

namespace vdk {
namespace VDK_ISA {
namespace {

constexpr int kL = kLanes<float>;

ImageLayout input_layout(const ConvShape& s) { return {s.in, s.height, s.width, s.channels_last}; }
ImageLayout output_layout(const ConvShape& s) { return {s.out, s.out_h, s.out_w, s.channels_last}; }

Parallel threads_for(const ConvShape& s, const Parallel& parallel) {
  return limited(parallel, 9 * s.batch * s.out_h * s.out_w * s.in * s.out);
}

// The noise of the rows of tiles side by side, [channels, pixels]: groups of four pixels, which begin where a
// tile begins only if the image's width is a multiple of four. Otherwise a group is shared with the next
// tile.
struct TileNoise {
  const NoiseGrid& grid;
  int64_t row, width;
  VecF carried[kTile][4];

  // four pixels of line h from column w on; line is h within the tile
  VDK_INLINE void draw(int line, int64_t h, int64_t w, bool first, VecF (&z)[4]) {
    const int64_t at = h * width + w, shift = at % 4;
    if (shift == 0) return normals_of_rows(grid, row, at / 4, z);
    VecF both[8];
    if (first)
      normals_of_rows(grid, row, at / 4, both);
    else
      for (int i = 0; i < 4; ++i) both[i] = carried[line][i];
    if (w + 4 - shift < width) {
      normals_of_rows(grid, row, at / 4 + 1, both + 4);
      for (int i = 0; i < 4; ++i) carried[line][i] = both[4 + i];
    } else {
      for (int i = 0; i < 4; ++i) both[4 + i] = VecF{};
    }
    for (int i = 0; i < 4; ++i) z[i] = both[shift + i];
  }
};

// What rounding leaves of a variance that is 0 in truth, where all inputs under a window are 0, lies below
// this part of the tile's largest. It would make r = e / (2 sqrt(v + eps)) huge, and backward would smear
// that over the tile. There v and r are 0: x^2, the factor of r in every gradient, is 0 too.
constexpr float kDead = 3e-5f;

VDK_INLINE void drop_dust(VecF (&v)[kTile][kTile]) {
  VecF most{};
  for (int i = 0; i < kTile; ++i)
    for (int j = 0; j < kTile; ++j) most = maximum(most, v[i][j]);
  most = most * kDead;
  for (int i = 0; i < kTile; ++i)
    for (int j = 0; j < kTile; ++j) v[i][j] = v[i][j] > most ? v[i][j] : VecF{};
}

struct ForwardPass {
  const ConvForward<float>& a;
  ImageLayout in, out;
  NoiseGrid noise;

  explicit ForwardPass(const ConvForward<float>& a)
      : a(a), in(input_layout(a.s)), out(output_layout(a.s)), noise(a.seed, a.s.out_h * a.s.out_w) {}

  void inputs(const Segment& s, int64_t c, float* staged, const PointBlock& to) const {
    const int64_t cols = s.count * kTile + 2;
    read_window(in, a.x, {s.n, c, s.row * kTile - a.s.pad_h, s.col * kTile - a.s.pad_w, kPatch, cols},
                staged);
    for (int64_t t = 0; t < s.count; ++t) {
      const float* const patch = staged + t * kTile * kL;
      transform_patch<false>(patch, cols, to.at(0, s.first + t, c), to.point, to.tile);
      transform_patch<true>(patch, cols, to.at(1, s.first + t, c), to.point, to.tile);
    }
  }

  void results(const Segment& s, int64_t o, const float* mean, const float* variance, const PointBlock& from,
               float* staged) const {
    const int64_t cols = s.count * kTile, h = s.row * kTile, w = s.col * kTile;
    float *const y = staged, *const r = staged + kStaged;
    const Window at{s.n, o, h, w, kTile, cols};
    expect_window(out, a.y, at);
    expect_window(out, a.r, at);
    const VecF bias = a.bias ? load_first(a.bias + o, a.s.out - o) : VecF{};
    TileNoise tile_noise{noise, s.n * a.s.out + o, a.s.out_w, {}};
    for (int64_t t = 0; t < s.count; ++t) {
      VecF m[kTile][kTile], v[kTile][kTile];
      transform_result(mean + t * from.tile, from.point, m);
      transform_result(variance + t * from.tile, from.point, v);
      drop_dust(v);
      for (int i = 0; i < kTile && h + i < a.s.out_h; ++i) {
        VecF z[4];
        tile_noise.draw(i, h + i, w + t * kTile, t == 0, z);
        for (int j = 0; j < kTile; ++j) {
          const int64_t at = (i * cols + t * kTile + j) * kL;
          const VecF total = maximum(v[i][j] + a.eps, VecF{} + 1e-30f), e = z[j] * reciprocal_root(total);
          store(y + at, m[i][j] + bias + total * e);
          store(r + at, v[i][j] > VecF{} ? e * 0.5f : VecF{});
        }
      }
    }
    write_window(out, a.y, at, y);
    write_window(out, a.r, at, r);
  }
};

struct InputGradientPass {
  const ConvBackward<float>& a;
  ImageLayout in, out;

  explicit InputGradientPass(const ConvBackward<float>& a)
      : a(a), in(output_layout(a.s)), out(input_layout(a.s)) {}

  void inputs(const Segment& s, int64_t c, float* staged, const PointBlock& to) const {
    const int64_t cols = s.count * kTile + 2;
    const Window at{s.n, c, s.row * kTile + a.s.pad_h - 2, s.col * kTile + a.s.pad_w - 2, kPatch, cols};
    read_window(in, a.dy, at, staged);
    read_window(in, a.r, at, staged + kStaged);
    multiply_into(staged + kStaged, staged, kPatch * cols);
    for (int path = 0; path < 2; ++path)
      for (int64_t t = 0; t < s.count; ++t)
        transform_patch<false>(staged + path * kStaged + t * kTile * kL, cols, to.at(path, s.first + t, c),
                               to.point, to.tile);
  }

  void results(const Segment& s, int64_t c, const float* mean, const float* variance, const PointBlock& from,
               float* staged) const {
    const int64_t cols = s.count * kTile;
    const Window at{s.n, c, s.row * kTile, s.col * kTile, kTile, cols};
    read_window(out, a.x, at, staged);
    expect_window(out, a.dx, at);
    for (int64_t t = 0; t < s.count; ++t) {
      VecF m[kTile][kTile], v[kTile][kTile];
      transform_result(mean + t * from.tile, from.point, m);
      transform_result(variance + t * from.tile, from.point, v);
      for (int i = 0; i < kTile; ++i)
        for (int j = 0; j < kTile; ++j) {
          float* const x = staged + (i * cols + t * kTile + j) * kL;
          store(x, m[i][j] + load(x) * 2.0f * v[i][j]);
        }
    }
    write_window(out, a.dx, at, staged);
  }
};

void input_gradient(const ConvBackward<float>& a, const Parallel& parallel) {
  const ConvShape& s = a.s;
  PointWeights weights(s.out, s.in);
  const auto carve = [&](Carver carver) {
    weights.carve(carver);
    return carver.used();
  };
  carve(Carver(scratch(Scratch::kShared, carve(Carver()))));
  const float* const both[2] = {a.mu, a.sigma2};
  const WeightSteps& step = a.steps;
  fill_weights(weights, both, {step.out, step.channel, step.tap, true}, parallel);
  run_tiles(InputGradientPass(a), TileGrid(s.batch, s.height, s.width), weights, parallel);
}

}  // namespace

// Against implicit GEMM, in vector FMAs for every weight of a vector: 18 a pixel, at less than the peak, are
// 72 a tile, and to bring the weights to the points. Measured from 8 to 512 channels; below 8 lanes stay
// empty.
bool winograd_fits(const ConvShape& s) {
  constexpr int64_t kFewestChannels = 8, kPerPixel = 20, kPerTile = 2 * kPoints, kPerWeight = 600;
  const int64_t pixels = s.batch * s.out_h * s.out_w;
  const int64_t tiles = round_up(TileGrid(s.batch, s.out_h, s.out_w).count(), kRowStep);
  return s.kernel_h == 3 && s.kernel_w == 3 && s.stride_h == 1 && s.stride_w == 1 && s.dilation_h == 1 &&
         s.dilation_w == 1 && s.groups == 1 && s.in >= kFewestChannels && s.out >= kFewestChannels &&
         kPerTile * tiles + kPerWeight < kPerPixel * pixels;
}

void winograd_forward(const ConvForward<float>& a, const Parallel& all) {
  const ConvShape& s = a.s;
  const Parallel parallel = threads_for(s, all);
  PointWeights weights(s.in, s.out);
  const auto carve = [&](Carver carver) {
    weights.carve(carver);
    return carver.used();
  };
  carve(Carver(scratch(Scratch::kShared, carve(Carver()))));
  const float* const both[2] = {a.mu, a.sigma2};
  const WeightSteps& step = a.steps;
  fill_weights(weights, both, {step.channel, step.out, step.tap, false}, parallel);
  run_tiles(ForwardPass(a), TileGrid(s.batch, s.out_h, s.out_w), weights, parallel);
}

void winograd_backward(const ConvBackward<float>& a, const Parallel& all) {
  const Parallel parallel = threads_for(a.s, all);
  if (a.dx) input_gradient(a, parallel);
  if (a.dmu) weight_gradients(a, input_layout(a.s), output_layout(a.s), parallel);
}

}  // namespace VDK_ISA
}  // namespace vdk
