// Images in cells and back: how inputs get into the lanes of vectors and outputs out of them (cpu_cells.cpp).
#pragma once
#include "sparse_conv2d.h"

#include "../common/workspace.h"
#include "../spmm/panel.h"
#include "pieces.h"
#include "stage.h"

#if defined(__AVX2__)
namespace vdk {
namespace VDK_ISA {
namespace {

constexpr int64_t kFour = 4, kFours = kVector / kFour;  // inputs or outputs of a cell turned at a time
constexpr uint32_t kAllLanes = (1u << kVector) - 1;

// The cell of a lane, by rows of cells. Four lanes that stand at one place of a vector's fours are one below
// the other where as many cells are side by side as a vector has fours: then rows need no turning.
VDK_INLINE int64_t cell_of(int64_t lane) { return lane % kFour * kFours + lane / kFour; }

// A grid of cells, and what of the image each reads.
struct Grid {
  int64_t high, wide, rows, cols;  // cells, and outputs of each
  int64_t in_rows, in_cols;        // inputs of each, of a phase

  explicit Grid(const SparseConvArgs& a)
      : high(a.pack.h.cells_high),
        wide(a.pack.h.cells_wide),
        rows(a.pack.h.cell_rows),
        cols(a.pack.h.cell_cols),
        in_rows(rows + a.plane.rows - a.plane.band),
        in_cols(cols + a.plane.cols - a.out_width) {}
  Area area(int64_t top, int64_t left) const {
    return {top, left, (high - 1) * rows + in_rows, (wide - 1) * cols + in_cols};
  }
  int64_t grids(const SparseConvArgs& a) const { return grids_down(a) * grids_across(a); }
  int64_t grids_down(const SparseConvArgs& a) const { return (a.out_height - 1) / (high * rows) + 1; }
  int64_t grids_across(const SparseConvArgs& a) const { return (a.out_width - 1) / (wide * cols) + 1; }
};

// The lanes that do not read padding, by rows and by columns of a cell's inputs.
struct Inside {
  uint16_t *by_row, *by_col;

