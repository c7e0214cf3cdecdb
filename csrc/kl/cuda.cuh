// Memory-bound: mu and log are read once, gradients written once, 16 bytes at a time. A block sums one tile
// of fixed size, so the value does not depend on the device.
#pragma once
#include "../cuda/reduce.cuh"
#include "../cuda/vector.cuh"
#include "cuda.h"
#include "formulas.h"

namespace vdk {
namespace cuda {

constexpr int kKlThreads = 256;
// 16 bytes of each operand in flight a thread, or 32: four double or eight of the others
template <class E>
constexpr int kKlVectors = sizeof(E) == 2 ? 1 : 2;
template <class E>
constexpr int64_t kKlTile = int64_t(kKlThreads) * kKlVectors<E> * kPer16<E>;

template <class E>
struct KlKernelArgs {
  KlArgs<E> of;
  bool wide;
  NormalPrior<ComputeOf<E>> normal;
  ComputeOf<E>* partial;  // [blocks]
};

// KL and dKL/dla of one weight. `mean`: log is log_sigma2, else log_alpha, and mu is not looked at.
template <class T, Prior::Kind kPrior>
VDK_DEVICE KlTerms<T> kl_of_weight(T mu, T log, bool mean, const NormalPrior<T>& normal) {
  if constexpr (kPrior == Prior::kNormal)
    return kl_terms<T, kPrior>(Weight<T>{mu * mu, vexp(log), log}, normal);
  const T a = mean ? mu * mu + T(kKlEps) : T(1);
  const Weight<T> w{a, vexp(log), mean ? log - vlog(a) : log};
  KlTerms<T> terms = kl_terms<T, kPrior>(w, normal);
  if constexpr (kPrior == Prior::kLogUniform) {
    const KlTerms<T> bump = kl_bump<T>(w.la);
    terms.value += bump.value;
    terms.slope += bump.slope;
  }
  return terms;
}

template <class E, Prior::Kind kPrior, bool kGrad>
VDK_KERNEL void __launch_bounds__(kKlThreads) kl_kernel(KlKernelArgs<E> args) {
  using T = ComputeOf<E>;
  constexpr int kVector = kPer16<E>, kVectors = kKlVectors<E>;
  const KlArgs<E>& of = args.of;
  const bool mean = of.mu != nullptr;
  const int64_t first = int64_t(blockIdx.x) * kKlTile<E> + int64_t(threadIdx.x) * kVector;
  constexpr int64_t kStride = int64_t(kKlThreads) * kVector;
  E mu[kVectors][kVector], log[kVectors][kVector];
  VDK_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    load_vector(log[v], of.log, first + v * kStride, of.n, args.wide, stored<E>(0));
    if (mean) load_vector(mu[v], of.mu, first + v * kStride, of.n, args.wide, stored<E>(1));
  }
  T scale = 0;
  if constexpr (kGrad) scale = load_global<T>(of.grad);
  T sum = 0;
  VDK_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    const int64_t i = first + v * kStride;
    VDK_UNROLL
    for (int j = 0; j < kVector; ++j) {
      const T m = mean ? computed(mu[v][j]) : T(0);
      const KlTerms<T> terms = kl_of_weight<T, kPrior>(m, computed(log[v][j]), mean, args.normal);
      if (i + j < of.n) sum += terms.value;
      if constexpr (kGrad) {
        const T slope = scale * terms.slope;
        log[v][j] = stored<E>(slope);
        if constexpr (kPrior == Prior::kNormal)
          mu[v][j] = stored<E>(scale * args.normal.precision * m);
        else
          mu[v][j] = stored<E>(slope * (m * T(-2) * reciprocal(m * m + T(kKlEps))));
      }
    }
    if constexpr (kGrad) {
      store_vector(of.dlog, log[v], i, of.n, args.wide);
      if (mean) store_vector(of.dmu, mu[v], i, of.n, args.wide);
    }
  }
  sum = block_sum<kKlThreads>(sum);
  if (threadIdx.x == 0) store_global(args.partial + blockIdx.x, sum);
}

}  // namespace cuda
}  // namespace vdk
