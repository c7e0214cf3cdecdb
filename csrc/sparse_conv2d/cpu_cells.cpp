// One image at a time. Its outputs stand in a grid of cells, one a lane: the first output of each cell in one
// vector, the second in the next. What neighbours read are neighbouring vectors, so that every load is
// aligned as for images side by side (cpu_images.cpp), and all that an image needs is as small as it is.
#include "cells.h"

namespace vdk {
namespace VDK_ISA {
#if defined(__AVX2__)
namespace {

// Rows of a tile of outputs.
int64_t tile_rows(const Grid& g) {
  const int64_t high = kSums / power_of_two(kWidest, g.cols), most = high < kHighest ? high : kHighest;
  return power_of_two(most, g.rows);
}

// What a task needs.
size_t carve(const SparseConvArgs& a, const Grid& g, Pieces& pieces, void* base, Buffers& b) {
  Carver c(base);
  const Area area = g.area(0, 0);
  // the last to be turned may reach beyond
  b.sums = c.take<float>((a.pack.h.slice_rows * tile_rows(g) * g.cols + kFour) * kVector);
  b.area = c.take<float>(area.rows * area.cols + kFour);
  b.inside = {c.take<uint16_t>(g.in_rows), c.take<uint16_t>(g.in_cols)};
  b.everywhere = {c.take<uint16_t>(g.in_rows), c.take<uint16_t>(g.in_cols)};
  pieces.carve(c);
  const int64_t planes = a.channels + a.pack.h.blocks;
  b.staged = c.take<float>(planes * a.pack.h.cell_plane * kVector);
  return c.used();
}

// Rows [row, row + high) of all cells, of the channels of one slice of the weight.
void run_tile(const Part& p, const Lanes& lanes, int64_t row, int64_t high, int64_t slice) {
  const SparseConvArgs& a = p.a;
  const Grid& g = p.grid;
  const int64_t out = g.cols * kVector, channel = high * out;
  for (int64_t col = 0; col < g.cols;) {
    const int64_t wide = power_of_two(kWidest, g.cols - col);
    const float* const x = p.own.staged + (row * g.in_cols + col) * kVector;
    multiply(p.pieces, {x, p.own.sums + col * kVector, g.in_cols * kVector, out, channel}, slice, wide, high);
    col += wide;
  }
  const int64_t begin = slice * a.pack.h.slice_rows, left = a.pack.h.out - begin;
  const int64_t n = left < a.pack.h.slice_rows ? left : a.pack.h.slice_rows;
  for (int64_t o = 0; o < n; ++o)
    for (int64_t r = 0; r < high; ++r) {
      const float* const sums = p.own.sums + o * channel + r * out;
      float* const y = p.y + (begin + o) * a.out_height * a.out_width;
      if (lanes.whole)
        unstage_row<true>(p, lanes, sums, row + r, y);
      else
        unstage_row<false>(p, lanes, sums, row + r, y);
    }
}

// Units [begin, end): tiles, each with one slice of the weight after the other.
void run_tiles(const Part& p, int64_t begin, int64_t end) {
  const Lanes lanes(p);
  const int64_t slices = p.a.pack.h.slices, high = tile_rows(p.grid);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t first = unit / slices * high,
                  bottom = first + high < p.grid.rows ? first + high : p.grid.rows;
    for (int64_t row = first; row < bottom;) {
      const int64_t rows = power_of_two(high, bottom - row);
      run_tile(p, lanes, row, rows, unit % slices);
      row += rows;
    }
  }
}
int64_t units_of(const SparseConvArgs& a, const Grid& g) {
  return (g.rows + tile_rows(g) - 1) / tile_rows(g) * a.pack.h.slices;
}

// A task's part `index` of an image and its grids.
Part part(const SparseConvArgs& a, const Grid& g, const Pieces& pieces, const Buffers& own, int64_t index) {
  const int64_t image = index / g.grids(a), grid = index % g.grids(a);
  return {a,
          g,
          pieces,
          own,
          a.x + image * a.channels * a.height * a.width,
          a.y + image * a.pack.h.out * a.out_height * a.out_width,
          grid / g.grids_across(a) * g.high * g.rows,
          grid % g.grids_across(a) * g.wide * g.cols};
}

// Memory of a task, and the weight to use.
struct Task {
  Pieces pieces;
  Buffers own;

  Task(const SparseConvArgs& a, const Grid& g) : pieces(a.pack) {
    carve(a, g, pieces, scratch(Scratch::kTask, carve(a, g, pieces, nullptr, own)), own);
    pieces.prepare();
  }
};

}  // namespace

bool sparse_conv2d_cells(const SparseConvArgs& a, const Parallel& parallel) {
  if (a.pack.h.pieces == 0 || a.pack.h.cells_high * a.pack.h.cells_wide != kVector) return false;
  const Grid g(a);
  const int64_t parts = a.batch * g.grids(a), units = units_of(a, g);
  const Threads threads(a, parts, parallel.threads);
  if (threads.sharing == 1) {
    parallel(threads.apart, [&](int64_t task) {
      const Task t(a, g);
      const Range mine = part_of(parts, 1, task, threads.apart);
      for (int64_t i = mine.begin; i < mine.end; ++i) {
        const Part p = part(a, g, t.pieces, t.own, i);
        stage(p, 0, a.channels);
        run_tiles(p, 0, units);
      }
    });
    return true;
  }
  // every thread stages all channels for itself, which takes less than a second start
  for (int64_t i = 0; i < parts; ++i)
    parallel(threads.sharing, [&](int64_t task) {
      const Task t(a, g);
      const Range mine = part_of(units, 1, task, threads.sharing);
      const Part p = part(a, g, t.pieces, t.own, i);
      stage(p, 0, a.channels);
      run_tiles(p, mine.begin, mine.end);
    });
  return true;
}
#else
bool sparse_conv2d_cells(const SparseConvArgs&, const Parallel&) { return false; }
#endif

}  // namespace VDK_ISA
}  // namespace vdk
