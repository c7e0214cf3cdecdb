// The gradients of the weights: at each point the product of gradients and inputs over all tiles.
//
// One group of tiles and one range of outputs make a task, which shares nothing: in parts that the caches
// hold, it brings inputs and gradients to the points, and adds their products to its own. Where there is but
// one group, mean and variance are tasks of their own. How tiles are grouped depends on the shape alone, and
// groups are added in order, so no sum depends on how many threads there are.
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
  int64_t width, panel, point;
  float* values[2];  // mean, variance

  PointPanels(int64_t tiles, int64_t channels, int64_t width)
      : width(width),
        panel(tiles * width + 16),
        point((channels + width - 1) / width * panel + 16),
        values{} {}
  void carve(Carver& carver, const Range& paths) {
    for (int64_t path = paths.begin; path < paths.end; ++path)
      values[path] = carver.take<float>(kPoints * point);
  }
  float* at(int64_t path, int64_t tile, int64_t c) const {
    return values[path] + c / width * panel + tile * width + c % width;
  }
};

struct WeightGradients {
  const ConvBackward<float>& a;
  ImageLayout in, out;
  TileGrid tiles;
  int64_t groups, part;                  // groups of tiles; the most tiles of a part
  int64_t width, out_panels, in_panels;  // outputs of a block; blocks
  int64_t point, block;                  // floats of a block's products, [point][width][kPanel]
  float* products;                       // [path][group][out_panels][in_panels][block], or null

  static constexpr int64_t kWidest = 64;

  WeightGradients(const ConvBackward<float>& a, const ImageLayout& in, const ImageLayout& out)
      : a(a), in(in), out(out), tiles(a.s.batch, a.s.out_h, a.s.out_w), groups(1), products(nullptr) {
    constexpr int64_t kMostGroups = 16, kFewestTilesOfGroup = 256, kPartBytes = 1 << 20;
    while (groups < kMostGroups && tiles.count() >= 2 * groups * kFewestTilesOfGroup) groups *= 2;
    // What a part brings to the points should stay in L2. But every part reads and writes all products once
    // more, which is cheap only as long as those stay there too.
    const int64_t bytes_each = (groups > 1 ? 2 : 1) * kPoints * int64_t(sizeof(float));
    const int64_t fewest = bytes_each * a.s.in * a.s.out <= 2 * kPartBytes ? 32 : 128;
    const int64_t wanted = at_least(kPartBytes / (bytes_each * (a.s.in + a.s.out)), fewest);
    const int64_t of_group = (tiles.count() + groups - 1) / groups;
    const int64_t parts = at_least((of_group + wanted / 2) / wanted, 1);
    part = (of_group + parts - 1) / parts;
    out_panels = (a.s.out + kWidest - 1) / kWidest;
    width = round_up((a.s.out + out_panels - 1) / out_panels, kLanes<float>);
    in_panels = (a.s.in + kPanel - 1) / kPanel;
    point = width * kPanel + 16;
    block = kPoints * point;
  }

  bool keeps_products() const { return groups > 1 || part < tiles.count(); }
  float* products_of(int64_t path, int64_t group, int64_t o, int64_t c) const {
    return products + (((path * groups + group) * out_panels + o) * in_panels + c) * block;
  }

  void bring_inputs(const Range& paths, const Range& range, const PointPanels& x, float* staged) const {
    constexpr int kL = kLanes<float>;
    for_segments(tiles, range, [&](const Segment& s) {
      const int64_t cols = s.count * kTile + 2;
      for (int64_t c = 0; c < a.s.in; c += kL) {
        read_window(in, a.x, {s.n, c, s.row * kTile - a.s.pad_h, s.col * kTile - a.s.pad_w, kPatch, cols},
                    staged);
        for (int64_t path = paths.begin; path < paths.end; ++path) {
          const auto transform = path ? transform_patch<true> : transform_patch<false>;
          for (int64_t t = 0; t < s.count; ++t)
            transform(staged + t * kTile * kL, cols, x.at(path, s.first + t, c), x.point, x.width);
        }
      }
    });
  }

  // of outputs [os.begin, os.end)
  void bring_gradients(const Range& paths, const Range& range, const Range& os, const PointPanels& dy,
                       float* staged) const {
    constexpr int kL = kLanes<float>;
    for_segments(tiles, range, [&](const Segment& s) {
      const int64_t cols = s.count * kTile;
      for (int64_t o = os.begin; o < os.end; o += kL) {
        const Window at{s.n, o, s.row * kTile, s.col * kTile, kTile, cols};
        read_window(out, a.dy, at, staged);
        for (int64_t path = paths.begin; path < paths.end; ++path) {
          if (path) {
            read_window(out, a.r, at, staged + kStaged);
            multiply_into(staged, staged + kStaged, kTile * cols);
          }
          for (int64_t t = 0; t < s.count; ++t)
            transform_gradient(staged + t * kTile * kL, cols, dy.at(path, s.first + t, o - os.begin),
                               dy.point, dy.width);
        }
      }
    });
  }

