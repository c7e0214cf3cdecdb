// Images of a few channels as planes with zeros around them, whatever the layout they come from.
#pragma once
#include "../common/gemm.h"

namespace vdk {
namespace VDK_ISA {

// Columns are split by their remainder of `phases`, so that every `phases`-th column is a neighbour.
struct PlaneShape {
  int64_t rows, phases, pitch, top, left;  // zeros above and left of the image

  PlaneShape(int64_t rows, int64_t cols, int64_t phases, int64_t top, int64_t left)
      : rows(rows),
        phases(phases),
        pitch(round_up((cols + phases - 1) / phases, 16) + 16),
        top(top),
        left(left) {}
  int64_t size() const { return rows * phases * pitch; }
  int64_t row_step() const { return phases * pitch; }
  // of (h, w) of the image
  int64_t at(int64_t h, int64_t w) const {
    return ((h + top) * phases + (w + left) % phases) * pitch + (w + left) / phases;
  }
};

// Channels [c0, c0 + n) of an image.
template <class T>
struct ImageView {
  T* data;
  int64_t height, width, channels;  // `channels` of the whole image
  bool channels_last;

  int64_t offset(int64_t image, int64_t c) const {
    return channels_last ? image * height * width * channels + c : (image * channels + c) * height * width;
  }
};

// Zeros and the image's channels, one plane after another; with `factor`, of its shape, their products
// beside.
template <class T>
VDK_INLINE void fill_planes(const PlaneShape& p, const ImageView<const T>& from, const T* factor,
                            int64_t image, int64_t c0, int64_t n, T* to, T* products) {
  constexpr int kL = kLanes<T>;
  const int64_t size = p.size(), start = from.offset(image, c0);
  for (int64_t i = 0; i < n * size; i += kL) {
    store(to + i, Vec<T>{});  // a plane's size is a multiple of every vector's
    if (factor) store(products + i, Vec<T>{});
  }
  const auto put = [&](int64_t c, int64_t h, int64_t w, Vec<T> v, Vec<T> other)
                       __attribute__((always_inline)) {
                         const int64_t left = from.width - w;
                         if (p.phases == 1) {
                           store_first(to + c * size + p.at(h, w), v, left);
                           if (factor) store_first(products + c * size + p.at(h, w), v * other, left);
                           return;
                         }
                         for (int64_t i = 0; i < kL && i < left; ++i) {
                           to[c * size + p.at(h, w + i)] = v[i];
                           if (factor) products[c * size + p.at(h, w + i)] = v[i] * other[i];
                         }
                       };
  for (int64_t h = 0; h < from.height; ++h)
    for (int64_t w = 0; w < from.width; w += kL) {
      if (!from.channels_last) {
        for (int64_t c = 0; c < n; ++c) {
          const int64_t at = start + (c * from.height + h) * from.width + w, left = from.width - w;
          put(c, h, w, load_first(from.data + at, left), factor ? load_first(factor + at, left) : Vec<T>{});
        }
        continue;
      }
      for (int64_t c = 0; c < n; c += kL) {
        Vec<T> v[kL] = {}, other[kL] = {};
        for (int64_t i = 0; i < kL && w + i < from.width; ++i) {
          const int64_t at = start + (h * from.width + w + i) * from.channels + c;
          v[i] = load_first(from.data + at, n - c);
          if (factor) other[i] = load_first(factor + at, n - c);
        }
        transpose<T>(v);
        if (factor) transpose<T>(other);
        for (int64_t i = 0; i < kL && c + i < n; ++i) put(c + i, h, w, v[i], other[i]);
      }
    }
}

// `n` <= kLanes pixels of the [rows, pixels] matrix `from`, transposed: for each pixel `rows` values, pixels
// `pitch` apart, a multiple of the vector's length that covers them.
template <class T>
VDK_INLINE void transpose_block(const T* from, int64_t rows, int64_t ld, int64_t pixel, int64_t n, T* columns,
                                int64_t pitch) {
  constexpr int kL = kLanes<T>;
  for (int64_t r = 0; r < rows; r += kL) {
    Vec<T> v[kL] = {};
    for (int64_t i = 0; i < kL && r + i < rows; ++i) v[i] = load_first(from + (r + i) * ld + pixel, n);
    transpose<T>(v);
    for (int64_t i = 0; i < kL && i < n; ++i) store(columns + i * pitch + r, v[i]);
  }
}

}  // namespace VDK_ISA
}  // namespace vdk
