// Memory-bound: mu and log are read once, gradients written once. Blocks of fixed size are summed in order,
// so the value does not depend on the number of threads.
#include "kl.h"

#include "../common/workspace.h"
#include "terms.h"

namespace vdk {
namespace VDK_ISA {
namespace {

constexpr int64_t kBlocksPerThread = 16;  // fewer are not worth waking a thread

// One block: its KL, and where gradients are wanted, these.
template <class T>
double kl_of(const KlArgs<T>& a, int64_t i, int64_t n) {
  const T* const mu = a.mu ? a.mu + i : nullptr;
  if (!a.dlog) return kl_value(a.prior, mu, a.log + i, n);
  using V = Vec<T>;
  alignas(64) T exp_log[kKlBlock];
  T *const dmu = mu ? a.dmu + i : nullptr, *const dlog = a.dlog + i;
  const auto write = [&](int64_t j, int64_t left, const Weight<V>&, V slope, V pull)
                         __attribute__((always_inline)) {
                           if (mu) store_first(dmu + j, load_first(mu + j, left) * pull * a.scale, left);
                           store_first(dlog + j, slope * a.scale, left);
                         };
  return kl_block<KlWants::kBoth>(a.prior, mu, a.log + i, n, exp_log, false, write);
}

template <class T>
double kl_all(const KlArgs<T>& a, const Parallel& parallel) {
  const int64_t blocks = (a.n + kKlBlock - 1) / kKlBlock;
  double* const partial = static_cast<double*>(scratch(Scratch::kShared, size_t(blocks) * sizeof(double)));
  if (a.dlog) {
    advise_huge_pages(a.dlog, size_t(a.n) * sizeof(T));
    if (a.dmu) advise_huge_pages(a.dmu, size_t(a.n) * sizeof(T));
  }
  const int64_t tasks =
      blocks / kBlocksPerThread + 1 < parallel.threads ? blocks / kBlocksPerThread + 1 : parallel.threads;
  parallel(tasks, [&](int64_t task) {
    const Range mine = part_of(blocks, 1, task, tasks);
    for (int64_t b = mine.begin; b < mine.end; ++b) {
      const int64_t i = b * kKlBlock;
      partial[b] = kl_of(a, i, a.n - i < kKlBlock ? a.n - i : kKlBlock);
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
