// A matrix in compressed rows (CSR) times a batch: rows of the batch lie in the lanes, a tile of them at a
// time.
#pragma once
#include "../common/simd.h"
#include "../common/workspace.h"
#include "spmm.h"

namespace vdk {
namespace VDK_ISA {

constexpr int64_t kGrain = 1 << 15;  // multiplications worth a thread

inline int64_t task_count(int64_t work, int64_t units, const Parallel& parallel) {
  const int64_t wanted = work / kGrain + 1 < parallel.threads ? work / kGrain + 1 : parallel.threads;
  return wanted < units ? wanted : units > 0 ? units : 1;
}

template <class T, class I>
struct Csr {
  int64_t rows, cols, nnz;
  const T* values;
  const I *index, *offsets;  // columns [nnz], in any order within a row; [rows + 1]
};

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

// The way back.
template <class T>
void to_rows(const T* from, int64_t stride, int64_t cols, int64_t begin, int64_t end, T* to, int64_t rows) {
  constexpr int n = kLanes<T>;
  int64_t k = begin;
  for (; k + n <= end; k += n) {
    Vec<T> r[n];
    for (int i = 0; i < n; ++i) r[i] = load(from + (k + i) * stride);
    transpose<T>(r);
    for (int i = 0; i < n && i < rows; ++i) store(to + i * cols + k, r[i]);
  }
  for (; k < end; ++k)
    for (int i = 0; i < n && i < rows; ++i) to[i * cols + k] = from[k * stride + i];
}

// A tile: P vectors of the batch, inputs [cols][P] and results [rows][P].
template <class T, int P>
struct CsrTile {
  static constexpr int64_t kWidth = P * kLanes<T>;
  T *x, *y;

  void carve(Carver& carver, int64_t cols, int64_t rows) {
    x = carver.take<T>(cols * kWidth);
    y = carver.take<T>(rows * kWidth);
  }
  void bring(const T* from, int64_t cols, int64_t rows) const {
    for (int v = 0; v < P; ++v)
      to_columns<T>(from + v * kLanes<T> * cols, cols, rows - v * kLanes<T>, 0, cols, x + v * kLanes<T>,
                    kWidth);
  }
  void write(T* to, int64_t cols, const Range& which, int64_t rows) const {
    for (int v = 0; v < P; ++v)
      to_rows<T>(y + v * kLanes<T>, kWidth, cols, which.begin, which.end, to + v * kLanes<T> * cols,
                 rows - v * kLanes<T>);
  }

