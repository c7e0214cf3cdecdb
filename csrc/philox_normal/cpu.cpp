#include "philox_normal.h"

#include "../common/workspace.h"
#include "../random/runs.h"

namespace vdk {
namespace VDK_ISA {
namespace {

template <class Drawn, class T>
void fill(T* out, int64_t rows, int64_t cols, uint64_t seed, const Parallel& parallel) {
  const NoiseGrid grid(seed, cols);
  advise_huge_pages(out, size_t(rows * cols) * sizeof(T));
  for_runs(grid, rows, cols, true, parallel, [&](uint64_t group, int64_t first, int64_t n) {
    if constexpr (sizeof(Drawn) == sizeof(T))
      if (n == kRunLength) return draw(grid, group, out + first);
    Drawn drawn[kRunLength];
    draw(grid, group, drawn);
    for (int64_t i = 0; i < n; ++i) out[first + i] = T(drawn[i]);
  });
}

}  // namespace

void philox_bits(int64_t* out, int64_t rows, int64_t cols, uint64_t seed, const Parallel& parallel) {
  fill<uint32_t>(out, rows, cols, seed, parallel);
}
void philox_normal(float* out, int64_t rows, int64_t cols, uint64_t seed, const Parallel& parallel) {
  fill<float>(out, rows, cols, seed, parallel);
}
void philox_normal(double* out, int64_t rows, int64_t cols, uint64_t seed, const Parallel& parallel) {
  fill<double>(out, rows, cols, seed, parallel);
}

}  // namespace VDK_ISA
}  // namespace vdk
