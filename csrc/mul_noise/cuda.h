// y = x * noise on a GPU, the noise drawn and never stored. The backward pass is the same product, of dy.
#pragma once
#include <cstdint>

#include "noise.h"

namespace vdk {
struct Float16;
struct BFloat16;

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

// Half types are multiplied in float and rounded once.
void mul_noise(const MulNoiseArgs<float>& args, void* stream);
void mul_noise(const MulNoiseArgs<double>& args, void* stream);
void mul_noise(const MulNoiseArgs<Float16>& args, void* stream);
void mul_noise(const MulNoiseArgs<BFloat16>& args, void* stream);

}  // namespace cuda
}  // namespace vdk
