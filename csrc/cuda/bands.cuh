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