  void run_group(const Range& paths, int64_t group, const Range& os) const {
    const Range mine = part_of(tiles.count(), 1, group, groups);
    PointPanels x(part, a.s.in, kPanel), dy(part, os.end - os.begin, width);
    float *staged, *one_block;
    const auto carve = [&](Carver carver) {
      x.carve(carver, paths);
      dy.carve(carver, paths);
      staged = carver.take<float>(2 * kStaged);
      one_block = carver.take<float>(keeps_products() ? 0 : block);
      return carver.used();
    };
    carve(Carver(scratch(Scratch::kTask, carve(Carver()))));
    for (int64_t t = mine.begin; t < mine.end; t += part) {
      const Range range{t, at_most(t + part, mine.end)};
      bring_inputs(paths, range, x, staged);
      bring_gradients(paths, range, os, dy, staged);
      for (int64_t path = paths.begin; path < paths.end; ++path)
        for (int64_t o = os.begin; o < os.end; o += width)
          for (int64_t c = 0; c < in_panels; ++c) {
            float* const to = keeps_products() ? products_of(path, group, o / width, c) : one_block;
            const int64_t rows = at_most(width, os.end - o), cols = at_most(kPanel, a.s.in - c * kPanel);
            for (int q = 0; q < kPoints; ++q)
              multiply_outer(round_up(rows, kRowStep), cols, range.end - range.begin,
                             dy.values[path] + q * dy.point + (o - os.begin) / width * dy.panel, width,
                             x.values[path] + q * x.point + c * x.panel, x.panel, to + q * point, kPanel,
                             t > mine.begin);
            if (groups == 1 && range.end == mine.end) write(path, o / width, c, to);
          }
    }
  }

  // A block's products, of the first of its groups, become gradients.
  void write(int64_t path, int64_t o, int64_t c, const float* first) const {
    constexpr int kL = kLanes<float>;
    const int64_t rows = at_most(width, a.s.out - o * width), cols = at_most(kPanel, a.s.in - c * kPanel);
    const int64_t next = out_panels * in_panels * block;
    alignas(64) float nine[9 * kL];
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < cols; j += kL) {
        transform_weight_gradient(
            [&](int p) __attribute__((always_inline)) {
              const float* from = first + p * point + i * kPanel + j;
              VecF sum = load(from);
              for (int64_t g = 1; g < groups; ++g) sum += load(from += next);
              return sum;
            },
            nine);
        float* const to =
            (path ? a.dsigma2 : a.dmu) + (o * width + i) * a.steps.out + (c * kPanel + j) * a.steps.channel;
        const auto ninth = [&](int64_t q) __attribute__((always_inline)) { return load(nine + q * kL); };
        if (a.steps.tap == 1)
          write_across(to, 9, cols - j, 9, ninth);
        else
          for (int64_t q = 0; q < 9; ++q) store_first(to + q * a.steps.tap, ninth(q), cols - j);
      }
  }
};

inline void weight_gradients(const ConvBackward<float>& a, const ImageLayout& in, const ImageLayout& out,
                             const Parallel& parallel) {
  WeightGradients g(a, in, out);
  const int64_t blocks = g.out_panels * g.in_panels;
  if (g.keeps_products()) {
    const auto carve = [&](Carver carver) {
      g.products = carver.take<float>(2 * g.groups * blocks * g.block);
      return carver.used();
    };
    carve(Carver(scratch(Scratch::kShared, carve(Carver()))));
  }
  // outputs are shared out only where there are threads left: inputs are brought to the points in each range
  const int64_t paths = g.groups > 1 ? 1 : 2, per_range = paths * g.groups;
  const int64_t ranges = at_most(at_least(parallel.threads / per_range, 1), g.out_panels);
  const int64_t tasks = per_range * ranges, threads = at_most(parallel.threads, tasks);
  parallel(threads, [&](int64_t thread) {
    const Range mine = part_of(tasks, 1, thread, threads);
    for (int64_t i = mine.begin; i < mine.end; ++i)
      g.run_group(part_of(2, 1, i % paths, paths), i / paths % g.groups,
                  part_of(a.s.out, g.width, i / per_range, ranges));
  });
  if (g.groups == 1) return;
  parallel(parallel.threads, [&](int64_t thread) {
    const Range mine = part_of(2 * blocks, 1, thread, parallel.threads);
    for (int64_t i = mine.begin; i < mine.end; ++i) {
      const int64_t path = i / blocks, o = i % blocks / g.in_panels, c = i % g.in_panels;
      g.write(path, o, c, g.products_of(path, 0, o, c));
    }
  });
}

}  // namespace VDK_ISA
}  // namespace vdk
