// Random bits and normals of a [rows, cols] tensor, a pure function of (seed, element index).
#pragma once
#include "../common/isa.h"
#include "../common/parallel.h"

namespace vdk {
VDK_DECLARE_KERNEL(
    void philox_bits(int64_t* out, int64_t rows, int64_t cols, uint64_t seed, const Parallel& parallel);
    void philox_normal(float* out, int64_t rows, int64_t cols, uint64_t seed, const Parallel& parallel);
    void philox_normal(double* out, int64_t rows, int64_t cols, uint64_t seed, const Parallel& parallel);)
}  // namespace vdk
