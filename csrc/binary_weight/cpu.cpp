// Row by row, twice: sums, then what is made of them while the row is in cache.
#include "binary_weight.h"

#include "../common/simd.h"

namespace vdk {
namespace VDK_ISA {
namespace {

constexpr int64_t kGrain = 1 << 14;  // weights worth a thread

template <class V>
VDK_INLINE V magnitude(V w) {
  return w < V{} ? -w : w;
}

// s where w >= 0, -s where w < 0, NaN where w is.
template <class V>
VDK_INLINE V with_sign(V s, V w) {
  return w >= V{} ? s : w < V{} ? -s : w;
}

template <class T>
void row(const BinaryWeightArgs<T>& a, int64_t r) {
  using V = Vec<T>;
  const T *w = a.w + r * a.cols, *g = a.grad ? a.grad + r * a.cols : nullptr;
  T* const out = a.out + r * a.cols;
  V sizes{}, products{};
  for (int64_t i = 0; i < a.cols; i += kLanes<T>) {
    const V x = load_first(w + i, a.cols - i);
    sizes += magnitude(x);
    if (g) products += with_sign(load_first(g + i, a.cols - i), x);
  }
  const T alpha = sum_lanes<T>(sizes) / T(a.cols), scale = sum_lanes<T>(products) / T(a.cols);
  if (!g) a.alpha[r] = alpha;
  for (int64_t i = 0; i < a.cols; i += kLanes<T>) {
    const V x = load_first(w + i, a.cols - i);
    V result = with_sign(filled<V>(alpha), x);
    if (g) {
      const V dy = load_first(g + i, a.cols - i);
      const V through_sign = magnitude(x) <= V{} + 1 ? dy * alpha : V{};
      result = through_sign + (a.corrected ? with_sign(filled<V>(scale), x) : dy / T(a.cols));
    }
    store_first(out + i, result, a.cols - i);
  }
}

template <class T>
void rows(const BinaryWeightArgs<T>& a, const Parallel& parallel) {
  const int64_t wanted = a.rows * a.cols / kGrain + 1;
  const int64_t most = wanted < parallel.threads ? wanted : parallel.threads;
  const int64_t tasks = most < a.rows ? most : a.rows;
  parallel(tasks, [&](int64_t task) {
    const Range mine = part_of(a.rows, 1, task, tasks);
    for (int64_t r = mine.begin; r < mine.end; ++r) row(a, r);
  });
}

}  // namespace

void binary_weight(const BinaryWeightArgs<float>& args, const Parallel& parallel) { rows(args, parallel); }
void binary_weight(const BinaryWeightArgs<double>& args, const Parallel& parallel) { rows(args, parallel); }

}  // namespace VDK_ISA
}  // namespace vdk
