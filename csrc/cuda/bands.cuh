// The order in which blocks take the tiles of a product. Blocks that run at one time cover a rectangle of
// tiles, not a row: they share more operands in L2.
#pragma once
#include <cmath>

#include "launch.cuh"

namespace vdk {
namespace cuda {

// Rows of tiles in a band, for blocks of which `at_once` run at one time: the rectangle loads least where its
// rows, of `row` bytes a tile, weigh as much as its columns. Bands are of one height, or the last would be
// flat.
inline int64_t band_height(int64_t tiles_m, double at_once, double row, double column) {
  const double height = std::round(std::sqrt(at_once * column / row));
  const int64_t bands = ceil_div(tiles_m, int64_t(std::fmax(height, 1)));
  return bands ? ceil_div(tiles_m, bands) : 1;
}

// Bytes of operands that waves of `at_once` blocks load, each once a wave, among the first `tiles`: `row` a
// row of tiles, `column` a column, and `beside` columns, one beside the other, the same.
inline double loaded_by_waves(int64_t tiles_m, int64_t tiles_n, int64_t band, int64_t at_once, double row,
                              double column, int64_t beside, int64_t tiles) {
  const int64_t per_band = band * tiles_n;
  double total = 0;
  for (int64_t start = 0; start < tiles; start += at_once) {
    int64_t rows = 0, columns = 0;
    const int64_t end = start + at_once < tiles ? start + at_once : tiles;
    for (int64_t turn = start / per_band; turn * per_band < end; ++turn) {
      const int64_t left = tiles_m - turn * band, height = left < band ? left : band;
      const int64_t first = start > turn * per_band ? start - turn * per_band : 0;
      const int64_t last = end - turn * per_band, past = last < height * tiles_n ? last : height * tiles_n;
      rows += past - first < height ? past - first : height;
      // bands that follow one another share an edge, so the columns of one are among the other's; those of a
      // turn backwards are counted from the far edge
      int64_t low = first / height, high = (past - 1) / height;
      if (turn % 2) {
        const int64_t far = tiles_n - 1 - low;
        low = tiles_n - 1 - high;
        high = far;
      }
      const int64_t shared = high / beside - low / beside + 1;
      if (shared > columns) columns = shared;
    }
    total += row * double(rows) + column * double(columns);
  }
  return total;
}

// Rows of tiles in a band, so that blocks at work together load least: around the height of the rectangle
// that would load least, and one row, which is best where a row of tiles is about a wave. As band_of of
// vdropkern/ops/_bands.py has it.
inline int64_t best_band(int64_t tiles_m, int64_t tiles_n, int64_t at_once, double row, double column,
                         int64_t beside) {
  constexpr int64_t kWaves = 16;  // looked at
  if (tiles_m <= 1 || tiles_n <= 1) return tiles_m < 1 ? 1 : tiles_m;
  const double square = std::sqrt(double(at_once) * column / (row * double(beside)));
  const int64_t high = int64_t(square * 1.5) + 2, most = high < tiles_m ? high : tiles_m;
  const int64_t tiles = tiles_m * tiles_n < kWaves * at_once ? tiles_m * tiles_n : kWaves * at_once;
  int64_t best = 1, low = int64_t(square * 0.6);
  if (low < 1) low = 1;
  const auto loaded = [&](int64_t band) {
    return loaded_by_waves(tiles_m, tiles_n, band, at_once, row, column, beside, tiles);
  };
  double least = loaded(1);
  for (int64_t band = low < tiles_m ? low : tiles_m; band <= most; ++band)
    if (const double bytes = loaded(band); bytes < least) {
      least = bytes;
      best = band;
    }
  return best;
}

// The tile of a block. Bands are walked through to and fro, so that the blocks at work where one ends and the
// next begins share columns. `plan` has tiles_m, tiles_n and band.
struct TilePlace {
  int64_t m, n;

  template <class Plan>
  VDK_DEVICE explicit TilePlace(const Plan& plan) {
    // in 32 bits, for their division: there are at most 2^31 tiles, of dimensions below 2^31
    const uint32_t tile = blockIdx.x, band = uint32_t(plan.band), per_band = band * uint32_t(plan.tiles_n);
    const uint32_t first = tile / per_band * band, left = uint32_t(plan.tiles_m) - first;
    const uint32_t rows = left < band ? left : band;
    m = first + tile % per_band % rows;
    n = tile % per_band / rows;
    if (tile / per_band % 2) n = plan.tiles_n - 1 - n;
  }
};

}  // namespace cuda
}  // namespace vdk
