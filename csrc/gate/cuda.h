// Channel gates on a GPU: x times them, and gradients, the gates drawn and never stored.
#pragma once
#include <cstdint>

#include "../cuda/types.h"
#include "kinds.h"

namespace vdk {
namespace cuda {

// All pointers are device memory of any alignment.
template <class E>
struct GateArgs {
  using C = ComputeOf<E>;
  GateShape shape;
  GateKind kind;
  const C* location;    // [channels]
  const C* log_sigma2;  // [channels] or null
  const int64_t* seed;  // [1]
  bool per_sample;
  double temperature, low, high;
  const E* given = nullptr;   // of x's shape: x, or the gradient dy
  const E* x = nullptr;       // with gradients of the parameters: x, else null
  E* out = nullptr;           // of x's shape: given times the gates; may be null with x
  C* d_location = nullptr;    // [channels], with x
  C* d_log_sigma2 = nullptr;  // [channels], with x; may be null
  C* workspace = nullptr;     // [gate_workspace], with x
};

// Elements for sums of parts, where gradients of the parameters are wanted.
int64_t gate_workspace(const GateShape& shape, GateKind kind);

void gate(const GateArgs<float>& args, void* stream);
void gate(const GateArgs<double>& args, void* stream);
void gate(const GateArgs<Float16>& args, void* stream);
void gate(const GateArgs<BFloat16>& args, void* stream);

}  // namespace cuda
}  // namespace vdk
