// exp, log and log1p as the CPU kernels of each instruction set run them, over arrays.
#pragma once
#include "../common/isa.h"

namespace vdk {

// y[i] of x[i]; n a multiple of 16, the widest vector
VDK_DECLARE_KERNEL(void exp_of(const float* x, float* y, int64_t n);
                   void log_of(const float* x, float* y, int64_t n);
                   void log1p_unit_of(const float* x, float* y, int64_t n);)

}  // namespace vdk
