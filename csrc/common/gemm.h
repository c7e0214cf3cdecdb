// The one GEMM driver: two products that share their loops, their tiles and their memory traffic,
//
//   mean[i, j] = sum_k A.mean[i, k] B.mean[k, j]     variance[i, j] = sum_k A.variance[i, k] B.variance[k, j]
//
// with three plug-ins: how a block of A is packed, how a block of B is packed, what happens to a finished
// block of both results. The microkernel broadcasts elements of A's rows (contiguous in k) against packed
// panels of B ([k][kCols]). A block of results stays in L2 while k runs; weights, where they are an operand,
// are packed block by block and never as a whole.
#pragma once
#include "pairs.h"
#include "parallel.h"
#include "simd.h"
#include "workspace.h"

namespace vdk {
namespace VDK_ISA {

template <class T>
struct Tile {
  static constexpr int kVectors = 2;
  static constexpr int kRows = VDK_VECTOR_BYTES == 64 ? 12 : 6;  // 24 of 32 or 12 of 16 registers accumulate
  static constexpr int kCols = kVectors * kLanes<T>;
};

VDK_INLINE int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }
VDK_INLINE int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }
VDK_INLINE int64_t at_least(int64_t a, int64_t b) { return a > b ? a : b; }

// A pointer the compiler knows nothing of: it would compute, and spill, the addresses of all rows beforehand.
template <class P>
VDK_INLINE P* unseen(P* p) {
  asm("" : "+r"(p));
  return p;
}

// c[kRows][kVectors vectors] (+)= a[kRows rows of stride lda][k] * b[k][kCols], in elements of V (pairs.h)
template <class T, int kVectors, class V, int kRows = Tile<T>::kRows>
__attribute__((noinline)) void microkernel(int64_t k, const V* a, int64_t lda, const V* b, T* c, int64_t ldc,
                                           bool accumulate) {
  constexpr int kCols = Tile<T>::kCols, kStep = 8;
  Vec<T> acc[kRows][kVectors];
#pragma GCC unroll 12
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; ++j) acc[i][j] = Vec<T>{};
  if (accumulate) {
    const T* from = c;
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i, from = unseen(from + ldc))
#pragma GCC unroll 2
      for (int j = 0; j < kVectors; ++j) acc[i][j] = load(from + j * kLanes<T>);
  }
  if (!accumulate) {  // results are often far away, and stores that miss wait for one another
    const T* to = c;
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i, to = unseen(to + ldc))
#pragma GCC unroll 2
      for (int j = 0; j < kVectors; ++j) __builtin_prefetch(to + j * kLanes<T>, 1);
  }
  // a register for every third row
  const V* third[(kRows + 2) / 3];
#pragma GCC unroll 4
  for (int i = 0; i < kRows; i += 3) third[i / 3] = a + i * lda;
  const auto step = [&](int u) __attribute__((always_inline)) {
    Vec<T> bv[kVectors];
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; ++j) bv[j] = load_panel(b + u * kCols + j * kLanes<T>);
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 2
      for (int j = 0; j < kVectors; ++j) multiply_add(acc[i][j], third[i / 3] + i % 3 * lda + u, bv[j]);
  };
  const auto advance = [&](int64_t n) __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int i = 0; i < (kRows + 2) / 3; ++i) third[i] = unseen(third[i] + n);
    b += n * kCols;
  };
  for (; k >= kStep; k -= kStep) {
#pragma GCC unroll 8
    for (int u = 0; u < kStep; ++u) step(u);
    advance(kStep);
  }
  for (; k > 0; --k) {
    step(0);
    advance(1);
  }
#pragma GCC unroll 12
  for (int i = 0; i < kRows; ++i, c = unseen(c + ldc))
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; ++j) store(c + j * kLanes<T>, acc[i][j]);
}

// No more threads than the work is worth.
VDK_INLINE Parallel limited(const Parallel& parallel, int64_t flops) {
  constexpr int64_t kFlopsPerThread = 1 << 19;
  return {at_least(at_most(parallel.threads, flops / kFlopsPerThread), 1), parallel.run};
}

