// Tiles of whole vectors: the packed weight's indices stand for vectors, every load is aligned.
#pragma once
#include "sparse_conv2d.h"

#include "../common/workspace.h"
#include "../spmm/tile.h"

namespace vdk {
namespace VDK_ISA {
namespace {

constexpr int64_t kVector = kLanes<float>;             // floats that an index stands for
constexpr int kSums = kVector < 8 ? 8 : int(kVector);  // vectors of a tile, half of the registers
constexpr int64_t kNear = 768;  // vectors that a tile reads of a piece, which shares L1 with the sums
constexpr int64_t kPerRow = 8;  // weights that a row should have in a piece

VDK_INLINE int64_t power_of_two(int64_t most, int64_t n) {
  int64_t p = most;
  while (p > n) p /= 2;
  return p;
}

// Into how many pieces a block's channels fall, where a tile reads so many vectors of all channels: what it
// reads of a piece should stay in L1 while the rows of the weight go over it, but a row's sums are loaded and
// stored once a piece.
VDK_INLINE int64_t pieces_of(const PackHeader& h, int64_t reads) {
  const int64_t near = (reads / h.blocks + kNear - 1) / kNear;
  const int64_t most = h.steps * kPackRows / (h.out * h.blocks * kPerRow);
  return near < most ? near : most < 1 ? 1 : most;
}

// A packed weight in pieces.
struct Pieces {
  const Pack& pack;
  int64_t plane, count;
  const uint16_t* index;  // [steps, 8]: vectors from a block's first to an input's
  const uint16_t* ends;   // [count, groups, 8]: steps of a row of a group up to the end of a piece
  float* decoded;         // [steps, 8], where weights are not stored as floats
  const float* weights;

  // As the weight was packed for cells,
  explicit Pieces(const Pack& of)
      : pack(of), plane(of.h.cell_plane), count(of.h.pieces), index(of.cell_index), ends(of.cell_ends) {}
  // or cut here, once there is memory.
  Pieces(const Pack& of, int64_t floats, int64_t pieces)
      : pack(of), plane(floats), count(pieces), index(of.index), ends(nullptr) {}

  void carve(Carver& c) {
    decoded = c.take<float>(pack.h.stored == Stored::kFloat ? 0 : pack.h.steps * kPackRows);
    cut_ = c.take<uint16_t>(ends == nullptr ? count * pack.h.groups * kPackRows : 0);
  }
  void prepare() {
    if (ends == nullptr) cut();
    weights = static_cast<const float*>(pack.values);
    if (pack.h.stored == Stored::kFloat) return;
    for (int64_t j = 0; j < pack.h.steps; ++j) {
      Vec8 w;
      decode_step(pack.values, pack.h.stored, j, w);
      store_as(decoded + j * kPackRows, w);
    }
    weights = decoded;
  }

 private:
  uint16_t* cut_;

