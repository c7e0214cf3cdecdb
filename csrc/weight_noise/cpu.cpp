// Bound by the normals, not by memory: a run of them is drawn into L1 and used at once.
#include "weight_noise.h"

#include "../common/vmath.h"
#include "../common/workspace.h"
#include "../random/runs.h"

namespace vdk {
namespace VDK_ISA {
namespace {

template <class T>
VDK_INLINE bool is_full(const WeightNoiseArgs<T>& a) {
  return a.log_rows == a.rows && a.log_cols == a.cols;
}

// Part of a row: its noise times exp(log / 2).
template <class T>
struct Run {
  alignas(64) T noise[kRunLength];
  const T* log;  // of each weight, or null
  Vec<T> same;

  VDK_INLINE Run(const WeightNoiseArgs<T>& a, const NoiseGrid& grid, uint64_t group, int64_t first) {
    draw(grid, group, noise);
    const bool by_column = a.log_cols == a.cols && a.log_cols > 1;
    const int64_t row = a.log_rows == 1 ? 0 : first / a.cols;
    log = is_full(a) ? a.log + first : by_column ? a.log + first % a.cols : nullptr;
    same = log ? Vec<T>{} : vexp((Vec<T>{} + a.log[row]) * T(0.5));
  }
  VDK_INLINE Vec<T> scaled(int64_t i, int64_t left) const {
    const Vec<T> e = load(noise + i);
    return e * (log ? vexp(load_first(log + i, left) * T(0.5)) : same);
  }
};

// A run's gradients; dlog is summed into `sum`, a vector or, by columns, as many as the run has.
template <class T>
VDK_INLINE void gradient_run(const WeightNoiseGradient<T>& a, const Run<T>& run, int64_t first, int64_t n,
                             T* dlog, bool add, Vec<T>& sum) {
  for (int64_t i = 0; i < n; i += kLanes<T>) {
    const int64_t left = n - i;
    const Vec<T> g = load_first(a.grad + first + i, left);
    Vec<T> d = g * run.scaled(i, left);
    if (a.of.is_alpha) {
      if (a.dmu) store_first(a.dmu + first + i, g + d, left);
      d *= load_first(a.of.mu + first + i, left);
    }
    d *= T(0.5);
    if (!dlog) {
      for (int lane = int(left); lane < kLanes<T>; ++lane) d[lane] = 0;  // of padding, which may be NaN
      sum += d;
    } else {
      store_first(dlog + i, add ? load_first(dlog + i, left) + d : d, left);
    }
  }
}

// f(group, first, n) for the part [col, end) of a row.
template <class F>
VDK_INLINE void for_part(const NoiseGrid& grid, int64_t cols, int64_t row, int64_t col, int64_t end, F&& f) {
  for (; col < end; col += kRunLength)
    f(uint64_t(row) * grid.groups + uint64_t(col / 4), row * cols + col,
      end - col < kRunLength ? end - col : kRunLength);
}

VDK_INLINE int64_t tasks_of(int64_t rows, int64_t cols, int64_t units, const Parallel& parallel) {
  const int64_t wanted = rows * cols / (4 * kGroupsPerTask) + 1;
  const int64_t most = wanted < parallel.threads ? wanted : parallel.threads;
  return most < units ? most : units;
}

// Sums over rows: every thread has columns of its own, and sums them from the first row to the last.
template <class T>
void gradient_by_column(const WeightNoiseGradient<T>& a, const NoiseGrid& grid, const Parallel& parallel) {
  const int64_t rows = a.of.rows, cols = a.of.cols;
  const int64_t tasks = tasks_of(rows, cols, (cols + kRunLength - 1) / kRunLength, parallel);
  parallel(tasks, [&](int64_t task) {
    const Range mine = part_of(cols, kRunLength, task, tasks);
    for (int64_t row = 0; row < rows; ++row)
      for_part(grid, cols, row, mine.begin, mine.end, [&](uint64_t group, int64_t first, int64_t n) {
        Vec<T> none{};
        gradient_run(a, Run<T>(a.of, grid, group, first), first, n, a.dlog + (first - row * cols), row > 0,
                     none);
      });
  });
}

template <class T>
void gradient_by_row(const WeightNoiseGradient<T>& a, const NoiseGrid& grid, const Parallel& parallel) {
  const int64_t rows = a.of.rows, cols = a.of.cols;
  double* const sums = static_cast<double*>(scratch(Scratch::kShared, size_t(rows) * sizeof(double)));
  const int64_t tasks = tasks_of(rows, cols, rows, parallel);
  parallel(tasks, [&](int64_t task) {
    const Range mine = part_of(rows, 1, task, tasks);
    for (int64_t row = mine.begin; row < mine.end; ++row) {
      double total = 0;
      for_part(grid, cols, row, 0, cols, [&](uint64_t group, int64_t first, int64_t n) {
        Vec<T> sum{};
        gradient_run(a, Run<T>(a.of, grid, group, first), first, n, static_cast<T*>(nullptr), false, sum);
        total += double(sum_lanes<T>(sum));
      });
      sums[row] = total;
    }
  });
  double total = 0;
  for (int64_t row = 0; row < rows; ++row) {
    total += sums[row];
    if (a.of.log_rows == rows) a.dlog[row] = T(sums[row]);
  }
  if (a.of.log_rows != rows) a.dlog[0] = T(total);
}

template <class T>
void sample_all(const WeightNoiseArgs<T>& a, T* out, const Parallel& parallel) {
  const NoiseGrid grid(a.seed, a.cols);
  advise_huge_pages(out, size_t(a.rows * a.cols) * sizeof(T));
  const bool alike = is_full(a) || a.log_rows * a.log_cols == 1;
  for_runs(grid, a.rows, a.cols, alike, parallel, [&](uint64_t group, int64_t first, int64_t n) {
    const Run<T> run(a, grid, group, first);
    for (int64_t i = 0; i < n; i += kLanes<T>) {
      const Vec<T> mu = load_first(a.mu + first + i, n - i), e = run.scaled(i, n - i);
      store_first(out + first + i, mu + (a.is_alpha ? mu * e : e), n - i);
    }
  });
}

template <class T>
void gradient_of_all(const WeightNoiseGradient<T>& a, const Parallel& parallel) {
  const NoiseGrid grid(a.of.seed, a.of.cols);
  if (a.of.rows * a.of.cols == 0) {
    for (int64_t i = 0; i < a.of.log_rows * a.of.log_cols; ++i) a.dlog[i] = 0;
    return;
  }
  if (a.dmu) advise_huge_pages(a.dmu, size_t(a.of.rows * a.of.cols) * sizeof(T));
  if (!is_full(a.of))
    return a.of.log_cols == a.of.cols && a.of.log_cols > 1 ? gradient_by_column(a, grid, parallel)
                                                           : gradient_by_row(a, grid, parallel);
  advise_huge_pages(a.dlog, size_t(a.of.rows * a.of.cols) * sizeof(T));
  for_runs(grid, a.of.rows, a.of.cols, true, parallel, [&](uint64_t group, int64_t first, int64_t n) {
    Vec<T> none{};
    gradient_run(a, Run<T>(a.of, grid, group, first), first, n, a.dlog + first, false, none);
  });
}

}  // namespace

void weight_noise(const WeightNoiseArgs<float>& args, float* out, const Parallel& parallel) {
  sample_all(args, out, parallel);
}
void weight_noise(const WeightNoiseArgs<double>& args, double* out, const Parallel& parallel) {
  sample_all(args, out, parallel);
}
void weight_noise_grad(const WeightNoiseGradient<float>& args, const Parallel& parallel) {
  gradient_of_all(args, parallel);
}
void weight_noise_grad(const WeightNoiseGradient<double>& args, const Parallel& parallel) {
  gradient_of_all(args, parallel);
}

}  // namespace VDK_ISA
}  // namespace vdk
