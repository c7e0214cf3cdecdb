// Windows of images as vectors of channels, whatever the image's memory format: staged[row][column][lane].
#pragma once
#include "../common/gemm.h"
#include "conv2d_lrt.h"

namespace vdk {
namespace VDK_ISA {

// kLanes rows that lie `stride` apart, `lanes` of them there, become `count` vectors: put(i, vector).
template <class Put>
VDK_INLINE void read_across(const float* p, int64_t stride, int64_t lanes, int64_t count, Put&& put) {
  constexpr int kL = kLanes<float>;
  for (int64_t q = 0; q < count; q += kL) {
    VecF v[kL];
    const int64_t left = count - q;
    if (lanes >= kL && left >= kL) {
      for (int l = 0; l < kL; ++l) v[l] = load(p + l * stride + q);
    } else {
      for (int l = 0; l < kL; ++l) v[l] = l < lanes ? load_first(p + l * stride + q, left) : VecF{};
    }
    transpose<float>(v);
    if (left >= kL) {
      for (int i = 0; i < kL; ++i) put(q + i, v[i]);
    } else {
      for (int i = 0; i < left; ++i) put(q + i, v[i]);
    }
  }
}

// The way back: `count` vectors get(i) become `lanes` rows.
template <class Get>
VDK_INLINE void write_across(float* p, int64_t stride, int64_t lanes, int64_t count, Get&& get) {
  constexpr int kL = kLanes<float>;
  for (int64_t q = 0; q < count; q += kL) {
    VecF v[kL];
    const int64_t left = count - q;
    for (int i = 0; i < kL; ++i) v[i] = i < left ? get(q + i) : VecF{};
    transpose<float>(v);
    if (lanes >= kL && left >= kL) {
      for (int l = 0; l < kL; ++l) store(p + l * stride + q, v[l]);
    } else {
      for (int l = 0; l < kL; ++l)
        if (l < lanes) store_first(p + l * stride + q, v[l], left);
    }
  }
}

struct ImageLayout {
  int64_t channels, height, width;
  bool channels_last;

  int64_t offset(int64_t n, int64_t c, int64_t h, int64_t w) const {
    return channels_last ? ((n * height + h) * width + w) * channels + c
                         : ((n * channels + c) * height + h) * width + w;
  }
};

// Rows [h, h + rows) and columns [w, w + cols) of image n; may reach over the image's edges.
struct Window {
  int64_t n, c, h, w, rows, cols;
};

// What of a window lies within the image, in the window's own coordinates.
struct Inside {
  Range rows, cols;

