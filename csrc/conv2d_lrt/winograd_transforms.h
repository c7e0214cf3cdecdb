// Winograd's F(4x4, 3x3) in vectors of channels: lane l of every vector belongs to channel c + l.
//
// A tile of 4x4 results needs 6x6 inputs. Interpolated at 0, +-sqrt(1/2), +-sqrt(2) and infinity, which
// rounds less than the usual 0, +-1, +-2 at the same number of operations. For an image d, weights g, results
// y:
//
//   y = A^T [(G g G^T) * (B^T d B)] A          dg = G^T [(B^T d B) * (A dy A^T)] G
//
// where * is taken element by element, summed over channels or over tiles: 36 products of matrices.
#pragma once
#include "../common/simd.h"

namespace vdk {
namespace VDK_ISA {

constexpr int kTile = 4, kPatch = 6, kPoints = kPatch * kPatch;

constexpr float kA = 0.70710678118654752f, kB = 1.41421356237309505f;  // the points
constexpr float kA3 = kA / 2, kB3 = kB * 2;                            // their cubes

struct ToPoints {  // B^T d
  static constexpr int kFrom = 6, kTo = 6;
  static VDK_INLINE void run(const VecF (&d)[6], VecF (&u)[6]) {
    const VecF even_a = d[4] - d[2] * 2.0f, odd_a = (d[3] - d[1] * 2.0f) * kA;
    const VecF even_b = d[4] - d[2] * 0.5f, odd_b = (d[3] - d[1] * 0.5f) * kB;
    u[0] = (d[0] + d[4]) - d[2] * 2.5f;
    u[1] = even_a + odd_a;
    u[2] = even_a - odd_a;
    u[3] = even_b + odd_b;
    u[4] = even_b - odd_b;
    u[5] = (d[1] + d[5]) - d[3] * 2.5f;
  }
};

struct FromPoints {  // A^T m
  static constexpr int kFrom = 6, kTo = 4;
  static VDK_INLINE void run(const VecF (&m)[6], VecF (&y)[4]) {
    const VecF even_a = m[1] + m[2], odd_a = m[1] - m[2], even_b = m[3] + m[4], odd_b = m[3] - m[4];
    y[0] = m[0] + even_a + even_b;
    y[1] = odd_a * kA + odd_b * kB;
    y[2] = even_a * 0.5f + even_b * 2.0f;
    y[3] = odd_a * kA3 + odd_b * kB3 + m[5];
  }
};

struct GradientToPoints {  // A y
  static constexpr int kFrom = 4, kTo = 6;
  static VDK_INLINE void run(const VecF (&y)[4], VecF (&u)[6]) {
    const VecF even_a = y[0] + y[2] * 0.5f, odd_a = y[1] * kA + y[3] * kA3;
    const VecF even_b = y[0] + y[2] * 2.0f, odd_b = y[1] * kB + y[3] * kB3;
    u[0] = y[0];
    u[1] = even_a + odd_a;
    u[2] = even_a - odd_a;
    u[3] = even_b + odd_b;
    u[4] = even_b - odd_b;
    u[5] = y[3];
  }
};

struct WeightsToPoints {  // G g
  static constexpr int kFrom = 3, kTo = 6;
  static VDK_INLINE void run(const VecF (&g)[3], VecF (&u)[6]) {
    const VecF even_a = g[0] * (-2.0f / 3) + g[2] * (-1.0f / 3), odd_a = g[1] * (-kB / 3);
    const VecF even_b = g[0] * (1.0f / 6) + g[2] * (1.0f / 3), odd_b = g[1] * (kB / 6);
    u[0] = g[0];
    u[1] = even_a + odd_a;
    u[2] = even_a - odd_a;
    u[3] = even_b + odd_b;
    u[4] = even_b - odd_b;
    u[5] = g[2];
  }
};

struct WeightsFromPoints {  // G^T m
  static constexpr int kFrom = 6, kTo = 3;
  static VDK_INLINE void run(const VecF (&m)[6], VecF (&g)[3]) {
    const VecF even_a = m[1] + m[2], odd_a = m[1] - m[2], even_b = m[3] + m[4], odd_b = m[3] - m[4];
    g[0] = m[0] + (even_a * (-2.0f / 3) + even_b * (1.0f / 6));
    g[1] = odd_a * (-kB / 3) + odd_b * (kB / 6);
    g[2] = (even_b - even_a) * (1.0f / 3) + m[5];
  }
};

// A transform of both dimensions, rows first: get(i, j), put(i, j, vector).
template <class Along, class Get, class Put>
VDK_INLINE void transform_2d(Get&& get, Put&& put) {
  constexpr int kFrom = Along::kFrom, kTo = Along::kTo;
  VecF half[kFrom][kTo];
#pragma GCC unroll 6
  for (int i = 0; i < kFrom; ++i) {
    VecF row[kFrom];
#pragma GCC unroll 6
    for (int j = 0; j < kFrom; ++j) row[j] = get(i, j);
    Along::run(row, half[i]);
  }
#pragma GCC unroll 6
  for (int j = 0; j < kTo; ++j) {
    VecF column[kFrom], out[kTo];
#pragma GCC unroll 6
    for (int i = 0; i < kFrom; ++i) column[i] = half[i][j];
    Along::run(column, out);
#pragma GCC unroll 6
    for (int i = 0; i < kTo; ++i) put(i, j, out[i]);
  }
}

// A value at a point. The 36 points lie far apart, and stores that miss the caches wait for one another: the
// line `ahead` floats further on, where the next tile's goes, is fetched meanwhile.
VDK_INLINE void store_point(float* u, int64_t ahead, VecF v) {
  __builtin_prefetch(u + ahead, 1);
  store(u, v);
}

// Of what no cache will hold until it is read: the line is not fetched first. `end_streaming` before another
// thread reads it.
#if defined(__AVX512F__)
constexpr bool kStreams = true;  // a vector is a line
VDK_INLINE void stream(float* p, VecF v) { _mm512_stream_ps(p, (__m512)v); }
VDK_INLINE void end_streaming() { _mm_sfence(); }
#else
constexpr bool kStreams = false;
VDK_INLINE void stream(float* p, VecF v) { store(p, v); }
VDK_INLINE void end_streaming() {}
#endif

// B^T d B of a 6x6 patch whose rows lie `row` vectors apart, or of its squares; point p goes to u + p *
// stride.
template <bool kSquared>
VDK_INLINE void transform_patch(const float* patch, int64_t row, float* u, int64_t stride, int64_t ahead) {
  transform_2d<ToPoints>(
      [&](int i, int j) __attribute__((always_inline)) {
        const VecF d = load(patch + (i * row + j) * kLanes<float>);
        return kSquared ? d * d : d;
      },
      [&](int i, int j, VecF v)
          __attribute__((always_inline)) { store_point(u + (i * kPatch + j) * stride, ahead, v); });
}

// A^T m A: 4x4 results.
VDK_INLINE void transform_result(const float* m, int64_t stride, VecF (&y)[kTile][kTile]) {
  transform_2d<FromPoints>([&](int i, int j)
                               __attribute__((always_inline)) { return load(m + (i * kPatch + j) * stride); },
                           [&](int i, int j, VecF v) __attribute__((always_inline)) { y[i][j] = v; });
}

// A dy A^T of a 4x4 tile whose rows lie `row` vectors apart.
VDK_INLINE void transform_gradient(const float* tile, int64_t row, float* u, int64_t stride, int64_t ahead) {
  transform_2d<GradientToPoints>(
      [&](int i, int j) __attribute__((always_inline)) { return load(tile + (i * row + j) * kLanes<float>); },
      [&](int i, int j, VecF v)
          __attribute__((always_inline)) { store_point(u + (i * kPatch + j) * stride, ahead, v); });
}

// G g G^T of nine vectors, turned by 180 degrees for the input's gradient.
template <bool kStream>
VDK_INLINE void transform_weights(const float* g, bool turned, float* u, int64_t stride, int64_t ahead) {
  const int64_t first = turned ? 8 : 0, step = turned ? -1 : 1;
  transform_2d<WeightsToPoints>(
      [&](int i, int j)
          __attribute__((always_inline)) { return load(g + (first + step * (3 * i + j)) * kLanes<float>); },
      [&](int i, int j, VecF v) __attribute__((always_inline)) {
        float* const to = u + (i * kPatch + j) * stride;
        kStream ? stream(to, v) : store_point(to, ahead, v);
      });
}

// G^T m G: the nine vectors of a weight's gradient, of get(point).
template <class Get>
VDK_INLINE void transform_weight_gradient(Get&& get, float* g) {
  transform_2d<WeightsFromPoints>(
      [&](int i, int j) __attribute__((always_inline)) { return get(i * kPatch + j); },
      [&](int i, int j, VecF v)
          __attribute__((always_inline)) { store(g + (3 * i + j) * kLanes<float>, v); });
}

}  // namespace VDK_ISA
}  // namespace vdk
