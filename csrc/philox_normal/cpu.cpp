// Lanes are consecutive groups of one row; four vectors of words are woven back into 4 * lanes elements.
#include "philox_normal.h"

#include "../common/workspace.h"
#include "../random/normal.h"

namespace vdk {
namespace VDK_ISA {
namespace {

constexpr int kGroups = kLanes<float>;  // groups drawn at a time
constexpr int64_t kGrain = 1 << 14;     // groups worth a thread

VDK_INLINE void draw(const NoiseGrid& grid, uint64_t group, int64_t* out) {
  VecU words[4];
  words_of_groups(grid, group, 1, words);
  for (int i = 0; i < kGroups; ++i)
    for (int j = 0; j < 4; ++j) out[4 * i + j] = words[j][i];
}
VDK_INLINE void draw(const NoiseGrid& grid, uint64_t group, float* out) {
  VecU words[4];
  VecF z[4];
  words_of_groups(grid, group, 1, words);
  box_muller(words, z);
  weave(z, out);
}
VDK_INLINE void draw(const NoiseGrid& grid, uint64_t group, double* out) {
  for (int i = 0; i < kGroups; ++i) {
    uint32_t words[4] = {uint32_t(group + i), uint32_t((group + i) >> 32), 0, 0};
    philox4x32(words, grid.k0, grid.k1);
    box_muller_f64(words, out + 4 * i);
  }
}

template <class T>
void fill(T* out, int64_t rows, int64_t cols, uint64_t seed, const Parallel& parallel) {
  const NoiseGrid grid(seed, cols);
  advise_huge_pages(out, size_t(rows * cols) * sizeof(T));
  const int64_t groups = int64_t(grid.groups);
  // without padding the whole tensor is one row
  const bool flat = cols % 4 == 0;
  const int64_t n_rows = flat ? 1 : rows, row_groups = flat ? rows * groups : groups,
                row_cols = flat ? rows * cols : cols;
  const int64_t total = rows * groups;
  const int64_t tasks = total / kGrain + 1 < parallel.threads ? total / kGrain + 1 : parallel.threads;
  parallel(tasks, [&](int64_t task) {
    const Range mine = part_of(total, kGroups, task, tasks);
    for (int64_t row = mine.begin / (row_groups ? row_groups : 1); row < n_rows; ++row) {
      const int64_t first = row * row_groups, last = first + row_groups;
      int64_t g = first > mine.begin ? first : mine.begin;
      const int64_t end = last < mine.end ? last : mine.end;
      if (g >= mine.end) break;
      for (; g < end; g += kGroups) {
        const int64_t col = (g - first) * 4, left = row_cols - col, run = (end - g) * 4;
        const int64_t n = left < run ? left : run;
        T* const to = out + row * row_cols + col;
        if (n >= 4 * kGroups) {
          draw(grid, uint64_t(g), to);
        } else {
          T ragged[4 * kGroups];
          draw(grid, uint64_t(g), ragged);
          for (int64_t i = 0; i < n; ++i) to[i] = ragged[i];
        }
      }
    }
  });
}

}  // namespace

void philox_bits(int64_t* out, int64_t rows, int64_t cols, uint64_t seed, const Parallel& parallel) {
  fill(out, rows, cols, seed, parallel);
}
void philox_normal(float* out, int64_t rows, int64_t cols, uint64_t seed, const Parallel& parallel) {
  fill(out, rows, cols, seed, parallel);
}
void philox_normal(double* out, int64_t rows, int64_t cols, uint64_t seed, const Parallel& parallel) {
  fill(out, rows, cols, seed, parallel);
}

}  // namespace VDK_ISA
}  // namespace vdk
