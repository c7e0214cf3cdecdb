// A vector of neighbouring outputs at a time: the rows of its windows are compared first, which are runs of
// neighbours, then what lies in each window, its neighbours taken apart where the stride is two.
#include "max_pool2d.h"

#include "../common/simd.h"
#include "../common/workspace.h"

namespace vdk {
namespace VDK_ISA {
namespace {

constexpr int64_t kWidth = kLanes<float>;

// NaN of either stays, as torch's does.
VDK_INLINE VecF larger(VecF a, VecF b) { return a != a ? a : maximum(a, b); }
VDK_INLINE float larger(float a, float b) { return a > b || a != a ? a : b; }

// Outputs of one row, all of whose windows have the same `rows` >= 1 rows in the image, `kRows` if that is
// not 0; `kCols`, if not 0, is how many columns a window has, side by side.
template <int kRows, int kCols>
struct Row {
  const MaxPoolArgs& a;
  const float* top;  // the first of them
  int64_t given_rows;
  float* y;

  int64_t rows() const { return kRows ? kRows : given_rows; }
  int64_t step() const { return a.h.dilation * a.w.in; }
  int64_t kernel() const { return kCols ? kCols : a.w.kernel; }
  int64_t dilation() const { return kCols ? 1 : a.w.dilation; }

  // The largest of each column from `c`; n of them count.
  VDK_INLINE VecF column_maxima(int64_t c, int64_t n) const {
    VecF m = load_first(top + c, n);
    for (int64_t i = 1; i < rows(); ++i) m = larger(load_first(top + c + i * step(), n), m);
    return m;
  }

  // One output, its window cut off at the borders.
  VDK_INLINE void one(int64_t o) const {
    const Range taps = a.w.taps(o);
    float m = a.least;
    for (int64_t i = 0; i < rows(); ++i)
      for (int64_t j = taps.begin; j < taps.end; ++j) m = larger(top[i * step() + a.w.at(o, j)], m);
    y[o] = m;
  }

  // Up to a vector of outputs from `o` of stride one, inside.
  VDK_INLINE void neighbours(int64_t o, int64_t count) const {
    VecF m = broadcast(a.least);
    for (int64_t j = 0; j < kernel(); ++j) m = larger(column_maxima(o - a.w.pad + j * dilation(), count), m);
    store_first(y + o, m, count);
  }

  // Up to a vector of outputs from `o` of stride two, inside: every second of two vectors.
  VDK_INLINE void seconds(int64_t o, int64_t count) const {
    const int64_t first = 2 * o - a.w.pad, reach = (kernel() - 1) * dilation();
    VecF m = broadcast(a.least);
    for (int64_t at = 0; at <= reach;) {  // a tap and, where it is one, its neighbour
      const int64_t n = reach + 2 * count - 1 - at;
      const VecF lower = column_maxima(first + at, n);
      const VecF upper = n > kWidth ? column_maxima(first + at + kWidth, n - kWidth) : VecF{};
      VecF even, odd;
      unzip(lower, upper, even, odd);
      m = larger(even, m);
      at += dilation();
      if (dilation() == 1 && at <= reach) m = larger(odd, m), ++at;
    }
    store_first(y + o, m, count);
  }

  // Outputs inside, of any stride: the columns' maxima first, which `maxima` has room for.
  VDK_INLINE void strided(Range inside, float* maxima) const {
    const int64_t first = a.w.at(inside.begin, 0), last = a.w.at(inside.end - 1, kernel() - 1) + 1;
    for (int64_t c = first; c < last; c += kWidth)
      store_first(maxima + c, column_maxima(c, last - c), last - c);
    for (int64_t o = inside.begin; o < inside.end; ++o) {
      float m = a.least;
      for (int64_t j = 0; j < kernel(); ++j) m = larger(maxima[a.w.at(o, j)], m);
      y[o] = m;
    }
  }

  VDK_INLINE void run(Range inside, float* maxima) const {
    for (int64_t o = 0; o < inside.begin; ++o) one(o);
    for (int64_t o = inside.end; o < a.w.out; ++o) one(o);
    if (a.w.stride > 2 && inside.begin < inside.end) return strided(inside, maxima);
    for (int64_t o = inside.begin; o < inside.end; o += kWidth) {
      const int64_t count = inside.end - o < kWidth ? inside.end - o : kWidth;
      a.w.stride == 1 ? neighbours(o, count) : seconds(o, count);
    }
  }
};

struct Inside {
  Range rows, cols;
};

// Windows of kSize x kSize neighbours; 0: of any size.
template <int kSize>
void run_plane(const MaxPoolArgs& a, int64_t plane, const Inside& inside, float* maxima) {
  const float* const x = a.x + plane * a.h.in * a.w.in;
  float* const y = a.y + plane * a.h.out * a.w.out;
  for (int64_t o = 0; o < a.h.out; ++o) {
    float* const row = y + o * a.w.out;
    if (inside.rows.begin <= o && o < inside.rows.end) {
      Row<kSize, kSize>{a, x + a.h.at(o, 0) * a.w.in, a.h.kernel, row}.run(inside.cols, maxima);
      continue;
    }
    const Range taps = a.h.taps(o);
    if (taps.begin >= taps.end)  // dilation can carry a window over the image
      for (int64_t c = 0; c < a.w.out; ++c) row[c] = a.least;
    else
      Row<0, 0>{a, x + a.h.at(o, taps.begin) * a.w.in, taps.end - taps.begin, row}.run(inside.cols, maxima);
  }
}

using RunPlane = void (*)(const MaxPoolArgs&, int64_t, const Inside&, float*);

RunPlane runner(const MaxPoolArgs& a) {
  const bool square = a.h.kernel == a.w.kernel && a.h.dilation == 1 && a.w.dilation == 1;
  if (square && a.w.kernel == 2) return run_plane<2>;
  if (square && a.w.kernel == 3) return run_plane<3>;
  return run_plane<0>;
}

}  // namespace

void max_pool2d(const MaxPoolArgs& a, const Parallel& parallel) {
  constexpr int64_t kGrain = 1 << 15;  // comparisons that a task is worth, about
  const int64_t work = a.planes * a.h.out * a.w.out * a.h.kernel * a.w.kernel, wanted = work / kGrain + 1;
  const int64_t most = wanted < parallel.threads ? wanted : parallel.threads;
  const int64_t tasks = most < a.planes ? most : a.planes;
  const Inside inside{a.h.inside(), a.w.inside()};
  const RunPlane run = runner(a);
  parallel(tasks, [&](int64_t task) {
    const size_t room = a.w.stride > 2 ? size_t(a.w.in) * sizeof(float) : 0;
    float* const maxima = room ? static_cast<float*>(scratch(Scratch::kTask, room)) : nullptr;
    const Range mine = part_of(a.planes, 1, task, tasks);
    for (int64_t plane = mine.begin; plane < mine.end; ++plane) run(a, plane, inside, maxima);
  });
}

}  // namespace VDK_ISA
}  // namespace vdk
