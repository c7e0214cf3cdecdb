// Reading an image as a stride's phases with zeros around it, for whoever lays it out.
#pragma once
#include "sparse_conv2d.h"

#include "../spmm/tile.h"

namespace vdk {
namespace VDK_ISA {
namespace {

constexpr int64_t kEight = 8;

// A part of each phase of the padded image: where it begins and how large it is, in steps of the stride.
struct Area {
  int64_t top, left, rows, cols;
};

template <class V>
VDK_INLINE void copy_by(const float* from, float* to, int64_t n) {
  constexpr int64_t kLanes = kLanesOf<V>;
  for (int64_t i = 0; i + kLanes < n; i += kLanes) store_as(to + i, load_as<V>(from + i));
  store_as(to + n - kLanes, load_as<V>(from + n - kLanes));  // what is left, some of it once more
}
VDK_INLINE void copy_few(const float* from, float* to, int64_t n) {
  if (n >= kLanes<float> && kLanes<float> > kEight) return copy_by<VecF>(from, to, n);
  if (n >= kEight) return copy_by<Vec8>(from, to, n);
  for (int64_t i = 0; i < n; ++i) to[i] = from[i];
}

// What lies in the image of `count` neighbours, every `step`-th of its rows or columns from `first` on.
VDK_INLINE Range inside_of(int64_t first, int64_t step, int64_t count, int64_t size) {
  const int64_t before = first < 0 ? (-first + step - 1) / step : 0;
  const int64_t begin = before < count ? before : count, there = size - first - begin * step;
  const int64_t n = there > 0 ? (there + step - 1) / step : 0;
  return {begin, begin + (n < count - begin ? n : count - begin)};
}

// One phase of an area: which of the image's rows and columns it has.
struct Phase {
  const SparseConvArgs& a;
  Area area;
  int64_t top, left;  // the image's row and column of the area's first
  Range rows, cols;   // those of the area that lie in the image, the others are padding

  Phase(const SparseConvArgs& args, const Area& of, int64_t ph, int64_t pw)
      : a(args),
        area(of),
        top(of.top * a.plane.phases_h + ph - a.pad_h),
        left(of.left * a.plane.phases_w + pw - a.pad_w),
        rows(inside_of(top, a.plane.phases_h, of.rows, a.height)),
        cols(inside_of(left, a.plane.phases_w, of.cols, a.width)) {}

  // Zeros where padding is, of memory for [rows, cols].
  VDK_INLINE void pad(float* to) const {
    if (rows.end - rows.begin < area.rows || cols.end - cols.begin < area.cols)
      __builtin_memset(to, 0, size_t(area.rows * area.cols) * sizeof(float));
  }
  // A channel's, [rows, cols], where padding is zero already.
  VDK_INLINE void read(const float* channel, float* to) const {
    const int64_t across = a.plane.phases_w, n = cols.end - cols.begin;
    for (int64_t r = rows.begin; r < rows.end; ++r) {
      const float* const from = channel + (top + r * a.plane.phases_h) * a.width + left + cols.begin * across;
      float* const row = to + r * area.cols + cols.begin;
      if (across == 1)
        copy_few(from, row, n);
      else
        for (int64_t c = 0; c < n; ++c) row[c] = from[c * across];
    }
  }
  // Fetch what the first phase of the next channel reads: pages are too short for the hardware to see it
  // coming.
  VDK_INLINE void fetch(const float* channel) const {
    const float* const from = channel + (top + rows.begin * a.plane.phases_h) * a.width;
    const int64_t n = (rows.end - rows.begin) * a.plane.phases_h * a.width;
    for (int64_t i = 0; i < n; i += 16) __builtin_prefetch(from + i);
  }
};

}  // namespace
}  // namespace VDK_ISA
}  // namespace vdk
