// A convolution with 3x3 windows as Winograd's products: forward, and with turned weights the input's
// gradient.
//
// Weights are brought to the 36 points once. Then every thread takes blocks of tiles, brings their inputs to
// the points, multiplies, and turns the products into results, mean and variance side by side, so that what
// stands between the passes over memory stays in the caches. Tiles are counted through all images, so small
// images share a block.
#pragma once
#include "winograd_gemm.h"
#include "winograd_image.h"
#include "winograd_transforms.h"

namespace vdk {
namespace VDK_ISA {

constexpr int64_t kSegment = 16;                             // tiles side by side, staged at a time
constexpr int64_t kStagedCols = kSegment * kTile + 2;        // the inputs they reach
constexpr int64_t kStagedVectors = kPatch * kStagedCols;     // of a window
constexpr int64_t kStaged = kStagedVectors * kLanes<float>;  // floats

// The tiles of all images' results, in rows, image after image.
struct TileGrid {
  int64_t batch, rows, cols;
  TileGrid(int64_t batch, int64_t out_h, int64_t out_w)
      : batch(batch), rows((out_h + kTile - 1) / kTile), cols((out_w + kTile - 1) / kTile) {}
  int64_t count() const { return batch * rows * cols; }
};

// `count` tiles side by side: row `row` of image n from column `col` on, `first` counted from the range's
// begin.
struct Segment {
  int64_t n, row, col, count, first;
};

template <class F>
VDK_INLINE void for_segments(const TileGrid& grid, const Range& tiles, F&& f) {
  for (int64_t t = tiles.begin; t < tiles.end;) {
    const int64_t row = t / grid.cols, col = t % grid.cols;
    const int64_t n = at_most(at_most(grid.cols - col, tiles.end - t), kSegment);
    f(Segment{row / grid.rows, row % grid.rows, col, n, t - tiles.begin});
    t += n;
  }
}

// How 3x3 weights are read: inputs are summed over k, and lanes are results.
struct PointView {
  int64_t k_step, lane_step, tap_step;
  bool turned;

  // Lanes [lane, lane + kLanes) of `lanes`, ks [k0, k0 + n): to[k][tap][lane].
  VDK_INLINE void read(const float* w, int64_t lanes, int64_t lane, int64_t k0, int64_t n, float* to) const {
    constexpr int kL = kLanes<float>;
    const float* const first = w + lane * lane_step + k0 * k_step;
    const int64_t left = lanes - lane;
    if (tap_step == 1) {
      const int64_t together = k_step == 9 ? n : 1;  // neighbours in memory
      for (int64_t i = 0; i < n; i += together)
        read_across(first + i * k_step, lane_step, left, 9 * together,
                    [&](int64_t q, VecF v)
                        __attribute__((always_inline)) { store(to + (9 * i + q) * kL, v); });
      return;
    }
    for (int64_t tap = 0; tap < 9; ++tap) {  // channels last: they are the lanes, or neighbouring ks
      const float* const from = first + tap * tap_step;
      const auto put = [&](int64_t i, VecF v)
                           __attribute__((always_inline)) { store(to + (9 * i + tap) * kL, v); };
      if (k_step == 1)
        read_across(from, lane_step, left, n, put);
      else
        for (int64_t i = 0; i < n; ++i) put(i, load_first(from + i * k_step, left));
    }
  }
};

// Weights at the points, [point][panel][k][kPanel], for the mean and for the variance.
struct PointWeights {
  int64_t k, lanes, panel, point;
  float* values[2];

  PointWeights(int64_t k, int64_t lanes)
      : k(k), lanes(lanes), panel(k * kPanel), point((lanes + kPanel - 1) / kPanel * panel + 16), values{} {}
  void carve(Carver& carver) {
    for (float*& p : values) p = carver.take<float>(kPoints * point);
  }

  // Lanes [lane, lane + kLanes) and ks [k0, k0 + n) of weights at `w`.
  VDK_INLINE void fill(int path, const float* w, const PointView& from, int64_t lane, int64_t k0,
                       int64_t n) const {
    constexpr int kL = kLanes<float>;
    alignas(64) float nine[kChunk * 9 * kL];  // [k][tap][lane]
    from.read(w, lanes, lane, k0, n, nine);
    const auto transform = far() ? transform_weights<true> : transform_weights<false>;
    for (int64_t i = 0; i < n; ++i)
      transform(nine + 9 * i * kL, from.turned,
                values[path] + lane / kPanel * panel + (k0 + i) * kPanel + lane % kPanel, point, kPanel);
  }
  // Whether the caches are too small for them.
  bool far() const { return kStreams && 2 * kPoints * point * int64_t(sizeof(float)) > kFar; }
  static constexpr int64_t kChunk = 16, kFar = int64_t{32} << 20;
};

inline void fill_weights(const PointWeights& w, const float* const values[2], const PointView& from,
                         const Parallel& parallel) {
  const int64_t chunks = (w.k + PointWeights::kChunk - 1) / PointWeights::kChunk;
  const int64_t items = 2 * chunks * ((w.lanes + kLanes<float> - 1) / kLanes<float>);
  parallel(parallel.threads, [&](int64_t task) {
    const Range mine = part_of(items, 1, task, parallel.threads);
    for (int64_t i = mine.begin; i < mine.end; ++i) {
      const int path = int(i % 2);
      const int64_t k0 = i / 2 % chunks * PointWeights::kChunk, lane = i / 2 / chunks * kLanes<float>;
      w.fill(path, values[path], from, lane, k0, at_most(PointWeights::kChunk, w.k - k0));
    }
    if (w.far()) end_streaming();
  });
}

// Values at the points, [point][tile][channel]: of a block of tiles.
struct PointBlock {
  int64_t tile, point;
  float* values[2];  // mean, variance