  // A row's weights are sorted by their channels.
  void cut() {
    for (int64_t block = 0; block < pack.h.blocks; ++block) {
      const int64_t channels = pack.columns[block + 1] - pack.columns[block];
      const int64_t each = (channels + count - 1) / count * plane;
      for (int64_t g = pack.first[block * pack.h.slices]; g < pack.first[(block + 1) * pack.h.slices]; ++g)
        for (int64_t r = 0; r < kPackRows; ++r) {
          const uint16_t* const at = index + int64_t(pack.start[g]) * kPackRows + r;
          int64_t j = 0, n = pack.start[g + 1] - pack.start[g];
          while (n > 0 && at[(n - 1) * kPackRows] == channels * plane) --n;  // filled up with zeros
          for (int64_t piece = 0; piece < count; ++piece) {
            while (j < n && (piece + 1 == count || at[j * kPackRows] < (piece + 1) * each)) ++j;
            cut_[(piece * pack.h.groups + g) * kPackRows + r] = uint16_t(j);
          }
        }
    }
    ends = cut_;
  }
};

// A tile's inputs and sums, vectors.
struct Tile {
  const float* x;
  float* sums;
  int64_t in, out, channel;  // floats from row to row of inputs, of sums, and from channel to channel of sums
};

// n weights of a row, eight floats apart, times a tile.
template <int kWide, int kHigh>
VDK_INLINE void add_row(const Tile& t, const float* w, const uint16_t* index, int64_t n, bool is_first,
                        float bias, float scale, float* to) {
  constexpr int kPixels = kWide * kHigh;
  constexpr int kAtOnce = kPixels < 8 ? 2 : 1;  // few sums would wait for each other
  VecF sum[kAtOnce][kPixels]{};
  const float* x = t.x;
  __asm__("" : "+r"(x));  // else its sum is taken at every weight, which costs a fifth of the speed
  const auto add = [&](int u) __attribute__((always_inline)) {
    const VecF weight = broadcast(w[0]);
    const float* from = x + int64_t(index[0]) * kVector;
    __asm__("" : "+r"(from));  // else every pixel gets a register for its address
#pragma GCC unroll 16
    for (int p = 0; p < kPixels; ++p)
      sum[u][p] += load(from + p / kWide * t.in + p % kWide * kVector) * weight;
    w += kPackRows, index += kPackRows;
  };
  for (; n >= kAtOnce; n -= kAtOnce)
#pragma GCC unroll 2
    for (int u = 0; u < kAtOnce; ++u) add(u);
  if (n > 0) add(0);
#pragma GCC unroll 16
  for (int p = 0; p < kPixels; ++p) {
    float* const y = to + p / kWide * t.out + p % kWide * kVector;
    const VecF total = kAtOnce == 2 ? sum[0][p] + sum[kAtOnce - 1][p] : sum[0][p];
    store(y, total * scale + (is_first ? broadcast(bias) : load(y)));
  }
}

// A slice of the weight times a tile. Not inlined: among others' variables its loop's would leave registers.
template <int kWide, int kHigh>
__attribute__((noinline)) void multiply_slice(const Pieces& g, const Tile& tile, int64_t slice) {
  const Pack& k = g.pack;
  for (int64_t block = 0; block < k.h.blocks; ++block) {
    const int64_t segment = block * k.h.slices + slice;
    Tile t = tile;
    t.x += (k.columns[block] + block) * g.plane * kVector;
    for (int64_t piece = 0; piece < g.count; ++piece) {
      const bool is_first = block + piece == 0;
      const uint16_t* const ends = g.ends + piece * k.h.groups * kPackRows;
      const int64_t before = k.h.groups * kPackRows;
      for (int64_t i = k.first[segment] * kPackRows; i < int64_t(k.first[segment + 1]) * kPackRows; ++i) {
        const int64_t begin = piece > 0 ? ends[i - before] : 0, n = ends[i] - begin;
        if (k.rows[i] == kNoRow || (n == 0 && !is_first)) continue;
        const int64_t at = (k.start[i / kPackRows] + begin) * kPackRows + i % kPackRows;
        const int64_t row = slice * k.h.slice_rows + k.rows[i];
        add_row<kWide, kHigh>(t, g.weights + at, g.index + at, n, is_first, k.bias[row],
                              k.h.stored == Stored::kInt8 ? k.scale[row] : 1, t.sums + k.rows[i] * t.channel);
      }
    }
  }
}

constexpr int64_t kWidest = kSums / 2, kHighest = 4;  // of a tile, in vectors

template <int kWide>
void multiply_high(const Pieces& k, const Tile& t, int64_t slice, int64_t high) {
  if constexpr (kWide * 4 <= kSums)
    if (high == 4) return multiply_slice<kWide, 4>(k, t, slice);
  if (high == 2) return multiply_slice<kWide, 2>(k, t, slice);
  multiply_slice<kWide, 1>(k, t, slice);
}
// A tile of wide x high vectors, both powers of two.
VDK_INLINE void multiply(const Pieces& k, const Tile& t, int64_t slice, int64_t wide, int64_t high) {
  if constexpr (kWidest == 8)
    if (wide == 8) return multiply_high<8>(k, t, slice, high);
  if (wide == 4) return multiply_high<4>(k, t, slice, high);
  if (wide == 2) return multiply_high<2>(k, t, slice, high);
  multiply_high<1>(k, t, slice, high);
}
}  // namespace
}  // namespace VDK_ISA
}  // namespace vdk
