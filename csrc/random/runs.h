// Noise of a [rows, cols] tensor in the order of memory: groups of one row, a vector of them at a time.
#pragma once
#include "../common/parallel.h"
#include "normal.h"

namespace vdk {
namespace VDK_ISA {

constexpr int kRunGroups = kLanes<float>;    // groups drawn at a time
constexpr int kRunLength = 4 * kRunGroups;   // elements
constexpr int64_t kGroupsPerTask = 1 << 14;  // fewer are not worth waking a thread

// The bits or normals of kRunLength elements.
VDK_INLINE void draw(const NoiseGrid& grid, uint64_t group, uint32_t* out) {
  VecU words[4];
  words_of_groups(grid, group, 1, words);
  weave(words, out);
}
VDK_INLINE void draw(const NoiseGrid& grid, uint64_t group, float* out) {
  VecU words[4];
  VecF z[4];
  words_of_groups(grid, group, 1, words);
  box_muller(words, z);
  weave(z, out);
}
VDK_INLINE void draw(const NoiseGrid& grid, uint64_t group, double* out) {
  for (int i = 0; i < kRunGroups; ++i) {
    uint32_t words[4] = {uint32_t(group + i), uint32_t((group + i) >> 32), 0, 0};
    philox4x32(words, grid.k0, grid.k1);
    box_muller_f64(words, out + 4 * i);
  }
}

// f(group, first, n) for the elements [first, first + n) of a [rows, cols] tensor, run by run: n is at most
// kRunLength, and `group` is that of the first of them. `alike`: a run may go on into the next row.
template <class F>
void for_runs(const NoiseGrid& grid, int64_t rows, int64_t cols, bool alike, const Parallel& parallel,
              F&& f) {
  const int64_t groups = int64_t(grid.groups), total = rows * groups;
  if (total == 0) return;
  // without padding the whole tensor is one row
  const bool flat = alike && cols % 4 == 0;
  const int64_t n_rows = flat ? 1 : rows, row_groups = flat ? total : groups,
                row_cols = flat ? rows * cols : cols;
  const int64_t wanted = total / kGroupsPerTask + 1;
  const int64_t tasks = wanted < parallel.threads ? wanted : parallel.threads;
  parallel(tasks, [&](int64_t task) {
    const Range mine = part_of(total, kRunGroups, task, tasks);
    for (int64_t row = mine.begin / row_groups; row < n_rows; ++row) {
      const int64_t first = row * row_groups, last = first + row_groups;
      if (first >= mine.end) break;
      const int64_t end = last < mine.end ? last : mine.end;
      for (int64_t g = first > mine.begin ? first : mine.begin; g < end; g += kRunGroups) {
        const int64_t col = (g - first) * 4, left = row_cols - col, run = (end - g) * 4;
        const int64_t most = left < run ? left : run;
        f(uint64_t(g), row * row_cols + col, most < kRunLength ? most : kRunLength);
      }
    }
  });
}

}  // namespace VDK_ISA
}  // namespace vdk
