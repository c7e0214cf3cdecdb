// Cross-entropy of a linear head over M dropout masks of its features, with the gradients in the same pass.
#pragma once
#include "../common/isa.h"
#include "../common/parallel.h"

namespace vdk {

template <class T>
struct HeadArgs {
  const T* h;             // [rows, features]
  const T* weight;        // [classes, features]
  const T* bias;          // [classes] or null
  const int64_t* target;  // [rows], in [0, classes) or ignore_index
  const T* class_weight;  // [classes] or null
  int64_t rows, features, classes;
  uint64_t seed;
  int64_t samples;
  double p;
  int64_t ignore_index;
  double smoothing;
  const T* row_scale;  // [rows] or null: 1; what each row's loss counts in the gradients, times
  double scale;
  T* losses;   // [rows]: mean over the samples
  T* dh;       // [rows, features] or null
  T* dweight;  // [classes, features] or null
  T* dbias;    // [classes], or null without a bias or dweight
};

VDK_DECLARE_KERNEL(void multi_sample_head(const HeadArgs<float>& args, const Parallel& parallel);
                   void multi_sample_head(const HeadArgs<double>& args, const Parallel& parallel);)
}  // namespace vdk
