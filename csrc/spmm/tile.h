// A packed matrix times a tile of inputs: eight rows at once, P vectors of outputs each.
#pragma once
#include "../common/half.h"
#include "../common/simd.h"
#include "pack.h"

namespace vdk {
namespace VDK_ISA {

// Eight floats, for few columns; where vectors are shorter the compiler makes it two.
typedef float Vec8 __attribute__((vector_size(32)));
template <class V>
constexpr int kLanesOf = sizeof(V) / sizeof(float);

template <class V>
VDK_INLINE V load_as(const float* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
template <class V>
VDK_INLINE void store_as(float* p, V v) {
  __builtin_memcpy(p, &v, sizeof v);
}

// One tile's problem. x: inputs, `plane` floats from one to the next; y: outputs, row after row.
struct TileArgs {
  const Pack& pack;
  const float* x;
  int64_t plane;
  float* y;
  float* decoded;  // [longest, 8], for weights that are not stored as float
  bool relu;
};

// Where a tile's P vectors lie: side by side, in a panel of kWidth columns,
template <int kWidth>
struct PanelLayout {
  static constexpr int kScale = kWidth / 4;  // floats that an index stands for
  static constexpr bool kFar = false;
  VDK_INLINE static int64_t x_at(int64_t vector_floats) { return vector_floats; }
  VDK_INLINE static int64_t y_at(int64_t row, int64_t vector_floats) { return row * kWidth + vector_floats; }
};
// or in images, kWide of them side by side, `in` and `out` floats from row to row of inputs and outputs, and
// outputs `channel` floats from row to row of the weight.
template <class V, int kWide>
struct ImageLayout {
  static constexpr int kScale = 1;
  static constexpr bool kFar = true;  // outputs are in no cache yet
  int64_t in, out, channel;
  VDK_INLINE static int64_t at(int64_t vector_floats, int64_t row) {
    constexpr int64_t kFloats = kWide * kLanesOf<V>;
    return vector_floats / kFloats * row + vector_floats % kFloats;
  }
  VDK_INLINE int64_t x_at(int64_t vector_floats) const { return at(vector_floats, in); }
  VDK_INLINE int64_t y_at(int64_t row, int64_t vector_floats) const {
    return row * channel + at(vector_floats, out);
  }
};

// Eight weights of one step as floats.
VDK_INLINE void decode_step(const void* values, Stored stored, int64_t step, Vec8& w) {
  if (stored == Stored::kBFloat16) {
    typedef uint16_t Short8 __attribute__((vector_size(16)));
    typedef uint32_t Word8 __attribute__((vector_size(32)));
    Short8 s;
    __builtin_memcpy(&s, static_cast<const char*>(values) + step * 16, sizeof s);
    w = (Vec8)(__builtin_convertvector(s, Word8) << 16);
  } else if (stored == Stored::kInt8) {
    typedef int8_t Byte8 __attribute__((vector_size(8)));
    Byte8 s;
    __builtin_memcpy(&s, static_cast<const char*>(values) + step * 8, sizeof s);
    w = __builtin_convertvector(s, Vec8);
  } else {
    w = load_as<Vec8>(static_cast<const float*>(values) + step * kPackRows);
  }
}

// The weights of group g as floats.
VDK_INLINE const float* group_values(const Pack& p, int64_t g, float* decoded) {
  const int64_t begin = p.start[g], n = p.start[g + 1] - begin;
  if (p.h.stored == Stored::kFloat) return static_cast<const float*>(p.values) + begin * kPackRows;
  for (int64_t j = 0; j < n; ++j) {
    Vec8 w;
    decode_step(p.values, p.h.stored, begin + j, w);
    store_as(decoded + j * kPackRows, w);
  }
  return decoded;
}

// Weights, each in all lanes. Loads bound these kernels: short vectors get the four of one load, by
// shuffles.
template <class V, int kCount>
VDK_INLINE void some_weights(const float* w, V (&weight)[kCount]) {
  if constexpr (kLanesOf<V> == 8 && kCount == 4) {
#if defined(__AVX2__)
    const V both = (V)_mm256_broadcast_ps(reinterpret_cast<const __m128*>(w));
#else
    typedef float Vec4 __attribute__((vector_size(16)));
    const Vec4 q = load_as<Vec4>(w);
    const V both = __builtin_shufflevector(q, q, 0, 1, 2, 3, 4, 5, 6, 7);
#endif
    weight[0] = __builtin_shufflevector(both, both, 0, 0, 0, 0, 4, 4, 4, 4);
    weight[1] = __builtin_shufflevector(both, both, 1, 1, 1, 1, 5, 5, 5, 5);
    weight[2] = __builtin_shufflevector(both, both, 2, 2, 2, 2, 6, 6, 6, 6);
    weight[3] = __builtin_shufflevector(both, both, 3, 3, 3, 3, 7, 7, 7, 7);
  } else {
#pragma GCC unroll 4
    for (int i = 0; i < kCount; ++i) weight[i] = filled<V>(w[i]);
  }
}

// Rows [0, kRows) of a group, times P vectors of columns.
template <class V, int P, int kRows, class Layout>
VDK_INLINE void add_rows(const Layout& at, const float* w, const uint16_t* index, int64_t n, const float* x,
                         V (&sum)[kRows][P]) {
  constexpr int kAtOnce = kRows < 4 ? kRows : 4;
  asm("" : "+r"(x));  // one register: a sum that the compiler takes apart again costs an addition a nonzero
  for (int64_t j = 0; j < n; ++j, w += kPackRows, index += kPackRows)
#pragma GCC unroll 2
    for (int r = 0; r < kRows; r += kAtOnce) {
      V weight[kAtOnce];
      some_weights(w + r, weight);
      uint64_t places = 0;  // with one load, as of weights
      __builtin_memcpy(&places, index + r, sizeof(uint16_t) * kAtOnce);
#pragma GCC unroll 4
      for (int i = 0; i < kAtOnce; ++i) {
        const float* const from = x + int64_t(uint16_t(places >> 16 * i)) * Layout::kScale;
#pragma GCC unroll 8
        for (int p = 0; p < P; ++p) sum[r + i][p] += load_as<V>(from + at.x_at(p * kLanesOf<V>)) * weight[i];
      }
    }
}

// Rows [at, at + kRows) of group g. The first block, which has all rows, adds to the bias, others to what is
// there.
template <class V, int P, int kRows, class Layout>
VDK_INLINE void multiply_rows(const TileArgs& t, const Layout& lay, int64_t g, int at, int64_t row0,
                              const float* x, const float* w, bool is_first, bool clamp) {
  const Pack& k = t.pack;
  const uint16_t* const rows = k.rows + g * kPackRows + at;
  const bool scaled = k.h.stored == Stored::kInt8, whole = rows[kRows - 1] != kNoRow;
  const auto y_of = [&](int64_t row, int p)
                        __attribute__((always_inline)) { return t.y + lay.y_at(row, p * kLanesOf<V>); };
  V sum[kRows][P];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    const int64_t row = row0 + rows[rows[r] == kNoRow ? 0 : r];  // there is one row at least
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      if (Layout::kFar) __builtin_prefetch(y_of(row, p), 1);
      if (is_first)
        sum[r][p] = filled<V>(scaled ? 0 : k.bias[row]);
      else
        sum[r][p] = scaled ? V{} : load_as<V>(y_of(row, p));
    }
  }
  const int64_t n = k.start[g + 1] - k.start[g];
  add_rows<V, P, kRows>(lay, w + at, k.index + int64_t(k.start[g]) * kPackRows + at, n, x, sum);
  const V least = filled<V>(clamp ? 0 : -__builtin_inff());
  const auto finish = [&](int r) __attribute__((always_inline)) {
    const int64_t row = row0 + rows[r];
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      V v = sum[r][p];
      float* const y = y_of(row, p);
      if (scaled) v = v * k.scale[row] + (is_first ? filled<V>(k.bias[row]) : load_as<V>(y));
      store_as(y, least > v ? least : v);  // NaN stays
    }
  };
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
    if (whole || rows[r] != kNoRow) finish(r);
}

