// Random bits and normals of a [rows, cols] tensor on a GPU. `out` and `seed` are device memory.
#pragma once
#include <cstdint>

#include "../cuda/types.h"

namespace vdk {
namespace cuda {

void philox_bits(int64_t* out, int64_t rows, int64_t cols, const int64_t* seed, void* stream);
void philox_normal(float* out, int64_t rows, int64_t cols, const int64_t* seed, void* stream);
void philox_normal(double* out, int64_t rows, int64_t cols, const int64_t* seed, void* stream);
// computed in float, rounded once
void philox_normal(Float16* out, int64_t rows, int64_t cols, const int64_t* seed, void* stream);
void philox_normal(BFloat16* out, int64_t rows, int64_t cols, const int64_t* seed, void* stream);

}  // namespace cuda
}  // namespace vdk
