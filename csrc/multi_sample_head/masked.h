// Masked features: rows (b, i) of h_b under the mask of sample i, scaled by 1 / (1 - p).
#pragma once
#include "../common/gemm.h"
#include "../random/normal.h"

namespace vdk {
namespace VDK_ISA {

// A dropped feature is -0 and a kept one never is, so that a row tells its mask. What is not finite becomes
// NaN where it is dropped, as a product with 0 does.
template <class T>
struct Dropped;
template <>
struct Dropped<float> {
  static constexpr uint32_t kSign = 0x80000000u;
  typedef VecU Bits;
};
template <>
struct Dropped<double> {
  static constexpr uint64_t kSign = 0x8000000000000000u;
  typedef uint64_t Bits __attribute__((vector_size(VDK_VECTOR_BYTES)));
};

template <class T>
VDK_INLINE Vec<T> dropped(Vec<T> h) {
  using Bits = typename Dropped<T>::Bits;
  return (Vec<T>)((Bits)(h * T(0)) | Dropped<T>::kSign);
}
// `v` where `row` was kept, else 0.
template <class T>
VDK_INLINE Vec<T> where_kept(Vec<T> row, Vec<T> v) {
  using Bits = typename Dropped<T>::Bits;
  return (Bits)row == Bits{} + Dropped<T>::kSign ? Vec<T>{} : v;
}

template <class T>
struct Masks {
  NoiseGrid grid;
  int64_t rows;  // of h
  uint32_t below;
  T scale;

  Masks(uint64_t seed, int64_t rows, int64_t features, double p)
      : grid(seed, features), rows(rows), below(uint32_t(p * 0x1p32)), scale(T(1 / (1 - p))) {}

  // `count` (<= 4) samples from 4 * quad on, of row b of h: to `out`, rows of stride ld, and to `panels`,
  // where element d of row r is at [d / kCols][r][d % kCols] of `panel_rows` rows, from row r on; null: not
  // wanted.
  VDK_INLINE void rows_of(const T* h, int64_t b, int64_t quad, int64_t count, int64_t features, T* out,
                          int64_t ld, T* panels, int64_t panel_rows, int64_t r) const {
    constexpr int kWords = 4 * kLanes<float>;
    alignas(64) uint32_t bits[kWords];
    const uint64_t first = (uint64_t(quad) * uint64_t(rows) + uint64_t(b)) * grid.groups;
    for (int64_t d0 = 0; d0 < features; d0 += kWords) {
      VecU words[4];
      words_of_groups(grid, first + uint64_t(d0) / 4, 1, words);
      weave(words, bits);
      for (int64_t d = d0; d < features && d < d0 + kWords; d += kLanes<T>) {
        const Vec<T> x = load_first(h + b * features + d, features - d), kept = x * scale + T(0);
        const Vec<T> zero = dropped<T>(x);
        T* const panel = panels ? panels + (d / kCols * panel_rows + r) * kCols + d % kCols : nullptr;
        for (int64_t s = 0; s < count; ++s) {
          const Vec<T> v = chosen(bits + (d - d0), int(8 * s), kept, zero);
          store(out + s * ld + d, v);
          if (panel) store(panel + s * kCols, v);
        }
      }
    }
  }

  static constexpr int kCols = Tile<T>::kCols;

 private:
  VDK_INLINE VecF chosen(const uint32_t* bits, int turn, VecF kept, VecF zero) const {
    const VecU word = load_words(bits), turned = turn ? word << turn | word >> (32 - turn) : word;
    return turned >= VecU{} + below ? kept : zero;
  }
  VDK_INLINE VecD chosen(const uint32_t* bits, int turn, VecD kept, VecD zero) const {
    VecD v;
    for (int i = 0; i < kLanes<double>; ++i) {
      const uint32_t turned = turn ? bits[i] << turn | bits[i] >> (32 - turn) : bits[i];
      v[i] = turned >= below ? kept[i] : zero[i];
    }
    return v;
  }
  static VDK_INLINE VecU load_words(const uint32_t* bits) {
    VecU word;
    __builtin_memcpy(&word, bits, sizeof word);
    return word;
  }
};

// W [n, k] as panels [n / kCols][k][kCols], zeros beyond n.
template <class T>
VDK_INLINE void pack_transposed(const T* w, int64_t n, int64_t k, int64_t panel, T* to) {
  constexpr int kCols = Tile<T>::kCols;
  for (int64_t d = 0; d < k; d += kLanes<T>)
    for (int j = 0; j < kCols; j += kLanes<T>) {
      Vec<T> square[kLanes<T>];
      for (int i = 0; i < kLanes<T>; ++i) {
        const int64_t row = panel * kCols + j + i;
        square[i] = row < n ? load_first(w + row * k + d, k - d) : Vec<T>{};
      }
      transpose<T>(square);
      for (int i = 0; i < kLanes<T> && d + i < k; ++i) store(to + (d + i) * kCols + j, square[i]);
    }
}

// W [k, n] as panels [n / kCols][k][kCols], zeros beyond n.
template <class T>
VDK_INLINE void pack_straight(const T* w, int64_t n, int64_t k, int64_t panel, T* to) {
  constexpr int kCols = Tile<T>::kCols;
  for (int64_t row = 0; row < k; ++row)
    for (int j = 0; j < kCols; j += kLanes<T>) {
      const int64_t col = panel * kCols + j;
      store(to + row * kCols + j, col < n ? load_first(w + row * n + col, n - col) : Vec<T>{});
    }
}

}  // namespace VDK_ISA
}  // namespace vdk
