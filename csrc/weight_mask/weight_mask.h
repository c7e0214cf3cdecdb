// Weights without a random part of the smallest: thresholds by selection, masks by Philox, never stored.
#pragma once
#include "../common/isa.h"
#include "../common/parallel.h"
#include "granularity.h"

namespace vdk {

template <class T>
struct WeightMaskArgs {
  const T* w;  // [rows, cols]
  int64_t rows, cols;
  Granularity granularity;
  double gamma;    // share of each row, or of the rows, that are candidates
  uint64_t below;  // a candidate is dropped where its random word is below it; 2^32: always
  uint64_t seed;
  T* threshold;   // [rows]: candidates are below it in magnitude. Written by weight_mask, read by apply_mask
  const T* from;  // [rows, cols]: what is masked: w itself, or a gradient
  T* out;         // [rows, cols]
};

VDK_DECLARE_KERNEL(void weight_mask(const WeightMaskArgs<float>& args, const Parallel& parallel);
                   void weight_mask(const WeightMaskArgs<double>& args, const Parallel& parallel);
                   void apply_mask(const WeightMaskArgs<float>& args, const Parallel& parallel);
                   void apply_mask(const WeightMaskArgs<double>& args, const Parallel& parallel);)
}  // namespace vdk
