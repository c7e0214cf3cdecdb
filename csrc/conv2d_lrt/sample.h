// From mean and variance to y and r, the noise drawn beside it.
#pragma once
#include "../random/runs.h"
#include "conv2d_lrt.h"

namespace vdk {
namespace VDK_ISA {

template <class T>
VDK_INLINE void sample(Vec<T> mean, Vec<T> variance, Vec<T> z, T eps, Vec<T>& y, Vec<T>& r) {
  const Vec<T> std = square_root(variance + eps);
  y = mean + std * z;
  r = z * reciprocal(std) * T(0.5);
}

constexpr int kSampleRows = 16;  // channels whose noise is drawn before it is used

// The noise of pixels [p, p + n) of `count` channels of one image, the first of them row `row` of the grid.
// Returns the place of pixel p of the first channel in `z`; channels are `pitch` apart. z holds
// kSampleRows (n + 4 + 4 kRunGroups) elements.
template <class T>
VDK_INLINE const T* noise_of_rows(const NoiseGrid& grid, int64_t row, int64_t count, int64_t p, int64_t n,
                                  T* z, int64_t& pitch) {
  const int64_t groups = int64_t(grid.groups), g0 = p / 4, g1 = (p + n + 3) / 4;
  if (g0 == 0 && g1 == groups) {  // all groups of a row: one run of counters
    pitch = 4 * groups;
    const uint64_t first = uint64_t(row) * grid.groups;
    for (int64_t g = 0; g < count * groups; g += kRunGroups) draw(grid, first + uint64_t(g), z + 4 * g);
    return z + p;
  }
  pitch = (g1 - g0 + kRunGroups - 1) / kRunGroups * kRunGroups * 4;
  for (int64_t i = 0; i < count; ++i) {
    const uint64_t first = uint64_t(row + i) * grid.groups + uint64_t(g0);
    for (int64_t g = 0; g < g1 - g0; g += kRunGroups) draw(grid, first + uint64_t(g), z + i * pitch + 4 * g);
  }
  return z + (p - 4 * g0);
}

// NCHW: pixels [p, p + n) of `count` channels from o on, of image `image`.
template <class T>
VDK_INLINE void sample_rows(const ConvForward<T>& a, const NoiseGrid& grid, int64_t image, int64_t o,
                            int64_t count, int64_t p, int64_t n, const T* mean, const T* variance, int64_t ld,
                            T* z) {
  const int64_t pixels = a.s.out_h * a.s.out_w;
  for (int64_t i0 = 0; i0 < count; i0 += kSampleRows) {
    const int64_t rows = count - i0 < kSampleRows ? count - i0 : kSampleRows;
    const int64_t row = image * a.s.out + o + i0;
    int64_t pitch;
    const T* const noise = noise_of_rows(grid, row, rows, p, n, z, pitch);
    for (int64_t i = 0; i < rows; ++i) {
      const T bias = a.bias ? a.bias[o + i0 + i] : T(0);
      T *const y = a.y + (row + i) * pixels + p, *const r = a.r + (row + i) * pixels + p;
      const T *const m = mean + (i0 + i) * ld, *const v = variance + (i0 + i) * ld;
      for (int64_t j = 0; j < n; j += kLanes<T>) {
        Vec<T> yv, rv;
        sample<T>(load_first(m + j, n - j) + bias, load_first(v + j, n - j),
                  load_first(noise + i * pitch + j, n - j), a.eps, yv, rv);
        store_first(y + j, yv, n - j);
        store_first(r + j, rv, n - j);
      }
    }
  }
}

// NHWC: channels [o, o + count) of pixels [p, p + n) of image `image`.
template <class T>
VDK_INLINE void sample_pixels(const ConvForward<T>& a, const NoiseGrid& grid, int64_t image, int64_t o,
                              int64_t count, int64_t p, int64_t n, const T* mean, const T* variance,
                              int64_t ld) {
  const int64_t pixels = a.s.out_h * a.s.out_w;
  for (int64_t c = 0; c < count; c += kLanes<T>) {
    const int64_t left = count - c;
    const Vec<T> bias = a.bias ? load_first(a.bias + o + c, left) : Vec<T>{};
    for (int64_t group = p / 4; 4 * group < p + n; ++group) {
      Vec<T> z[4];
      normals_of_rows(grid, image * a.s.out + o + c, group, z);
      for (int64_t j = 0; j < 4; ++j) {
        const int64_t pixel = 4 * group + j;
        if (pixel < p || pixel >= p + n) continue;
        const int64_t from = (pixel - p) * ld + c, to = (image * pixels + pixel) * a.s.out + o + c;
        Vec<T> yv, rv;
        sample<T>(load_first(mean + from, left) + bias, load_first(variance + from, left), z[j], a.eps, yv,
                  rv);
        store_first(a.y + to, yv, left);
        store_first(a.r + to, rv, left);
      }
    }
  }
}

}  // namespace VDK_ISA
}  // namespace vdk