  // Some rows of the matrix, which leave two sums each: one alone would wait for itself.
  template <class I>
  void multiply(const Csr<T, I>& m, const T* bias, const Range& rows) const {
    for (int64_t o = rows.begin; o < rows.end; ++o) {
      Vec<T> even[P], odd[P] = {};
      for (Vec<T>& sum : even) sum = broadcast(bias ? bias[o] : T(0));
      I k = m.offsets[o];
      const I end = m.offsets[o + 1];
      for (; k + 2 <= end; k += 2) {
        add(m, k, even);
        add(m, k + 1, odd);
      }
      if (k < end) add(m, k, even);
      for (int v = 0; v < P; ++v) store(y + o * kWidth + v * kLanes<T>, even[v] + odd[v]);
    }
  }
  template <class I>
  VDK_INLINE void add(const Csr<T, I>& m, I k, Vec<T> (&sum)[P]) const {
    const T* const from = x + int64_t(m.index[k]) * kWidth;
    for (int v = 0; v < P; ++v) sum[v] += load(from + v * kLanes<T>) * m.values[k];
  }
};

// y [batch, rows] = x [batch, cols] times the matrix, and bias. `shared` memory is that of `carve_shared`.
template <int P, class T, class I>
void multiply_tiles(const Csr<T, I>& m, int64_t batch, const T* x, const T* bias, T* y, Carver shared,
                    const Parallel& parallel) {
  using Tile = CsrTile<T, P>;
  const int64_t tiles = (batch + Tile::kWidth - 1) / Tile::kWidth, work = (m.nnz + m.cols + m.rows) * batch;
  const int64_t tasks = task_count(work, tiles, parallel), sharing = task_count(work, m.rows, parallel);
  if (tasks == sharing || tiles >= 4 * parallel.threads) {  // tiles enough for all threads
    parallel(tasks, [&](int64_t task) {
      Tile tile;
      const auto carve = [&](Carver carver) {
        tile.carve(carver, m.cols, m.rows);
        return carver.used();
      };
      carve(Carver(scratch(Scratch::kTask, carve(Carver()))));
      const Range mine = part_of(batch, Tile::kWidth, task, tasks);
      for (int64_t row = mine.begin; row < mine.end; row += Tile::kWidth) {
        const int64_t rows = mine.end - row < Tile::kWidth ? mine.end - row : Tile::kWidth;
        tile.bring(x + row * m.cols, m.cols, rows);
        tile.multiply(m, bias, {0, m.rows});
        tile.write(y + row * m.rows, m.rows, {0, m.rows}, rows);
      }
    });
    return;
  }
  Tile tile;
  tile.carve(shared, m.cols, m.rows);
  for (int64_t row = 0; row < batch; row += Tile::kWidth) {
    const int64_t rows = batch - row < Tile::kWidth ? batch - row : Tile::kWidth;
    tile.bring(x + row * m.cols, m.cols, rows);
    parallel(sharing, [&](int64_t task) {
      const Range mine = part_of(m.rows, kLanes<T>, task, sharing);
      tile.multiply(m, bias, mine);
      tile.write(y + row * m.rows, m.rows, mine, rows);
    });
  }
}

template <class T, class I>
void multiply(const Csr<T, I>& m, int64_t batch, const T* x, const T* bias, T* y, const Carver& shared,
              const Parallel& parallel) {
  if (batch <= kLanes<T>) return multiply_tiles<1>(m, batch, x, bias, y, shared, parallel);
  multiply_tiles<2>(m, batch, x, bias, y, shared, parallel);
}
template <class T>
void carve_shared(int64_t cols, int64_t rows, Carver& carver) {
  CsrTile<T, 2> tile;
  tile.carve(carver, cols, rows);
}

// The matrix turned over, in shared memory. Every task counts what stands in each column of its rows, and
// then knows where its own go: in the order of the rows, however many tasks there are.
template <class T, class I>
struct Turned {
  int64_t tasks;
  T* values;
  I *index, *offsets;
  I* counts;  // [tasks, cols]

  // waking threads twice costs as much as 100,000 nonzeros
  Turned(const Csr<T, I>& m, const Parallel& parallel) : tasks(task_count(m.nnz / 8, m.rows, parallel)) {}
  void carve(Carver& carver, const Csr<T, I>& m) {
    values = carver.take<T>(m.nnz);
    index = carver.take<I>(m.nnz);
    offsets = carver.take<I>(m.cols + 1);
    counts = carver.take<I>(tasks * m.cols);
  }
  Csr<T, I> of(const Csr<T, I>& m, const Parallel& parallel) const {
    parallel(tasks, [&](int64_t task) {
      I* const own = counts + task * m.cols;
      for (int64_t c = 0; c < m.cols; ++c) own[c] = 0;
      const Range mine = part_of(m.rows, 1, task, tasks);
      for (I k = m.offsets[mine.begin]; k < m.offsets[mine.end]; ++k) ++own[m.index[k]];
    });
    I total = 0;
    for (int64_t c = 0; c < m.cols; ++c) {
      offsets[c] = total;
      for (int64_t task = 0; task < tasks; ++task) {
        I& count = counts[task * m.cols + c];
        const I begin = total;
        total += count;
        count = begin;
      }
    }
    offsets[m.cols] = total;
    parallel(tasks, [&](int64_t task) {
      I* const place = counts + task * m.cols;
      const Range mine = part_of(m.rows, 1, task, tasks);
      for (int64_t o = mine.begin; o < mine.end; ++o)
        for (I k = m.offsets[o]; k < m.offsets[o + 1]; ++k) {
          const I to = place[m.index[k]]++;
          index[to] = I(o);
          values[to] = m.values[k];
        }
    });
    return {m.cols, m.rows, m.nnz, values, index, offsets};
  }
};

}  // namespace VDK_ISA
}  // namespace vdk
