// Channel gates: y = x * theta, one random factor a channel, for each sample or for the whole batch.
#pragma once
#include "../common/isa.h"
#include "../common/parallel.h"
#include "kinds.h"

namespace vdk {

template <class T>
struct GateDistribution {
  GateKind kind;
  const T* location;    // [channels]
  const T* log_sigma2;  // [channels] or null
  uint64_t seed;
  bool per_sample;
  double temperature, low, high;
};

template <class T>
struct GateForward {
  GateShape shape;
  GateDistribution<T> gates;
  const T* x;
  T* y;
};

template <class T>
struct GateBackward {
  GateShape shape;
  GateDistribution<T> gates;
  const T *dy, *x;
  T* dx;            // or null
  T* d_location;    // [channels] or null
  T* d_log_sigma2;  // [channels] or null
};

VDK_DECLARE_KERNEL(void gate(const GateForward<float>& args, const Parallel& parallel);
                   void gate(const GateForward<double>& args, const Parallel& parallel);
                   void gate_backward(const GateBackward<float>& args, const Parallel& parallel);
                   void gate_backward(const GateBackward<double>& args, const Parallel& parallel);)
}  // namespace vdk
