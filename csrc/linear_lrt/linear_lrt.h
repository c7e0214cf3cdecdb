// The local reparameterisation of a linear layer, forward and backward. All matrices are row-major and dense.
#pragma once
#include "../common/isa.h"
#include "../common/parallel.h"
#include "../kl/prior.h"

namespace vdk {

// sigma^2 = exp(log) or exp(log) mu^2. `log` is [out, in], or broadcast along rows or columns of it. In the
// mean product, but not in sigma^2, mu counts as 0 where alpha >= clip.
template <class T>
struct LrtWeights {
  const T* mu;   // [out, in]
  const T* log;  // log_sigma2 or log_alpha
  bool is_alpha;
  int64_t log_rows, log_cols;  // 1 or out, 1 or in
  int64_t out, in;
  T clip;  // infinite: no mean is clipped
};

template <class T>
struct LinearLrtForward {
  const T* x;  // [batch, in]
  LrtWeights<T> w;
  const T* bias;  // [out] or null
  T* y;           // [batch, out]
  T* std;         // [batch, out]
  int64_t batch;
  uint64_t seed;
  T eps;
  Prior prior;
  bool variance_in_pairs;  // the variance product of bfloat16, where the CPU multiplies that
};

template <class T>
struct LinearLrtBackward {
  const T* dy;  // [batch, out]
  const T* x;   // [batch, in]
  LrtWeights<T> w;
  const T* std;  // [batch, out]
  T* dx;         // [batch, in] or null
  T* dmu;        // [out, in], with dlog
  T* dlog;       // [log_rows, log_cols], or null: no weight gradients
  T* dbias;      // [out] or null
  int64_t batch;
  uint64_t seed;
  Prior prior;
  T kl_scale;              // gradient that reaches the KL
  bool variance_in_pairs;  // as in the forward pass, also for the gradients that pass the variance
};

VDK_DECLARE_KERNEL(
    // returns the KL of the weights, 0 with Prior::kNone
    double linear_lrt_forward(const LinearLrtForward<float>& args, const Parallel& parallel);
    double linear_lrt_forward(const LinearLrtForward<double>& args, const Parallel& parallel);
    void linear_lrt_backward(const LinearLrtBackward<float>& args, const Parallel& parallel);
    void linear_lrt_backward(const LinearLrtBackward<double>& args, const Parallel& parallel);)
}  // namespace vdk
