// exp, log and log1p on vectors of float (own polynomials) and of double (the C library, lane by lane).
#pragma once
#include "elementary.h"

namespace vdk {

VDK_INLINE VecF vexp(VecF x) { return exp_f32(x); }
VDK_INLINE VecF vlog(VecF x) { return log_f32(x); }
VDK_INLINE VecF vlog1p_unit(VecF x) { return log1p_unit(x); }

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

}  // namespace vdk
