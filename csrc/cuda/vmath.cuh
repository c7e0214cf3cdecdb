// What vmath.h offers, for one float or double of a GPU's thread. In float the special function units do the
// work; their relative error in exp grows with |x|, as that of the rounded x itself does.
#pragma once
#include "../common/elementary.h"
#include "simt.cuh"

namespace vdk {

VDK_DEVICE float vexp(float x) { return approx_exp2(x * 1.44269504f); }
VDK_DEVICE float vlog(float x) { return approx_log2(x) * 0.693147181f; }
VDK_DEVICE float vlog1p_unit(float x) { return log1p_unit(x); }
VDK_DEVICE float reciprocal(float x) { return approx_rcp(x); }
// e^x, x held in [-87, 88]; what rounding took from the power of two's exponent is given back.
VDK_DEVICE float exp_compensated(float x) {
  const float given = x;
  x = minimum(88.0f, maximum(-87.0f, x));
  const float t = x * 1.4426950216293335f;
  const float lost = fmaf(x, 1.4426950216293335f, -t) + x * 1.9259629911266175e-8f;
  const float e = approx_exp2(t);
  return given == given ? fmaf(e, lost * 0.693147181f, e) : given;
}
VDK_DEVICE double exp_compensated(double x) { return exp(x); }
VDK_DEVICE double vexp(double x) { return exp(x); }
VDK_DEVICE double vlog(double x) { return log(x); }
VDK_DEVICE double vlog1p_unit(double x) { return log1p(x); }
VDK_DEVICE double reciprocal(double x) { return 1.0 / x; }

}  // namespace vdk