  void find(const Grid& g, const Phase& phase) const {
    const auto bits = [](int64_t n, const Range& there, auto&& place, uint16_t* to) {
      for (int64_t i = 0; i < n; ++i) {
        to[i] = 0;
        for (int64_t lane = 0; lane < kVector; ++lane)
          if (there.begin <= place(lane) + i && place(lane) + i < there.end) to[i] |= uint16_t(1u << lane);
      }
    };
    bits(g.in_rows, phase.rows, [&](int64_t lane) { return cell_of(lane) / g.wide * g.rows; }, by_row);
    bits(g.in_cols, phase.cols, [&](int64_t lane) { return cell_of(lane) % g.wide * g.cols; }, by_col);
  }
  void set_all(const Grid& g) const {
    for (int64_t i = 0; i < g.in_rows; ++i) by_row[i] = kAllLanes;
    for (int64_t i = 0; i < g.in_cols; ++i) by_col[i] = kAllLanes;
  }
};

struct Buffers {
  float *staged, *area, *sums;
  Inside inside, everywhere;
};

// What is computed of an image with one grid, whose first output is at (top, left).
struct Part {
  const SparseConvArgs& a;
  const Grid& grid;
  const Pieces& pieces;
  const Buffers& own;
  const float* x;
  float* y;
  int64_t top, left;
};

// The lanes whose bits are set, zeros in the others.
VDK_INLINE VecF keep(VecF v, uint32_t lanes) {
#if defined(__AVX512F__)
  return (VecF)_mm512_maskz_mov_ps(__mmask16(lanes), (__m512)v);
#else
  const VecI bit = {1, 2, 4, 8, 16, 32, 64, 128};
  return (VecF)((VecI)v & ((filled<VecI>(int32_t(lanes)) & bit) == bit));
#endif
}

// A channel's vectors, of the floats from `from` on, whose rows are `row` floats. In a square grid lanes i
// and i + 4 are neighbours in a row of cells, which spares most of the addresses.
template <bool kSquare>
__attribute__((noinline)) void turn(const Grid& g, const float* from, int64_t row, Inside inside, float* to) {
  const int64_t in_rows = g.in_rows, in_cols = g.in_cols, across = g.cols;
  int64_t begins[kVector];
  for (int64_t i = 0; i < kVector; ++i)
    begins[i] = cell_of(i) / g.wide * g.rows * row + cell_of(i) % g.wide * g.cols;
  for (int64_t r = 0; r < in_rows; ++r, from += row)
    for (int64_t col = 0; col < in_cols; col += kFour) {
      const float* const x = from + col;
      VecF v[kFour];
#pragma GCC unroll 4
      for (int i = 0; i < kFour; ++i) {
        const float* const first = x + begins[i];
        v[i] = of_fours<VecF>([&](int j) __attribute__((always_inline)) {
          return load_as<Vec4>(kSquare ? first + j * across : x + begins[kFour * j + i]);
        });
      }
      turn_fours(v);
      const uint16_t* const by_col = inside.by_col + col;
      const uint32_t in_row = inside.by_row[r];
      const int64_t n = in_cols - col;
      if (n >= kFour && (in_row & by_col[0] & by_col[1] & by_col[2] & by_col[3]) == kAllLanes) {
#pragma GCC unroll 4
        for (int i = 0; i < kFour; ++i) store(to + i * kVector, v[i]);
      } else {
#pragma GCC unroll 4
        for (int i = 0; i < kFour; ++i)
          if (i < n) store(to + i * kVector, keep(v[i], in_row & by_col[i]));
      }
      to += (n < kFour ? n : kFour) * kVector;
    }
}

// Channels [begin, end) as the weights' indices read them: straight from the image, with what is padding set
// to zero, where neighbours in a cell are neighbours in the image and no lane reads beyond all images; from a
// copy with its padding elsewhere.
void stage(const Part& p, int64_t begin, int64_t end) {
  const SparseConvArgs& a = p.a;
  const Grid& g = p.grid;
  const Area area = g.area(p.top, p.left);
  const auto turn_as = g.wide == kFours ? turn<true> : turn<false>;
  const int64_t pixels = a.height * a.width, row = a.plane.phases_h * a.width;
  const float *const all = a.x, *const all_end = a.x + a.batch * a.channels * pixels;
  p.own.everywhere.set_all(g);
  for (int64_t ph = 0; ph < a.plane.phases_h; ++ph)
    for (int64_t pw = 0; pw < a.plane.phases_w; ++pw) {
      const Phase phase(a, area, ph, pw);
      p.own.inside.find(g, phase);
      phase.pad(p.own.area);
      const int64_t first = phase.top * a.width + phase.left;  // of the area, where the image may not be yet
      const int64_t reach = first + (area.rows - 1) * row + area.cols + kFour;
      const int64_t offset = (ph * a.plane.phases_w + pw) * g.in_rows * g.in_cols;
      int64_t block = 0;
      for (int64_t c = begin; c < end; ++c) {
        while (c >= a.pack.columns[block + 1]) ++block;
        const float* const channel = p.x + c * pixels;
        if (c + 1 < end && ph + pw == 0) phase.fetch(channel + pixels);
        float* const to = p.own.staged + ((c + block) * a.pack.h.cell_plane + offset) * kVector;
        if (a.plane.phases_w == 1 && channel - all + first >= 0 && all_end - channel >= reach) {
          turn_as(g, channel + first, row, p.own.inside, to);
        } else {
          phase.read(channel, p.own.area);
          turn_as(g, p.own.area, area.cols, p.own.everywhere, to);
        }
      }
    }
}

VDK_INLINE Vec4 four_of(VecF v, int i) {
  Vec4 four;
  __builtin_memcpy(&four, reinterpret_cast<const char*>(&v) + i * int(sizeof four), sizeof four);
  return four;
}

// The first n of four.
VDK_INLINE void store_few(float* to, Vec4 v, int64_t n) {
  if (n >= kFour) return store_as(to, v);
  if (n & 2) {
    __builtin_memcpy(to, &v, 8);
    v = __builtin_shufflevector(v, v, 2, 3, 2, 3);
    to += 2;
  }
  if (n & 1) *to = v[0];
}

// Where the grid's lanes have their outputs.
struct Lanes {
  int64_t place[kVector];                // of a cell's first, in a channel
  int64_t rows[kVector], cols[kVector];  // outputs of the cell that lie in the image
  bool whole = true;                     // all of every cell

