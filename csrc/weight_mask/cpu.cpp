// Row by row: its magnitudes into cache, their k-th smallest, then the row once more with the noise.
#include "weight_mask.h"

#include "../common/workspace.h"
#include "../random/runs.h"
#include "select.h"

namespace vdk {
namespace VDK_ISA {
namespace {

constexpr int64_t kGrain = 1 << 14;  // weights worth a thread

// f(row) for all rows, shared among threads.
template <class F>
void for_rows(int64_t rows, int64_t cols, const Parallel& parallel, F&& f) {
  const int64_t wanted = rows * cols / kGrain + 1;
  const int64_t most = wanted < parallel.threads ? wanted : parallel.threads;
  const int64_t tasks = most < rows ? most : rows;
  parallel(tasks, [&](int64_t task) {
    const Range mine = part_of(rows, 1, task, tasks);
    for (int64_t row = mine.begin; row < mine.end; ++row) f(row);
  });
}

// int(gamma n), of a gamma that may be short of the number meant by a rounding of float.
VDK_INLINE int64_t index_of(double gamma, int64_t n) {
  const double product = gamma * double(n) * (1 + 0x1p-22);
  return product >= double(n) ? n : product > 0 ? int64_t(product) : 0;
}

template <class T>
double norm_of(const T* w, int64_t n) {
  double sums[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (int j = 0; j < 8; ++j) sums[j] += double(w[i + j]) * double(w[i + j]);
  for (; i < n; ++i) sums[0] += double(w[i]) * double(w[i]);
  return sqrt(((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7])));
}

template <class T>
void copy(const T* from, T* to, int64_t n) {
  __builtin_memcpy(to, from, size_t(n) * sizeof(T));
}

// Whether the one word a row has in a unit's mask is below `below`.
VDK_INLINE bool is_unit_hit(uint64_t seed, int64_t row, uint64_t below) {
  uint32_t words[4] = {uint32_t(row / 4), uint32_t(uint64_t(row / 4) >> 32), 0, 0};
  philox4x32(words, uint32_t(seed), uint32_t(seed >> 32));
  return words[row % 4] < below;
}

template <class T>
void apply_to_row(const WeightMaskArgs<T>& a, const NoiseGrid& grid, int64_t row) {
  const T threshold = a.threshold[row];
  const T *w = a.w + row * a.cols, *from = a.from + row * a.cols;
  T* const out = a.out + row * a.cols;
  if (!(threshold > 0) || a.below == 0) return copy(from, out, a.cols);
  bool always = a.below > 0xffffffffu;
  if (a.granularity == Granularity::kUnit) {
    if (!is_unit_hit(a.seed, row, a.below)) return copy(from, out, a.cols);
    always = true;
  }
  const uint32_t below = uint32_t(a.below);
  uint32_t bits[kRunLength];
  for (int64_t g = 0, i = 0; i < a.cols; g += kRunGroups, i += kRunLength) {
    const int64_t n = a.cols - i < kRunLength ? a.cols - i : kRunLength;
    if (always) {
      for (int64_t j = i; j < i + n; ++j) out[j] = (w[j] < threshold) & (-w[j] < threshold) ? T(0) : from[j];
      continue;
    }
    draw(grid, uint64_t(row) * grid.groups + uint64_t(g), bits);
    const auto mask = [&](int64_t count) __attribute__((always_inline)) {
      for (int64_t j = 0; j < count; ++j) {
        const bool candidate = (w[i + j] < threshold) & (-w[i + j] < threshold);
        out[i + j] = candidate & (bits[j] < below) ? T(0) : from[i + j];
      }
    };
    n == kRunLength ? mask(kRunLength) : mask(n);
  }
}

template <class T>
void apply_to_all(const WeightMaskArgs<T>& a, const Parallel& parallel) {
  advise_huge_pages(a.out, size_t(a.rows * a.cols) * sizeof(T));
  const NoiseGrid grid(a.seed, a.cols);
  for_rows(a.rows, a.cols, parallel, [&](int64_t row) { apply_to_row(a, grid, row); });
}

// Thresholds of units: all or nothing, by the norms' own threshold.
template <class T>
void unit_thresholds(const WeightMaskArgs<T>& a, const Parallel& parallel) {
  T* const norms =
      static_cast<T*>(scratch(Scratch::kShared, size_t(Magnitudes<T>::places(a.rows)) * sizeof(T)));
  for_rows(a.rows, a.cols, parallel,
           [&](int64_t row) { a.threshold[row] = T(norm_of(a.w + row * a.cols, a.cols)); });
  Magnitudes<T> all;
  all.set(a.threshold, norms, a.rows);
  const T bound = kth_smallest(all, index_of(a.gamma, a.rows));
  for (int64_t row = 0; row < a.rows; ++row)
    a.threshold[row] = norms[row] < bound ? std::numeric_limits<T>::infinity() : T(0);
}

template <class T>
void mask_all(const WeightMaskArgs<T>& a, const Parallel& parallel) {
  if (a.granularity != Granularity::kWeight) {
    unit_thresholds(a, parallel);
    return apply_to_all(a, parallel);
  }
  advise_huge_pages(a.out, size_t(a.rows * a.cols) * sizeof(T));
  const NoiseGrid grid(a.seed, a.cols);
  const int64_t k = index_of(a.gamma, a.cols);
  for_rows(a.rows, a.cols, parallel, [&](int64_t row) {
    Magnitudes<T> all;
    void* const own = scratch(Scratch::kTask, size_t(Magnitudes<T>::places(a.cols)) * sizeof(T));
    all.set(a.w + row * a.cols, static_cast<T*>(own), a.cols);
    a.threshold[row] = kth_smallest(all, k);
    apply_to_row(a, grid, row);
  });
}

}  // namespace

void weight_mask(const WeightMaskArgs<float>& args, const Parallel& p) { mask_all(args, p); }
void weight_mask(const WeightMaskArgs<double>& args, const Parallel& p) { mask_all(args, p); }
void apply_mask(const WeightMaskArgs<float>& args, const Parallel& p) { apply_to_all(args, p); }
void apply_mask(const WeightMaskArgs<double>& args, const Parallel& p) { apply_to_all(args, p); }

}  // namespace VDK_ISA
}  // namespace vdk