template <class V, int P, int kRows, class Layout>
VDK_INLINE void multiply_groups(const TileArgs& t, const Layout& lay, int64_t block, int64_t slice) {
  const Pack& k = t.pack;
  const int64_t segment = block * k.h.slices + slice, row0 = slice * k.h.slice_rows;
  const float* const x = t.x + (k.columns[block] + block) * t.plane;
  const bool clamp = t.relu && k.h.blocks == 1;
  for (int64_t g = k.first[segment]; g < k.first[segment + 1]; ++g) {
    const float* const w = group_values(k, g, t.decoded);
    const uint16_t* const rows = k.rows + g * kPackRows;
    for (int at = 0; at < kPackRows && rows[at] != kNoRow; at += kRows)
      multiply_rows<V, P, kRows>(t, lay, g, at, row0, x, w, block == 0, clamp);
  }
}

// Slices [begin, end) of the matrix.
template <class V, int P, int kRows, class Layout>
__attribute__((noinline)) void multiply_tile(const TileArgs& t, const Layout& lay, int64_t begin,
                                             int64_t end) {
  const PackHeader& h = t.pack.h;
  for (int64_t block = 0; block < h.blocks; ++block)
    for (int64_t slice = begin; slice < end; ++slice) multiply_groups<V, P, kRows>(t, lay, block, slice);
  if (!t.relu || h.blocks == 1) return;
  const int64_t last = end * h.slice_rows < h.out ? end * h.slice_rows : h.out;
  for (int64_t row = begin * h.slice_rows; row < last; ++row)
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      float* const y = t.y + lay.y_at(row, p * kLanesOf<V>);
      const V v = load_as<V>(y);
      store_as(y, v < 0 ? V{} : v);
    }
}

}  // namespace VDK_ISA
}  // namespace vdk