  explicit Lanes(const Part& p) {
    for (int64_t i = 0; i < kVector; ++i) {
      const int64_t row = p.top + cell_of(i) / p.grid.wide * p.grid.rows;
      const int64_t col = p.left + cell_of(i) % p.grid.wide * p.grid.cols;
      place[i] = row * p.a.out_width + col;
      rows[i] = p.a.out_height - row, cols[i] = p.a.out_width - col;
      whole = whole && rows[i] >= p.grid.rows && cols[i] >= p.grid.cols;
    }
  }
};

// Four neighbouring outputs of every cell, turned: in v[i] those of every fourth lane from i on.
VDK_INLINE void turn_sums(const Part& p, const float* sums, VecF (&v)[kFour]) {
#pragma GCC unroll 4
  for (int i = 0; i < kFour; ++i) {
    v[i] = load(sums + i * kVector);
    if (p.a.relu) v[i] = maximum(VecF{}, v[i]);  // in this order NaN stays
  }
  turn_fours(v);
}

// The fours of a and b in pairs: of half the lanes, of the other half.
template <class V>
VDK_INLINE void join_fours(V a, V b, V& low, V& high) {
  if constexpr (kLanesOf<V> == 8) {
    low = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11);
    high = __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
  } else {
    low = __builtin_shufflevector(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    high = __builtin_shufflevector(a, b, 8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
  }
}

// Row `row` of all cells, of one output channel.
template <bool kWhole>
VDK_INLINE void unstage_row(const Part& p, const Lanes& lanes, const float* sums, int64_t row, float* y) {
  y += row * p.a.out_width;
  int64_t col = 0;
  const auto each = [](auto&& f) __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int i = 0; i < kFour; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < kFours; ++j) f(i, j, kFour * j + i);
  };
  VecF v[kFour];
  const bool square = p.grid.wide == kFours, neighbours = square && p.grid.cols == kEight;
  if (kWhole && square && p.grid.cols == kFour) {
    turn_sums(p, sums, v);
#pragma GCC unroll 4
    for (int i = 0; i < kFour; ++i) store(y + lanes.place[i], v[i]);
    return;
  }
  if (kWhole)
    for (; col + 2 * kFour <= p.grid.cols; col += 2 * kFour) {
      VecF next[kFour];
      turn_sums(p, sums + col * kVector, v);
      turn_sums(p, sums + (col + kFour) * kVector, next);
#pragma GCC unroll 4
      for (int i = 0; i < kFour; ++i) {
        constexpr int kHalf = kVector / 2, kEights = kVector / kEight;
        VecF joined[2];
        join_fours(v[i], next[i], joined[0], joined[1]);
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half) {
          const int64_t* const places = lanes.place + half * kHalf + i;
          if (neighbours) {
            store(y + places[0], joined[half]);
            continue;
          }
          Vec8 eights[kEights];
          __builtin_memcpy(eights, &joined[half], sizeof eights);
#pragma GCC unroll 2
          for (int j = 0; j < kEights; ++j) store_as(y + places[kFour * j] + col, eights[j]);
        }
      }
    }
  for (; col < p.grid.cols; col += kFour) {
    turn_sums(p, sums + col * kVector, v);
    const int64_t n = p.grid.cols - col;
    each([&](int i, int j, int lane) __attribute__((always_inline)) {
      const int64_t there = lanes.cols[lane] - col;
      if (kWhole)
        store_few(y + lanes.place[lane] + col, four_of(v[i], j), n);
      else if (row < lanes.rows[lane] && there > 0)
        store_few(y + lanes.place[lane] + col, four_of(v[i], j), n < there ? n : there);
    });
  }
}

}  // namespace
}  // namespace VDK_ISA
}  // namespace vdk
#endif