// This task's share of n small jobs.
template <class F>
VDK_INLINE void share(int64_t n, int64_t task, int64_t tasks, F&& f) {
  const Range mine = part_of(n, 1, task, tasks);
  for (int64_t i = mine.begin; i < mine.end; ++i) f(i);
}

// A packed block. Rows: `stride` between rows. Panels: `stride` between panels. In elements of `mean`.
template <class T, class V>
struct Packed {
  const T* mean;
  const V* variance;
  int64_t stride;
};

// k in chunks of one depth (the last may be shorter).
struct Chunks {
  static constexpr int64_t kUnit = 32;  // no vector of packed elements straddles chunks
  static constexpr int64_t kMaxDepth = 512;
  int64_t total, depth, count;
  Chunks(int64_t total, int64_t target) : total(total) {
    count = at_least((total + target / 2) / target, 1);
    depth = at_least(round_up((total + count - 1) / count, kUnit), kUnit);
    count = at_least((total + depth - 1) / depth, 1);
  }
  // The same depth over a shorter k.
  Chunks first(int64_t n) const {
    Chunks c = *this;
    c.total = n;
    c.count = at_least((n + depth - 1) / depth, 1);
    return c;
  }
  int64_t length(int64_t c) const { return at_most(depth, total - c * depth); }
};

// Rows are shared out in units of 12: a multiple of every kRows, and of the four a noise group spans.
constexpr int64_t kRowUnit = 12;

struct Blocking {
  int64_t rows, cols;  // block of results kept in cache: multiples of kRowUnit and kCols
  const Chunks& chunks;
};

// Threads as a grid over the results, so that the slowest cell has the least to do. Costs are vector FMAs per
// step of k; an operand packed on the fly is packed again by every cell that shares it.
struct Grid {
  int64_t rows, cols;
};
enum class OnTheFly { kNothing, kRows, kPanels };
template <class T>
Grid make_grid(int64_t m, int64_t n, int64_t threads, OnTheFly packed) {
  constexpr int64_t kPackElement = 3;  // measured: about three FMAs of the microkernel
  const int64_t units = (m + kRowUnit - 1) / kRowUnit, vectors = (n + kLanes<T> - 1) / kLanes<T>;
  Grid best{1, 1};
  int64_t best_cost = INT64_MAX;
  for (int64_t r = threads; r >= 1; --r) {
    const int64_t c = threads / r, cell_units = (units + r - 1) / r;
    const int64_t panels = ((n + Tile<T>::kCols - 1) / Tile<T>::kCols + c - 1) / c;
    const int64_t cell_vectors = at_most(panels * Tile<T>::kVectors, vectors);
    int64_t cost = cell_units * kRowUnit * cell_vectors * 2;
    if (packed == OnTheFly::kRows) cost += cell_units * kRowUnit * kPackElement;
    if (packed == OnTheFly::kPanels) cost += cell_vectors * kLanes<T> * kPackElement;
    if (cost < best_cost) {
      best_cost = cost;
      best = {r, c};
    }
  }
  return best;
}

// One of the two products of a block, over one chunk of k.
template <class T, class V>
VDK_INLINE void chunk_product(int64_t k, const V* a, int64_t a_stride, const V* b, int64_t n_rows, bool half,
                              T* c, int64_t ldc, bool accumulate) {
  k = (k + kPerElement<V> - 1) / kPerElement<V>;
  a_stride /= kPerElement<V>;
  constexpr int kRows = Tile<T>::kRows;
  int64_t i = 0;
  // one vector a row: few rows would wait for their own sums
  if constexpr (kRows < 12)
    for (; half && i + kRows < n_rows; i += 2 * kRows)
      microkernel<T, 1, V, 2 * kRows>(k, a + i * a_stride, a_stride, b, c + i * ldc, ldc, accumulate);
  const auto kernel = half ? microkernel<T, 1, V> : microkernel<T, Tile<T>::kVectors, V>;
  for (; i < n_rows; i += kRows) kernel(k, a + i * a_stride, a_stride, b, c + i * ldc, ldc, accumulate);
}

