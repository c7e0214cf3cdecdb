// KL of a factorised Gaussian posterior over n weights: value alone, or with both gradients in one pass.
#pragma once
#include "../common/isa.h"
#include "../common/parallel.h"
#include "prior.h"

namespace vdk {

template <class T>
struct KlArgs {
  const T* mu;   // [n], or null where log is log_alpha
  const T* log;  // [n], log_sigma2 or log_alpha
  int64_t n;
  Prior prior;
  T scale;  // of the gradients
  T* dmu;   // [n] or null
  T* dlog;  // [n]; null for the value alone
};

VDK_DECLARE_KERNEL(double kl(const KlArgs<float>& args, const Parallel& parallel);
                   double kl(const KlArgs<double>& args, const Parallel& parallel);)
}  // namespace vdk
