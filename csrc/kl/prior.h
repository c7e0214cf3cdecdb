// The priors, in the order of vdropkern/ops/kl/reference.py.
#pragma once
#include "../common/scalar.h"

namespace vdk {

struct Prior {
  enum Kind : int { kNone = -1, kLogUniform = 0, kKingma = 1, kExact = 2, kArd = 3, kNormal = 4 };
  Kind kind;
  double precision, log_precision;  // of kNormal: 1 / s^2 of N(0, s^2), and its logarithm

  constexpr Prior(Kind k = kNone, double p = 1, double log_p = 0)
      : kind(k), precision(p), log_precision(log_p) {}
  VDK_HD constexpr operator Kind() const { return kind; }
};

// What kernels need of a normal prior, in the type they compute in.
template <class T>
struct NormalPrior {
  T precision, log_precision;
};
template <class T>
VDK_HD NormalPrior<T> normal_prior(const Prior& prior) {
  return {T(prior.precision), T(prior.log_precision)};
}

}  // namespace vdk