  PointBlock(int64_t tiles, int64_t channels)
      : tile(round_up(channels, kLanes<float>)), point(tiles * tile + 16), values{} {}
  void carve(Carver& carver) {
    for (float*& p : values) p = carver.take<float>(kPoints * point);
  }
  float* at(int path, int64_t t, int64_t c) const { return values[path] + t * tile + c; }
};

// Threads over tiles and over results' channels, so that the slowest has the least to do.
inline Grid make_tile_grid(int64_t tiles, int64_t k, int64_t lanes, int64_t threads) {
  constexpr int64_t kTransform = 600;  // bringing a vector of inputs to the points, in vector FMAs
  const int64_t panels = (lanes + kPanel - 1) / kPanel, vectors = (lanes + kLanes<float> - 1) / kLanes<float>;
  Grid best{1, 1};
  int64_t best_cost = INT64_MAX;
  for (int64_t r = threads; r >= 1; --r) {
    const int64_t c = at_most(threads / r, panels);
    const int64_t own = at_most((panels + c - 1) / c * Tile<float>::kVectors, vectors);
    const int64_t cost = round_up((tiles + r - 1) / r, kRowStep) *
                         (2 * kPoints * k * own + kTransform * (round_up(k, kLanes<float>) / kLanes<float>));
    if (cost < best_cost) {
      best_cost = cost;
      best = {r, c};
    }
  }
  return best;
}

// `pass.inputs(segment, c, staged, to)` brings channels [c, c + kLanes) of a segment's inputs to the points,
// `pass.results(segment, o, from, staged)` turns channels [o, o + kLanes) of the products, which lie from
// from.values on, into results.
template <class Pass>
void run_tiles(const Pass& pass, const TileGrid& tiles, const PointWeights& w, const Parallel& parallel) {
  constexpr int64_t kBlockTiles = 36, kBlockCols = 32;
  constexpr int kL = kLanes<float>;
  const Grid grid = make_tile_grid(tiles.count(), w.k, w.lanes, parallel.threads);
  parallel(grid.rows * grid.cols, [&](int64_t task) {
    const Range mine = part_of(tiles.count(), 1, task / grid.cols, grid.rows);
    const Range cols = part_of(w.lanes, kPanel, task % grid.cols, grid.cols);
    if (mine.begin == mine.end || cols.begin == cols.end) return;
    const int64_t blocks = (mine.end - mine.begin + kBlockTiles - 1) / kBlockTiles;
    const int64_t block_tiles = round_up((mine.end - mine.begin + blocks - 1) / blocks, kRowStep);
    PointBlock in(block_tiles, w.k), out(block_tiles, at_most(kBlockCols, round_up(w.lanes, kPanel)));
    float* staged;
    const auto carve = [&](Carver carver) {
      in.carve(carver);
      out.carve(carver);
      staged = carver.take<float>(2 * kStaged);
      return carver.used();
    };
    carve(Carver(scratch(Scratch::kTask, carve(Carver()))));
    for (int64_t t = mine.begin; t < mine.end; t += block_tiles) {
      const Range block{t, at_most(t + block_tiles, mine.end)};
      const int64_t rows = round_up(block.end - block.begin, kRowStep);
      for_segments(tiles, block, [&](const Segment& s) {
        for (int64_t c = 0; c < w.k; c += kL) pass.inputs(s, c, staged, in);
      });
      for (int64_t o = cols.begin; o < cols.end; o += kBlockCols) {
        const int64_t n = at_most(kBlockCols, cols.end - o);
        for (int path = 0; path < 2; ++path)
          for (int point = 0; point < kPoints; ++point)
            multiply(rows, n, w.k, in.values[path] + point * in.point, in.tile,
                     w.values[path] + point * w.point + o / kPanel * w.panel, w.panel,
                     out.values[path] + point * out.point, out.tile);
        for_segments(tiles, block, [&](const Segment& s) {
          for (int64_t i = 0; i < n; i += kL)
            pass.results(s, o + i, out.at(0, s.first, i), out.at(1, s.first, i), out, staged);
        });
      }
    }
  });
}

}  // namespace VDK_ISA
}  // namespace vdk