  static VDK_INLINE Range clip(int64_t at, int64_t n, int64_t size) {
    const int64_t begin = at < 0 ? -at : 0, end = at + n > size ? size - at : n;
    return {begin < n ? begin : n, end > begin ? end : (begin < n ? begin : n)};
  }
  VDK_INLINE Inside(const ImageLayout& image, const Window& at)
      : rows(clip(at.h, at.rows, image.height)), cols(clip(at.w, at.cols, image.width)) {}
  int64_t height() const { return rows.end - rows.begin; }
  int64_t width() const { return cols.end - cols.begin; }
};

// Walks over runs of pixels that lie one after the other in NCHW: whole windows where rows are whole, else
// row by row. run(first pixel's window row and column, pixels, pixels until the window's next row)
template <class Run>
VDK_INLINE void for_runs(const ImageLayout& image, const Inside& in, Run&& run) {
  if (in.width() == image.width) return run(in.rows.begin, in.cols.begin, in.height() * in.width());
  for (int64_t r = in.rows.begin; r < in.rows.end; ++r) run(r, in.cols.begin, in.width());
}

// Walks over the staged vectors of a run.
struct Cursor {
  int64_t at, column, width, skip;
  VDK_INLINE int64_t next() {
    const int64_t now = at++;
    if (++column == width) {
      column = 0;
      at += skip;
    }
    return now * kLanes<float>;
  }
};

// Channels [c, c + kLanes) of a window, zero where the image or its channels end.
inline __attribute__((noinline)) void read_window(const ImageLayout& image, const float* p, const Window& at,
                                                  float* staged) {
  constexpr int kL = kLanes<float>;
  const Inside in(image, at);
  const int64_t lanes = image.channels - at.c;
  if (in.height() < at.rows || in.width() < at.cols)
    for (int64_t i = 0; i < at.rows * at.cols; ++i) store(staged + i * kL, VecF{});
  if (in.height() == 0 || in.width() == 0) return;
  if (image.channels_last) {
    for (int64_t r = in.rows.begin; r < in.rows.end; ++r) {
      const float* from = p + image.offset(at.n, at.c, at.h + r, at.w + in.cols.begin);
      float* to = staged + (r * at.cols + in.cols.begin) * kL;
      if (lanes >= kL) {
        for (int64_t i = 0; i < in.width(); ++i) store(to + i * kL, load(from + i * image.channels));
      } else {
        for (int64_t i = 0; i < in.width(); ++i)
          store(to + i * kL, load_masked(from + i * image.channels, int(lanes)));
      }
    }
    return;
  }
  for_runs(image, in, [&](int64_t r, int64_t s, int64_t count) __attribute__((always_inline)) {
    Cursor to{r * at.cols + s, 0, in.width(), at.cols - in.width()};
    read_across(p + image.offset(at.n, at.c, at.h + r, at.w + s), image.height * image.width, lanes, count,
                [&](int64_t, VecF v) __attribute__((always_inline)) { store(staged + to.next(), v); });
  });
}

// Fetches the lines of a window that will be written: stores that miss the caches wait for one another.
VDK_INLINE void expect_window(const ImageLayout& image, const float* p, const Window& at) {
  constexpr int64_t kLine = 64 / sizeof(float);
  const Inside in(image, at);
  const int64_t planes = image.channels_last ? 1 : at_most(kLanes<float>, image.channels - at.c);
  const int64_t run = image.channels_last ? 1 : in.width(), pixels = image.channels_last ? in.width() : 1;
  for (int64_t l = 0; l < planes; ++l)
    for (int64_t r = in.rows.begin; r < in.rows.end; ++r) {
      const float* const row = p + image.offset(at.n, at.c + l, at.h + r, at.w + in.cols.begin);
      for (int64_t i = 0; i < pixels; ++i) __builtin_prefetch(row + i * image.channels, 1);
      for (int64_t i = kLine; i < run + kLine - 1; i += kLine) __builtin_prefetch(row + i, 1);
    }
}

// The way back: what lies within the image is written.
inline __attribute__((noinline)) void write_window(const ImageLayout& image, float* p, const Window& at,
                                                   const float* staged) {
  constexpr int kL = kLanes<float>;
  const Inside in(image, at);
  const int64_t lanes = image.channels - at.c;
  if (image.channels_last) {
    for (int64_t r = in.rows.begin; r < in.rows.end; ++r) {
      float* to = p + image.offset(at.n, at.c, at.h + r, at.w + in.cols.begin);
      const float* from = staged + (r * at.cols + in.cols.begin) * kL;
      for (int64_t i = 0; i < in.width(); ++i)
        store_first(to + i * image.channels, load(from + i * kL), lanes);
    }
    return;
  }
  for_runs(image, in, [&](int64_t r, int64_t s, int64_t count) __attribute__((always_inline)) {
    Cursor from{r * at.cols + s, 0, in.width(), at.cols - in.width()};
    write_across(p + image.offset(at.n, at.c, at.h + r, at.w + s), image.height * image.width, lanes, count,
                 [&](int64_t) __attribute__((always_inline)) { return load(staged + from.next()); });
  });
}

}  // namespace VDK_ISA
}  // namespace vdk
