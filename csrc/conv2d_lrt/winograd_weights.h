// The gradients of the weights: at each point the product of gradients and inputs over all tiles.
//
// Tiles are taken in parts that the caches hold. Of each, all threads first bring inputs and gradients to the
// points; then every thread multiplies for blocks of weights of its own, so no sum depends on how many
// threads there are. After the last part a block's products become gradients while they are still in cache.
#pragma once
#include "winograd_pass.h"

namespace vdk {
namespace VDK_ISA {

// p *= q, vectors
VDK_INLINE void multiply_into(float* p, const float* q, int64_t vectors) {
  constexpr int kL = kLanes<float>;
  for (int64_t i = 0; i < vectors; ++i) store(p + i * kL, load(p + i * kL) * load(q + i * kL));
}

// Values of a part at the points, [point][panel][tile][width].
struct PointPanels {
  int64_t width, panels, panel, point;
  float* values[2];

  PointPanels(int64_t tiles, int64_t channels, int64_t width)
      : width(width),
        panels((channels + width - 1) / width),
        panel(tiles * width + 16),
        point(panels * panel + 16),
        values{} {}
  void carve(Carver& carver) {
    for (float*& p : values) p = carver.take<float>(kPoints * point);
  }
  float* at(int path, int64_t tile, int64_t c) const {
    return values[path] + c / width * panel + tile * width + c % width;
  }
};

struct WeightGradients {
  const ConvBackward<float>& a;
  ImageLayout in, out;
  TileGrid tiles;
  int64_t part;          // tiles of a part
  PointPanels x, dy;     // inputs and gradients of a part
  int64_t block, point;  // products of a block: [path][point][dy.width][kPanel]
  float* products;

  static constexpr int64_t kGradientPanel = 64;

  // What a part brings to the points should stay in L2, but every part reads and writes all products once
  // more, which is cheap only as long as those stay there too.
  static int64_t tiles_of_part(int64_t tiles, int64_t in, int64_t out) {
    constexpr int64_t kBytes = 2 << 20, kBytesEach = 2 * kPoints * sizeof(float);
    const int64_t fewest = kBytesEach * in * out <= kBytes ? 48 : 128;
    const int64_t wanted = at_least(kBytes / (kBytesEach * (in + out)), fewest);
    const int64_t parts = at_least((tiles + wanted / 2) / wanted, 1);
    return (tiles + parts - 1) / parts;
  }
  static int64_t gradient_panel(int64_t channels) {
    const int64_t panels = (channels + kGradientPanel - 1) / kGradientPanel;
    return round_up((channels + panels - 1) / panels, kLanes<float>);
  }

  WeightGradients(const ConvBackward<float>& a, const ImageLayout& in, const ImageLayout& out)
      : a(a),
        in(in),
        out(out),
        tiles(a.s.batch, a.s.out_h, a.s.out_w),
        part(tiles_of_part(tiles.count(), a.s.in, a.s.out)),
        x(part, a.s.in, kPanel),
        dy(part, a.s.out, gradient_panel(a.s.out)),
        point(dy.width * kPanel + 16),
        products(nullptr) {
    block = kPoints * point;
  }

  int64_t blocks() const { return 2 * x.panels * dy.panels; }

  void fill(const Range& range, int64_t begin, float* staged) const {
    constexpr int kL = kLanes<float>;
    for_segments(tiles, range, [&](const Segment& s) {
      const int64_t first = range.begin - begin + s.first, cols = s.count * kTile;
      for (int64_t c = 0; c < a.s.in; c += kL) {
        read_window(in, a.x, {s.n, c, s.row * kTile - a.s.pad_h, s.col * kTile - a.s.pad_w, kPatch, cols + 2},
                    staged);
        for (int64_t t = 0; t < s.count; ++t) {
          transform_patch<false>(staged + t * kTile * kL, cols + 2, x.at(0, first + t, c), x.point);
          transform_patch<true>(staged + t * kTile * kL, cols + 2, x.at(1, first + t, c), x.point);
        }
      }
      for (int64_t o = 0; o < a.s.out; o += kL) {
        const Window at{s.n, o, s.row * kTile, s.col * kTile, kTile, cols};
        read_window(out, a.dy, at, staged);
        read_window(out, a.r, at, staged + kStaged);
        multiply_into(staged + kStaged, staged, kTile * cols);
        for (int path = 0; path < 2; ++path)
          for (int64_t t = 0; t < s.count; ++t)
            transform_gradient(staged + path * kStaged + t * kTile * kL, cols, dy.at(path, first + t, o),
                               dy.point);
      }
    });
  }

  // Block i: one path, one panel of gradients, one of inputs.
  void multiply_block(int64_t i, int64_t n_tiles, bool accumulate, bool last, float* c) const {
    const int path = int(i % 2);
    const int64_t o = i / 2 / x.panels, p = i / 2 % x.panels;
    const int64_t rows = at_most(dy.width, a.s.out - o * dy.width),
                  cols = at_most(kPanel, a.s.in - p * kPanel);
    for (int q = 0; q < kPoints; ++q)
      multiply_outer(round_up(rows, kRowStep), cols, n_tiles, dy.values[path] + q * dy.point + o * dy.panel,
                     dy.width, x.values[path] + q * x.point + p * x.panel, x.panel, c + q * point, kPanel,
                     accumulate);
    if (last) write(path ? a.dsigma2 : a.dmu, o * dy.width, rows, p * kPanel, cols, c);
  }

  void write(float* gradient, int64_t o0, int64_t rows, int64_t c0, int64_t cols, const float* c) const {
    constexpr int kL = kLanes<float>;
    alignas(64) float nine[9 * kL];
    for (int64_t o = 0; o < rows; ++o)
      for (int64_t i = 0; i < cols; i += kL) {
        transform_weight_gradient(c + o * kPanel + i, point, nine);
        write_across(gradient + ((o0 + o) * a.s.in + c0 + i) * 9, 9, cols - i, 9,
                     [&](int64_t q) __attribute__((always_inline)) { return load(nine + q * kL); });
      }
  }
};

inline void weight_gradients(const ConvBackward<float>& a, const ImageLayout& in, const ImageLayout& out,
                             const Parallel& parallel) {
  WeightGradients g(a, in, out);
  const bool one_part = g.part >= g.tiles.count();
  const auto carve = [&](Carver carver) {
    g.x.carve(carver);
    g.dy.carve(carver);
    if (!one_part) g.products = carver.take<float>(g.blocks() * g.block);
    return carver.used();
  };
  carve(Carver(scratch(Scratch::kShared, carve(Carver()))));
  for (int64_t begin = 0; begin < g.tiles.count(); begin += g.part) {
    const int64_t n = at_most(g.part, g.tiles.count() - begin);
    parallel(parallel.threads, [&](int64_t task) {
      const Range mine = part_of(n, 1, task, parallel.threads);
      float* const staged =
          Carver(scratch(Scratch::kTask, 2 * kStaged * sizeof(float))).take<float>(2 * kStaged);
      g.fill({begin + mine.begin, begin + mine.end}, begin, staged);
    });
    parallel(parallel.threads, [&](int64_t task) {
      const Range mine = part_of(g.blocks(), 1, task, parallel.threads);
      float* own = nullptr;
      if (one_part)
        own = Carver(scratch(Scratch::kTask, size_t(g.block) * sizeof(float))).take<float>(g.block);
      for (int64_t i = mine.begin; i < mine.end; ++i)
        g.multiply_block(i, n, begin > 0, begin + n == g.tiles.count(), own ? own : g.products + i * g.block);
    });
  }
}

}  // namespace VDK_ISA
}  // namespace vdk
