// Compressed rows (CSR), for training: forward, its transpose, and the product sampled at the nonzeros.
#include "../common/simd.h"
#include "../common/workspace.h"
#include "spmm.h"

namespace vdk {
namespace VDK_ISA {
namespace {

constexpr int kVectors = 2;  // a tile's columns, in vectors
template <class T>
constexpr int64_t kTile = kVectors * kLanes<T>;
constexpr int64_t kGrain = 1 << 15;  // multiplications worth a thread

int64_t task_count(int64_t work, int64_t units, const Parallel& parallel) {
  const int64_t wanted = work / kGrain + 1 < parallel.threads ? work / kGrain + 1 : parallel.threads;
  return wanted < units ? wanted : units > 0 ? units : 1;
}

// Columns [begin, end) of `rows` <= kLanes rows of `from` [., cols] into vectors `stride` numbers apart;
// lanes from `rows` on are zero.
template <class T>
void to_columns(const T* from, int64_t cols, int64_t rows, int64_t begin, int64_t end, T* to,
                int64_t stride) {
  constexpr int n = kLanes<T>;
  int64_t k = begin;
  for (; k + n <= end; k += n) {
    Vec<T> r[n];
    for (int i = 0; i < n; ++i) r[i] = i < rows ? load(from + i * cols + k) : Vec<T>{};
    transpose<T>(r);
    for (int i = 0; i < n; ++i) store(to + (k + i) * stride, r[i]);
  }
  for (; k < end; ++k)
    for (int i = 0; i < n; ++i) to[k * stride + i] = i < rows ? from[i * cols + k] : T(0);
}

// The way back, of all columns.
template <class T>
void to_rows(const T* from, int64_t stride, int64_t cols, T* to, int64_t rows) {
  constexpr int n = kLanes<T>;
  int64_t k = 0;
  for (; k + n <= cols; k += n) {
    Vec<T> r[n];
    for (int i = 0; i < n; ++i) r[i] = load(from + (k + i) * stride);
    transpose<T>(r);
    for (int i = 0; i < n && i < rows; ++i) store(to + i * cols + k, r[i]);
  }
  for (; k < cols; ++k)
    for (int i = 0; i < n && i < rows; ++i) to[i * cols + k] = from[k * stride + i];
}

// f(first row, rows) of every tile of the batch, shared among threads.
template <class T, class F>
void for_tiles(int64_t batch, int64_t work, const Parallel& parallel, F&& f) {
  const int64_t tiles = (batch + kTile<T> - 1) / kTile<T>, tasks = task_count(work, tiles, parallel);
  parallel(tasks, [&](int64_t task) {
    const Range mine = part_of(batch, kTile<T>, task, tasks);
    for (int64_t row = mine.begin; row < mine.end; row += kTile<T>)
      f(row, mine.end - row < kTile<T> ? mine.end - row : kTile<T>);
  });
}

// Rows of a tile as columns [cols, kTile], and back.
template <class T>
void tile_to_columns(const T* from, int64_t cols, int64_t rows, T* tile) {
  for (int v = 0; v < kVectors; ++v)
    to_columns(from + v * kLanes<T> * cols, cols, rows - v * kLanes<T>, 0, cols, tile + v * kLanes<T>,
               kTile<T>);
}
template <class T>
void tile_to_rows(const T* tile, int64_t cols, T* to, int64_t rows) {
  for (int v = 0; v < kVectors; ++v)
    to_rows(tile + v * kLanes<T>, kTile<T>, cols, to + v * kLanes<T> * cols, rows - v * kLanes<T>);
}

// Two tiles of this task, of a and b vectors.
template <class T>
void take_tiles(int64_t a, int64_t b, T*& first, T*& second) {
  T* const base = static_cast<T*>(scratch(Scratch::kTask, size_t((a + b) * kTile<T>) * sizeof(T)));
  first = base;
  second = base + a * kTile<T>;
}

template <class T, class I>
void forward(const CsrArgs<T, I>& a, const Parallel& parallel) {
  const int64_t nnz = int64_t(a.row_offsets[a.out]);
  for_tiles<T>(a.batch, (nnz + a.in + a.out) * a.batch, parallel, [&](int64_t row, int64_t rows) {
    T *x, *y;
    take_tiles(a.in, a.out, x, y);
    tile_to_columns(a.x + row * a.in, a.in, rows, x);
    for (int64_t o = 0; o < a.out; ++o) {
      Vec<T> sum[kVectors];
      for (Vec<T>& s : sum) s = broadcast(a.bias ? a.bias[o] : T(0));
      for (int64_t k = int64_t(a.row_offsets[o]); k < int64_t(a.row_offsets[o + 1]); ++k)
        for (int v = 0; v < kVectors; ++v)
          sum[v] += load(x + int64_t(a.col_indices[k]) * kTile<T> + v * kLanes<T>) * a.values[k];
      for (int v = 0; v < kVectors; ++v) store(y + o * kTile<T> + v * kLanes<T>, sum[v]);
    }
    tile_to_rows(y, a.out, a.y + row * a.out, rows);
  });
}

// dx = dy W: every row of W scattered into the tile of dx.
template <class T, class I>
void gradient_of_x(const CsrArgs<T, I>& a, const Parallel& parallel) {
  const int64_t nnz = int64_t(a.row_offsets[a.out]);
  for_tiles<T>(a.batch, (nnz + a.in + a.out) * a.batch, parallel, [&](int64_t row, int64_t rows) {
    T *dx, *dy;
    take_tiles(a.in, a.out, dx, dy);
    tile_to_columns<T>(a.y + row * a.out, a.out, rows, dy);
    __builtin_memset(dx, 0, size_t(a.in * kTile<T>) * sizeof(T));
    for (int64_t o = 0; o < a.out; ++o) {
      Vec<T> d[kVectors];
      for (int v = 0; v < kVectors; ++v) d[v] = load(dy + o * kTile<T> + v * kLanes<T>);
      for (int64_t k = int64_t(a.row_offsets[o]); k < int64_t(a.row_offsets[o + 1]); ++k)
        for (int v = 0; v < kVectors; ++v) {
          T* const to = dx + int64_t(a.col_indices[k]) * kTile<T> + v * kLanes<T>;
          store(to, load(to) + d[v] * a.values[k]);
        }
    }
    tile_to_rows(dx, a.in, a.dx + row * a.in, rows);
  });
}

// dvalues and dbias: sums over the batch, of x and dy transposed as a whole.
template <class T, class I>
void gradient_of_weight(const CsrArgs<T, I>& a, const Parallel& parallel) {
  const int64_t vectors = (a.batch + kLanes<T> - 1) / kLanes<T>, lanes = vectors * kLanes<T>;
  T* const x = static_cast<T*>(scratch(Scratch::kShared, size_t((a.in + a.out) * lanes) * sizeof(T)));
  T* const dy = x + a.in * lanes;
  const int64_t nnz = int64_t(a.row_offsets[a.out]), work = (nnz + a.in + a.out) * a.batch;
  const int64_t packing = task_count(work, vectors, parallel);
  parallel(packing, [&](int64_t task) {
    const Range mine = part_of(vectors, 1, task, packing);
    for (int64_t v = mine.begin; v < mine.end; ++v) {
      const int64_t row = v * kLanes<T>;
      to_columns<T>(a.x + row * a.in, a.in, a.batch - row, 0, a.in, x + row, lanes);
      to_columns<T>(a.y + row * a.out, a.out, a.batch - row, 0, a.out, dy + row, lanes);
    }
  });
  const int64_t tasks = task_count(work, a.out, parallel);
  parallel(tasks, [&](int64_t task) {
    const Range mine = part_of(a.out, 1, task, tasks);
    for (int64_t o = mine.begin; o < mine.end; ++o) {
      const T* const d = dy + o * lanes;
      for (int64_t k = int64_t(a.row_offsets[o]); a.dvalues && k < int64_t(a.row_offsets[o + 1]); ++k) {
        const T* const from = x + int64_t(a.col_indices[k]) * lanes;
        Vec<T> sum{};
        for (int64_t i = 0; i < lanes; i += kLanes<T>) sum += load(from + i) * load(d + i);
        a.dvalues[k] = sum_lanes<T>(sum);
      }
      if (!a.dbias) continue;
      Vec<T> sum{};
      for (int64_t i = 0; i < lanes; i += kLanes<T>) sum += load(d + i);
      a.dbias[o] = sum_lanes<T>(sum);
    }
  });
}

template <class T, class I>
void backward(const CsrArgs<T, I>& a, const Parallel& parallel) {
  if (a.dx) gradient_of_x(a, parallel);
  if (a.dvalues || a.dbias) gradient_of_weight(a, parallel);
}

}  // namespace

void spmm(const CsrArgs<float, int32_t>& a, const Parallel& p) { forward(a, p); }
void spmm(const CsrArgs<float, int64_t>& a, const Parallel& p) { forward(a, p); }
void spmm(const CsrArgs<double, int32_t>& a, const Parallel& p) { forward(a, p); }
void spmm(const CsrArgs<double, int64_t>& a, const Parallel& p) { forward(a, p); }
void spmm_backward(const CsrArgs<float, int32_t>& a, const Parallel& p) { backward(a, p); }
void spmm_backward(const CsrArgs<float, int64_t>& a, const Parallel& p) { backward(a, p); }
void spmm_backward(const CsrArgs<double, int32_t>& a, const Parallel& p) { backward(a, p); }
void spmm_backward(const CsrArgs<double, int64_t>& a, const Parallel& p) { backward(a, p); }

}  // namespace VDK_ISA
}  // namespace vdk