// One block of results: all of k.
template <class T, class V, class A, class B>
VDK_INLINE void block_product(const Chunks& chunks, const A& a, const B& b, int64_t i0, int64_t n_rows,
                              int64_t j0, int64_t n_cols, T* a_scratch, T* b_scratch, T* const c[2],
                              int64_t ldc) {
  constexpr int kCols = Tile<T>::kCols, kL2Rows = 96, kPer = kPerElement<V>;
  for (int64_t chunk = 0; chunk < chunks.count; ++chunk) {
    const int64_t k = chunks.length(chunk);
    const Packed<T, V> rows = a.rows(i0, n_rows, chunk, a_scratch, j0 == 0);
    const Packed<T, V> panels = b.panels(j0, n_cols, chunk, b_scratch);
    for (int64_t i = 0; i < n_rows; i += kL2Rows)
      for (int64_t j = 0; j < n_cols; j += kCols) {
        const bool half = n_cols - j <= kLanes<T>;
        const int64_t n = at_most(kL2Rows, n_rows - i), a_at = i * rows.stride, c_at = i * ldc + j;
        const int64_t b_at = j / kCols * panels.stride;
        chunk_product<T>(k, rows.mean + a_at, rows.stride, panels.mean + b_at, n, half, c[0] + c_at, ldc,
                         chunk > 0);
        chunk_product<T>(k, rows.variance + a_at / kPer, rows.stride, panels.variance + b_at / kPer, n, half,
                         c[1] + c_at, ldc, chunk > 0);
      }
  }
}

// `finish(i0, rows, j0, cols, mean, variance, ldc, cell)` gets each finished block; `cell` is the thread's
// place in the grid.
template <class T, class V, class A, class B, class Finish>
void dual_gemm(int64_t m, int64_t n, const Blocking& blocking, const Grid& grid, const A& a, const B& b,
               const Finish& finish, const Parallel& parallel) {
  constexpr int kCols = Tile<T>::kCols;
  parallel(grid.rows * grid.cols, [&](int64_t task) {
    const Grid cell{task / grid.cols, task % grid.cols};
    const Range is = part_of(m, kRowUnit, cell.rows, grid.rows), js = part_of(n, kCols, cell.cols, grid.cols);
    if (is.begin == is.end || js.begin == js.end) return;
    const int64_t block_rows = at_most(blocking.rows, round_up(is.end - is.begin, kRowUnit));
    const int64_t block_cols = at_most(blocking.cols, round_up(js.end - js.begin, kCols));
    const int64_t ldc = block_cols + kLanes<T>;  // off powers of two, which would share cache sets
    const auto carve = [&](Carver carver, T*& pa, T*& pb, T* c[2]) {
      pa = carver.take<T>(2 * block_rows * blocking.chunks.depth);
      pb = carver.take<T>(2 * block_cols * blocking.chunks.depth);
      c[0] = carver.take<T>(block_rows * ldc);
      c[1] = carver.take<T>(block_rows * ldc);
      return carver.used();
    };
    T *pa, *pb, *c[2];
    carve(Carver(scratch(Scratch::kTask, carve(Carver(), pa, pb, c))), pa, pb, c);
    for (int64_t j0 = js.begin; j0 < js.end; j0 += block_cols)
      for (int64_t i0 = is.begin; i0 < is.end; i0 += block_rows) {
        const int64_t rows = at_most(block_rows, is.end - i0), cols = at_most(block_cols, js.end - j0);
        block_product<T, V>(blocking.chunks, a, b, i0, rows, j0, cols, pa, pb, c, ldc);
        finish(i0, rows, j0, cols, c[0], c[1], ldc, cell);
      }
  });
}

}  // namespace VDK_ISA
}  // namespace vdk
