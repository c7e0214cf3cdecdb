// alpha_o sign(w) with alpha_o the mean magnitude of filter o, and its gradient.
#pragma once
#include "../common/isa.h"
#include "../common/parallel.h"

namespace vdk {

template <class T>
struct BinaryWeightArgs {
  const T* w;     // [rows, cols]
  const T* grad;  // [rows, cols], or null: forward
  int64_t rows, cols;
  bool corrected;  // the gradient through alpha, else the paper's
  T* out;          // [rows, cols]
  T* alpha;        // [rows], forward alone
};

VDK_DECLARE_KERNEL(void binary_weight(const BinaryWeightArgs<float>& args, const Parallel& parallel);
                   void binary_weight(const BinaryWeightArgs<double>& args, const Parallel& parallel);)
}  // namespace vdk
