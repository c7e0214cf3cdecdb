// KL on a GPU. All pointers are device memory of any alignment; nothing is read back to the host.
#pragma once
#include <cstdint>

#include "../cuda/types.h"
#include "prior.h"

namespace vdk {
namespace cuda {

template <class E>
struct KlArgs {
  using T = ComputeOf<E>;
  const E* mu;   // [n], or null where log is log_alpha
  const E* log;  // [n], log_sigma2 or log_alpha
  int64_t n;
  Prior prior;
  const T* grad;  // [1], scale of the gradients
  E* dmu;         // [n] or null
  E* dlog;        // [n]; null for the value alone
  T* value;       // [1]
  T* workspace;   // [kl_workspace(n)]
};

int64_t kl_workspace(int64_t n);
void kl(const KlArgs<float>& args, void* stream);
void kl(const KlArgs<double>& args, void* stream);
void kl(const KlArgs<Float16>& args, void* stream);
void kl(const KlArgs<BFloat16>& args, void* stream);

}  // namespace cuda
}  // namespace vdk
