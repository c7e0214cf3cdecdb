// Activations rounded to signs or to a few levels, and the gates through which their gradients pass.
#pragma once
#include "../common/half.h"
#include "../common/isa.h"
#include "../common/parallel.h"

namespace vdk {

// How sign is taken for differentiable. A box is a constant within [low, high] and 0 outside.
enum class Slope : int { kIdentity, kBox, kSwish, kPolynomial };

struct SteRule {
  Slope slope;
  int levels;        // of [0, 1], beyond 0; none: the signs -1 and +1
  bool stochastic;   // signs alone
  double strength;   // beta, or the box's value
  double low, high;  // of the box
};

template <class E>
struct SignArgs {
  const E* x;  // [n] in memory order; of random signs row-major [rows, cols]
  int64_t n, rows, cols;
  SteRule rule;
  uint64_t seed;
  E* y;
  uint64_t* gate;  // [ceil(n / 64)], a bit an element, or null
};

template <class E>
struct SignBackwardArgs {
  const E* dy;
  const E* x;            // of a smooth slope, else null
  const uint64_t* gate;  // of a box, else null
  int64_t n;
  SteRule rule;
  E* dx;
};

VDK_DECLARE_KERNEL(void sign_ste(const SignArgs<float>& args, const Parallel& parallel);
                   void sign_ste(const SignArgs<double>& args, const Parallel& parallel);
                   void sign_ste(const SignArgs<Float16>& args, const Parallel& parallel);
                   void sign_ste(const SignArgs<BFloat16>& args, const Parallel& parallel);
                   void sign_ste_backward(const SignBackwardArgs<float>& args, const Parallel& parallel);
                   void sign_ste_backward(const SignBackwardArgs<double>& args, const Parallel& parallel);
                   void sign_ste_backward(const SignBackwardArgs<Float16>& args, const Parallel& parallel);
                   void sign_ste_backward(const SignBackwardArgs<BFloat16>& args, const Parallel& parallel);)
}  // namespace vdk
