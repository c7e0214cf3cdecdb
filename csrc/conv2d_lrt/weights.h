// Means and variances of the weights as GEMM operands, packed whole once a call: k = (tap, channel).
#pragma once
#include "gather.h"

namespace vdk {
namespace VDK_ISA {

// One group's weights read as [row][tap][channel]: rows are output channels forward, input channels backward.
template <class T>
struct WeightView {
  const T *mean, *variance;
  int64_t rows, channels, row_stride, channel_stride;
  int64_t taps_h, taps_w, first, tap_step_h, tap_step_w;  // in elements of the weights

  int64_t depth() const { return taps_h * taps_w * channels; }
  int64_t at(int64_t row, int64_t tap) const {
    return row * row_stride + first + tap / taps_w * tap_step_h + tap % taps_w * tap_step_w;
  }
};

// Rows for the microkernel to broadcast from.
template <class T>
struct WeightRows {
  T *mean, *variance;
  int64_t stride, depth;

  // a stride off powers of two, which would share cache sets
  static int64_t stride_of(int64_t depth) { return round_up(depth, kLanes<T>) + kLanes<T>; }
  static int64_t size_of(const WeightView<T>& w) {
    return round_up(w.rows, Tile<T>::kRows) * stride_of(w.depth());
  }
  VDK_INLINE void pack(const WeightView<T>& w, int64_t row) const {
    for (int64_t tap = 0; tap < w.taps_h * w.taps_w; ++tap) {
      const int64_t to = row * stride + tap * w.channels, from = row < w.rows ? w.at(row, tap) : 0;
      for (int64_t c = 0; c < w.channels; ++c) {
        mean[to + c] = row < w.rows ? w.mean[from + c * w.channel_stride] : T(0);
        variance[to + c] = row < w.rows ? w.variance[from + c * w.channel_stride] : T(0);
      }
    }
  }
  int64_t units(const WeightView<T>& w) const { return round_up(w.rows, Tile<T>::kRows); }
  VDK_INLINE Packed<T, T> rows(int64_t i0, int64_t, int64_t chunk, T*, bool) const {
    const int64_t at = i0 * stride + chunk * depth;
    return {mean + at, variance + at, stride};
  }
};

// Panels with lanes along the rows of the view.
template <class T>
struct WeightPanels {
  T *mean, *variance;
  int64_t stride, depth;

  static constexpr int kCols = Tile<T>::kCols;
  static int64_t stride_of(int64_t depth) { return depth * kCols; }
  static int64_t size_of(const WeightView<T>& w) {
    return (w.rows + kCols - 1) / kCols * stride_of(w.depth());
  }
  VDK_INLINE void pack(const WeightView<T>& w, int64_t panel) const {
    const int64_t row0 = panel * kCols, n = at_most(kCols, w.rows - row0);
    for (int64_t tap = 0; tap < w.taps_h * w.taps_w; ++tap)
      for (int64_t c = 0; c < w.channels; ++c) {
        const int64_t to = panel * stride + (tap * w.channels + c) * kCols;
        const int64_t from = w.at(row0, tap) + c * w.channel_stride;
        for (int64_t i = 0; i < kCols; ++i) {
          mean[to + i] = i < n ? w.mean[from + i * w.row_stride] : T(0);
          variance[to + i] = i < n ? w.variance[from + i * w.row_stride] : T(0);
        }
      }
  }
  int64_t units(const WeightView<T>& w) const { return (w.rows + kCols - 1) / kCols; }
  VDK_INLINE Packed<T, T> panels(int64_t j0, int64_t, int64_t chunk, T*) const {
    const int64_t at = j0 / kCols * stride + chunk * depth * kCols;
    return {mean + at, variance + at, stride};
  }
};

// Packs `w` into shared scratch.
template <class T, template <class> class Operand>
Operand<T> packed_weights(const WeightView<T>& w, const Chunks& chunks, const Parallel& parallel) {
  const int64_t size = Operand<T>::size_of(w);
  Carver carver(scratch(Scratch::kShared, size_t(2 * size) * sizeof(T) + 128));
  T* const mean = carver.take<T>(size);
  const Operand<T> made{mean, carver.take<T>(size), Operand<T>::stride_of(w.depth()), chunks.depth};
  parallel(parallel.threads, [&](int64_t task) {
    share(made.units(w), task, parallel.threads, [&](int64_t i) { made.pack(w, i); });
  });
  return made;
}

}  // namespace VDK_ISA
}  // namespace vdk
