// Which taps of a pixel's window lie inside the image. What lies outside is never read and counts for
// nothing, so pixels whose windows meet the image in the same taps are taken together.
#pragma once
#include "../common/workspace.h"
#include "xnor.h"

namespace vdk {
namespace VDK_ISA {

constexpr int kMaxTaps = 256;  // of a kernel

// Taps of a row of the kernel whose words lie beside each other in image and weights.
struct Stretch {
  int64_t word, tap, taps;  // first word, from the window's corner on; first tap
};

struct Taps {
  int64_t begin, end;  // of one dimension of the kernel
};

// The taps k for which first + k dilation lies in [0, size).
VDK_INLINE Taps inside(int64_t first, int64_t dilation, int64_t kernel, int64_t size) {
  int64_t begin = first < 0 ? -first : 0, end = size > first ? size - first : 0;
  if (dilation != 1) begin = (begin + dilation - 1) / dilation, end = (end + dilation - 1) / dilation;
  if (end > kernel) end = kernel;
  return {begin < end ? begin : end, end};
}

VDK_INLINE int stretches_of(const XnorArgs& a, Taps h, Taps w, bool whole_words, Stretch* out) {
  const bool together = whole_words && a.dilation_w == 1;
  const int64_t width = w.end - w.begin, step = together ? width : 1;
  int n = 0;
  for (int64_t i = h.begin; i < h.end; ++i)
    for (int64_t j = w.begin; j < w.end; j += step)
      out[n++] = {(i * a.dilation_h * a.width + j * a.dilation_w) * a.words(), i * a.kernel_w + j, step};
  return n;
}

// Pixels of the same window: where the window begins in the image (words), and their places in the task.
struct PixelGroup {
  Taps h, w;
  const int64_t* origins;
  const int32_t* places;
  int64_t n;
};

// Output rows [first, last) of the batch, row r being row r % out_h of image r / out_h, in groups.
class Windows {
 public:
  Windows() = default;
  Windows(const XnorArgs& a, int64_t rows, Carver& carver)
      : rows_{carver.take<Taps>(rows), carver.take<int32_t>(rows), carver.take<int32_t>(rows + 1)},
        columns_{carver.take<Taps>(a.out_w), carver.take<int32_t>(a.out_w),
                 carver.take<int32_t>(a.out_w + 1)},
        corners_(carver.take<int64_t>(rows)),
        origins_(carver.take<int64_t>(rows * a.out_w)),
        places_(carver.take<int32_t>(rows * a.out_w)) {}

  void set(const XnorArgs& a, int64_t first, int64_t last) {
    const int64_t words = a.words();
    int64_t image = first / a.out_h, y = first - image * a.out_h;
    for (int64_t r = 0; r < last - first; ++r, ++y) {
      if (y == a.out_h) y = 0, ++image;
      const int64_t top = y * a.stride_h - a.pad_h;
      rows_.taps[r] = inside(top, a.dilation_h, a.kernel_h, a.height);
      corners_[r] = ((image * a.height + top) * a.width - a.pad_w) * words;
    }
    for (int64_t x = 0; x < a.out_w; ++x)
      columns_.taps[x] = inside(x * a.stride_w - a.pad_w, a.dilation_w, a.kernel_w, a.width);
    rows_.sort(last - first);
    columns_.sort(a.out_w);
    int64_t at = 0;
    for (int r = 0; r < rows_.kinds; ++r)
      for (int c = 0; c < columns_.kinds; ++c)
        for (int32_t i = rows_.starts[r]; i < rows_.starts[r + 1]; ++i)
          for (int32_t j = columns_.starts[c]; j < columns_.starts[c + 1]; ++j, ++at) {
            const int64_t row = rows_.order[i], x = columns_.order[j];
            origins_[at] = corners_[row] + x * a.stride_w * words;
            places_[at] = int32_t(row * a.out_w + x);
          }
  }

  template <class F>
  void each_group(F&& f) const {
    int64_t at = 0;
    for (int r = 0; r < rows_.kinds; ++r)
      for (int c = 0; c < columns_.kinds; ++c) {
        const int64_t n =
            int64_t(rows_.starts[r + 1] - rows_.starts[r]) * (columns_.starts[c + 1] - columns_.starts[c]);
        f(PixelGroup{rows_.taps[rows_.order[rows_.starts[r]]],
                     columns_.taps[columns_.order[columns_.starts[c]]], origins_ + at, places_ + at, n});
        at += n;
      }
  }

 private:
  // Rows or columns, those of the same taps beside each other.
  struct Line {
    Taps* taps;
    int32_t *order, *starts;
    int kinds = 0;

    void sort(int64_t n) {
      int32_t at = 0;
      kinds = 0;
      for (int64_t i = 0; i < n; ++i) {
        bool known = false;
        for (int k = 0; k < kinds && !known; ++k) known = same(taps[order[starts[k]]], taps[i]);
        if (known) continue;
        starts[kinds++] = at;
        for (int64_t j = i; j < n; ++j)
          if (same(taps[i], taps[j])) order[at++] = int32_t(j);
      }
      starts[kinds] = at;
    }
    static bool same(Taps a, Taps b) { return a.begin == b.begin && a.end == b.end; }
  };

  Line rows_{}, columns_{};
  int64_t *corners_ = nullptr, *origins_ = nullptr;
  int32_t* places_ = nullptr;
};

}  // namespace VDK_ISA
}  // namespace vdk
