// Inputs and output gradients as GEMM operands: packed once a call, x beside x^2, dy beside g2 = dy e / std.
#pragma once
#include "../common/gemm.h"
#include "../random/normal.h"

namespace vdk {
namespace VDK_ISA {

// A matrix and its variance-side twin, packed whole: [chunk][unit][...], units being row tiles or panels.
template <class T, class V>
struct Resident {
  Chunks chunks;
  T* mean;
  V* variance;
  int64_t units;      // padded rows, or panels
  int64_t unit_size;  // elements a unit has in a chunk

  template <class E>
  E* unit(E* part, int64_t chunk, int64_t u) const {
    return part + (chunk * units + u) * unit_size / kPerElement<E>;
  }
  // Memory of both parts.
  void carve(Carver& carver) {
    mean = carver.take<T>(size());
    variance = carver.take<V>(size() / kPerElement<V>);
  }
  int64_t size() const { return chunks.count * units * unit_size; }

  VDK_INLINE Packed<T, V> rows(int64_t i0, int64_t, int64_t chunk, T*, bool) const {
    return {unit(mean, chunk, i0), unit(variance, chunk, i0), unit_size};
  }
  VDK_INLINE Packed<T, V> panels(int64_t j0, int64_t, int64_t chunk, T*) const {
    const int64_t p = j0 / Tile<T>::kCols;
    return {unit(mean, chunk, p), unit(variance, chunk, p), unit_size};
  }
};
template <class T, class V>
Resident<T, V> resident_rows(const Chunks& chunks, int64_t n) {
  return {chunks, nullptr, nullptr, round_up(n, Tile<T>::kRows), chunks.depth};
}
template <class T, class V>
Resident<T, V> resident_panels(const Chunks& chunks, int64_t n) {
  return {chunks, nullptr, nullptr, (n + Tile<T>::kCols - 1) / Tile<T>::kCols, chunks.depth * Tile<T>::kCols};
}

// x [batch, in] -> panels with lanes along the batch, reduction along the inputs: transposed in registers.
template <class T, class V>
void pack_transposed_panel(const T* x, int64_t batch, int64_t in, const Resident<T, V>& to, int64_t chunk,
                           int64_t panel) {
  constexpr int kL = kLanes<T>, kCols = Tile<T>::kCols;
  const int64_t k0 = chunk * to.chunks.depth, k = to.chunks.length(chunk);
  T* const mean = to.unit(to.mean, chunk, panel);
  V* const variance = to.unit(to.variance, chunk, panel);
  for (int half = 0; half < Tile<T>::kVectors; ++half) {
    const int64_t row0 = panel * kCols + half * kL;
    for (int64_t j = 0; j < k; j += kL) {
      Vec<T> r[kL];
      for (int i = 0; i < kL; ++i)
        r[i] = row0 + i < batch ? load_first(x + (row0 + i) * in + k0 + j, k - j) : Vec<T>{};
      transpose<T>(r);
      for (int64_t t = 0; t < kL; t += 2) {
        store_two(mean, j + t, kCols, half * kL, r[t], r[t + 1]);
        store_two(variance, j + t, kCols, half * kL, r[t] * r[t], r[t + 1] * r[t + 1]);
      }
    }
  }
}

// x [batch, in] -> panels with lanes along the inputs, reduction along the batch.
template <class T, class V>
void pack_panel(const T* x, int64_t in, const Resident<T, V>& to, int64_t chunk, int64_t panel) {
  constexpr int kCols = Tile<T>::kCols;
  const int64_t m0 = chunk * to.chunks.depth, k = to.chunks.length(chunk), left = in - panel * kCols;
  T* const mean = to.unit(to.mean, chunk, panel);
  V* const variance = to.unit(to.variance, chunk, panel);
  for (int64_t m = 0; m < k; m += 2)
    for (int j = 0; j < kCols; j += kLanes<T>) {
      const T* const p = x + (m0 + m) * in + panel * kCols + j;
      const Vec<T> even = left > j ? load_first(p, left - j) : Vec<T>{};
      const Vec<T> odd = left > j && m + 1 < k ? load_first(p + in, left - j) : Vec<T>{};
      store_two(mean, m, kCols, j, even, odd);
      store_two(variance, m, kCols, j, even * even, odd * odd);
    }
}

// dy, std [batch, out] -> dy and g2 as rows along the outputs (for dx) and as rows along the batch (for the
// weight gradients), each where its pointer is set. One square of kLanes x kLanes elements at a time.
template <class T, class V>
struct GradientPacker {
  const T *dy, *std;
  int64_t batch, out, row_offset;  // row_offset: of this part of the batch in the noise grid
  const NoiseGrid& grid;
  const Resident<T, V>&by_batch, &by_out;  // rows = batch; rows = out

  void operator()(int64_t m0, int64_t n0) const {
    constexpr int kL = kLanes<T>;
    Vec<T> d[kL], g[kL], z[kL < 4 ? 4 : kL];
    const int64_t cols = out - n0;
    for (int i = 0; i < kL; ++i) {
      const bool inside = m0 + i < batch;
      d[i] = inside ? load_first(dy + (m0 + i) * out + n0, cols) : Vec<T>{};
      g[i] = inside ? load_first(std + (m0 + i) * out + n0, cols) : Vec<T>{};
    }
    if (by_batch.mean) store_rows(by_batch, by_batch.mean, m0, n0, batch, d);
    transpose<T>(d);
    transpose<T>(g);
    for (int j = 0; j < kL; j += 4) normals_of_rows(grid, row_offset + m0, (n0 + j) / 4, z + j);
    // kL may be 2, less than a group of four: then n0 says which half of the group this is
    const int first = kL < 4 ? int(n0 % 4) : 0;
    for (int j = 0; j < kL; ++j) {
      const Vec<T> one = Vec<T>{} + 1;
      g[j] = d[j] * z[first + j] / (g[j] == Vec<T>{} ? one : g[j]);  // padding has std 0 and dy 0
    }
    if (by_out.mean) {
      store_rows(by_out, by_out.mean, n0, m0, out, d);
      store_rows(by_out, by_out.variance, n0, m0, out, g);
    }
    if (by_batch.mean) {
      transpose<T>(g);
      store_rows(by_batch, by_batch.variance, m0, n0, batch, g);
    }
  }

  template <class E>
  VDK_INLINE static void store_rows(const Resident<T, V>& to, E* part, int64_t row, int64_t k, int64_t rows,
                                    const Vec<T>* r) {
    const int64_t chunk = k / to.chunks.depth, at = k % to.chunks.depth;
    for (int i = 0; i < kLanes<T> && row + i < rows; ++i)
      store_along(to.unit(part, chunk, row + i), at, r[i], to.chunks.depth);
  }
};

}  // namespace VDK_ISA
}  // namespace vdk
