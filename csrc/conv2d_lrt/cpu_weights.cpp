// One pass over the weights each way: mean, sigma^2 and the KL; and from the gradients of mean and sigma^2 to
// those of mu and log. Blocks of fixed size are summed in order, so the KL does not depend on the threads.
#include <limits>

#include "../common/workspace.h"
#include "../kl/terms.h"
#include "conv2d_lrt.h"

namespace vdk {
namespace VDK_ISA {
namespace {

constexpr int64_t kBlocksPerThread = 16;  // fewer are not worth waking a thread

template <class F>
void for_blocks(int64_t count, const Parallel& parallel, F&& f) {
  const int64_t blocks = (count + kKlBlock - 1) / kKlBlock, wanted = blocks / kBlocksPerThread + 1;
  const int64_t tasks = wanted < parallel.threads ? wanted : parallel.threads;
  parallel(tasks, [&](int64_t task) {
    const Range mine = part_of(blocks, 1, task, tasks);
    for (int64_t b = mine.begin; b < mine.end; ++b) {
      const int64_t i = b * kKlBlock;
      f(b, i, count - i < kKlBlock ? count - i : kKlBlock);
    }
  });
}

// `v`, and 0 where this mean is clipped; exp_log is sigma^2 or alpha.
template <class T>
VDK_INLINE Vec<T> unless_clipped(const ConvWeights<T>& w, Vec<T> v, Vec<T> mu, Vec<T> exp_log) {
  if (w.clip == std::numeric_limits<T>::infinity()) return v;
  const Vec<T> limit = w.is_alpha ? Vec<T>{} + w.clip : (mu * mu + T(kKlEps)) * w.clip;
  return exp_log >= limit ? Vec<T>{} : v;
}

template <class T>
double values(const ConvWeights<T>& w, T* mean, T* sigma2, const Parallel& parallel) {
  const int64_t blocks = (w.count + kKlBlock - 1) / kKlBlock;
  double* const kl = static_cast<double*>(scratch(Scratch::kShared, size_t(blocks) * sizeof(double)));
  for_blocks(w.count, parallel, [&](int64_t b, int64_t i0, int64_t n) {
    alignas(64) T exp_log[kKlBlock];
    const T *const mu = w.mu + i0, *const log = w.log + i0;
    for (int64_t i = 0; i < n; i += kLanes<T>) {
      const Vec<T> m = load_first(mu + i, n - i), e = vexp(load_first(log + i, n - i));
      store(exp_log + i, e);
      if (mean) store_first(mean + i0 + i, unless_clipped(w, m, m, e), n - i);
      store_first(sigma2 + i0 + i, w.is_alpha ? e * m * m : e, n - i);
    }
    kl[b] = w.prior == Prior::kNone ? 0 : kl_value(w.prior, w.is_alpha ? nullptr : mu, log, n, exp_log);
  });
  double total = 0;
  for (int64_t b = 0; b < blocks; ++b) total += kl[b];
  return total;
}

template <class T>
void gradients(const ConvWeights<T>& w, T kl_scale, T* dmu, T* dlog, const Parallel& parallel) {
  for_blocks(w.count, parallel, [&](int64_t, int64_t i0, int64_t n) {
    using V = Vec<T>;
    const T *const mu = w.mu + i0, *const log = w.log + i0;
    const auto write = [&](int64_t i, int64_t left, V m, V e, V kl_mu, V kl_log)
                           __attribute__((always_inline)) {
                             const V ds = load_first(dlog + i0 + i, left);  // of sigma^2
                             V dm = unless_clipped(w, load_first(dmu + i0 + i, left), m, e) + kl_mu;
                             if (w.is_alpha) dm += ds * e * m * T(2);
                             store_first(dmu + i0 + i, dm, left);
                             store_first(dlog + i0 + i, ds * (w.is_alpha ? e * m * m : e) + kl_log, left);
                           };
    if (w.prior == Prior::kNone) {
      for_vectors<T>(n, [&](int64_t i, int64_t left) __attribute__((always_inline)) {
        write(i, left, load_first(mu + i, left), vexp(load_first(log + i, left)), V{}, V{});
      });
      return;
    }
    alignas(64) T exp_log[kKlBlock];
    const auto add_kl = [&](int64_t i, int64_t left, const Weight<V>& weight, V slope,
                            V pull) __attribute__((always_inline)) {
      const V m = load_first(mu + i, left);
      write(i, left, m, weight.s, w.is_alpha ? V{} : m * pull * kl_scale, slope * kl_scale);
    };
    kl_block<KlWants::kSlopes>(w.prior, w.is_alpha ? nullptr : mu, log, n, exp_log, false, add_kl);
  });
}

}  // namespace

double conv2d_lrt_weights(const ConvWeights<float>& w, float* mean, float* sigma2, const Parallel& p) {
  return values(w, mean, sigma2, p);
}
double conv2d_lrt_weights(const ConvWeights<double>& w, double* mean, double* sigma2, const Parallel& p) {
  return values(w, mean, sigma2, p);
}
void conv2d_lrt_weights_backward(const ConvWeights<float>& w, float kl_scale, float* dmu, float* dlog,
                                 const Parallel& p) {
  gradients(w, kl_scale, dmu, dlog, p);
}
void conv2d_lrt_weights_backward(const ConvWeights<double>& w, double kl_scale, double* dmu, double* dlog,
                                 const Parallel& p) {
  gradients(w, kl_scale, dmu, dlog, p);
}

}  // namespace VDK_ISA
}  // namespace vdk
