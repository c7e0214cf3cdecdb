// exp, log and log1p on vectors of float (own polynomials) and of double (the C library, lane by lane), or on
// scalars where no vectors are. Their twins for GPUs: cuda/vmath.cuh.
#pragma once
#include "elementary.h"
#if defined(VDK_ISA) && defined(__AVX512F__)
#include "vmath_avx512.h"
#endif

namespace vdk {

#ifdef VDK_ISA
#ifndef __AVX512F__
VDK_INLINE VecF vexp(VecF x) { return exp_f32(x); }
VDK_INLINE VecF vlog(VecF x) { return log_f32(x); }
VDK_INLINE VecF vlog1p_unit(VecF x) { return log1p_unit(x); }
#endif

VDK_INLINE VecD vexp(VecD x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = exp(x[i]);
  return x;
}
VDK_INLINE VecD vlog(VecD x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = log(x[i]);
  return x;
}
VDK_INLINE VecD vlog1p_unit(VecD x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = log1p(x[i]);
  return x;
}
#else
VDK_HD float vexp(float x) { return exp_f32(x); }
VDK_HD float vlog(float x) { return log_f32(x); }
VDK_HD float vlog1p_unit(float x) { return log1p_unit(x); }
VDK_HD float reciprocal(float x) { return 1.0f / x; }
VDK_HD double vexp(double x) { return exp(x); }
VDK_HD double vlog(double x) { return log(x); }
VDK_HD double vlog1p_unit(double x) { return log1p(x); }
VDK_HD double reciprocal(double x) { return 1.0 / x; }
#endif

}  // namespace vdk
