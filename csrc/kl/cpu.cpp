// Memory-bound: mu and log are read once, gradients written once. Blocks of fixed size are summed in order,
// so the value does not depend on the number of threads.
#include "kl.h"

#include "../common/workspace.h"
#include "terms.h"

namespace vdk {
namespace VDK_ISA {
namespace {

template <class T>
double kl_all(const KlArgs<T>& a, const Parallel& parallel) {
  constexpr int64_t kBlock = 8192;
  const int64_t blocks = (a.n + kBlock - 1) / kBlock;
  double* const partial = static_cast<double*>(scratch(Scratch::kShared, size_t(blocks) * sizeof(double)));
  if (a.dlog) {
    advise_huge_pages(a.dlog, size_t(a.n) * sizeof(T));
    if (a.dmu) advise_huge_pages(a.dmu, size_t(a.n) * sizeof(T));
  }
  const int64_t tasks = blocks < parallel.threads ? blocks : parallel.threads;
  parallel(tasks, [&](int64_t task) {
    const Range mine = part_of(blocks, 1, task, tasks);
    for (int64_t b = mine.begin; b < mine.end; ++b) {
      const int64_t i = b * kBlock, n = a.n - i < kBlock ? a.n - i : kBlock;
      const T* const mu = a.mu ? a.mu + i : nullptr;
      partial[b] = a.dlog ? kl_run<T, true>(a.prior, mu, a.log + i, n, a.scale, a.dmu ? a.dmu + i : nullptr,
                                            a.dlog + i, false)
                          : kl_run<T, false>(a.prior, mu, a.log + i, n, a.scale, nullptr, nullptr, false);
    }
  });
  double total = 0;
  for (int64_t b = 0; b < blocks; ++b) total += partial[b];
  return total;
}

}  // namespace

double kl(const KlArgs<float>& args, const Parallel& parallel) { return kl_all(args, parallel); }
double kl(const KlArgs<double>& args, const Parallel& parallel) { return kl_all(args, parallel); }

}  // namespace VDK_ISA
}  // namespace vdk
