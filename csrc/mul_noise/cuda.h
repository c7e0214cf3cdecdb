// y = x * noise on a GPU, the noise drawn and never stored. The backward pass is the same product, of dy.
#pragma once
#include <cstdint>

#include "../cuda/types.h"
#include "noise.h"

namespace vdk {
namespace cuda {

using vdk::Noise;

// All pointers are device memory of any alignment.
template <class T>
struct MulNoiseArgs {
  const T* x;  // [rows, cols]
  T* y;        // [rows, cols]
  int64_t rows, cols;
  Noise noise;
  double strength;
  const int64_t* seed;  // [1]
};

void mul_noise(const MulNoiseArgs<float>& args, void* stream);
void mul_noise(const MulNoiseArgs<double>& args, void* stream);
void mul_noise(const MulNoiseArgs<Float16>& args, void* stream);
void mul_noise(const MulNoiseArgs<BFloat16>& args, void* stream);

}  // namespace cuda
}  // namespace vdk
