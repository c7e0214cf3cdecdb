// exp, log and log1p in float, for scalars and vectors alike (see scalar.h, simd.h), host and device.
// Relative errors against correctly rounded results are bounded by tests: exp 2 ulp, log 2 ulp.
#pragma once
#ifdef VDK_ISA
#include "simd.h"  // before the templates: vectors have no namespace to look their overloads up in
#else
#include "scalar.h"
#endif

namespace vdk {

// e^x for x in [-87, 88]; clamped outside, so the result is always normal and finite.
template <class F>
VDK_HD F exp_f32(F x) {
  const F given = x;
  x = minimum(F{} + 88.0f, maximum(F{} - 87.0f, x));
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, left in the low bits
  const F n_bits = x * 1.44269504f + magic;
  const F n = n_bits - magic;
  F r = x - n * 0.693359375f;  // ln 2 in two parts, the first exact in few bits
  r = r - n * -2.12194440e-4f;
  F p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const F result = as_float(as_uint(p) + (as_uint(n_bits) << 23));
  return given == given ? result : given;  // NaN stays NaN
}

// ln(1 + f) for f in [sqrt(1/2) - 1, sqrt(2) - 1], exact relative to f near 0.
template <class F>
VDK_HD F log1p_reduced(F f) {
  F p = f * 7.0376836292e-2f - 1.1514610310e-1f;
  p = p * f + 1.1676998740e-1f;
  p = p * f - 1.2420140846e-1f;
  p = p * f + 1.4249322787e-1f;
  p = p * f - 1.6668057665e-1f;
  p = p * f + 2.0000714765e-1f;
  p = p * f - 2.4999993993e-1f;
  p = p * f + 3.3333331174e-1f;
  const F f2 = f * f;
  return f + (f * f2 * p - f2 * 0.5f);
}

// x = 2^exponent (1 + f), 1 + f in [sqrt(1/2), sqrt(2)), for normal x > 0.
template <class F>
VDK_HD void split_log(F x, F& exponent, F& f) {
  const auto shifted = as_int(x) - 0x3f3504f3;
  const auto e = shifted >> 23;
  exponent = to_float(e);
  f = as_float(as_int(x) - (shifted & -0x800000)) - 1.0f;  // less e 2^23
}

template <class F>
VDK_HD F log_f32(F x) {
  F exponent, f;
  split_log(x, exponent, f);
  // the small part of ln 2 first, so that the large one rounds once
  const F r = log1p_reduced(f) + exponent * -2.12194440e-4f + exponent * 0.693359375f;
  return x == x ? r : x;  // NaN stays NaN
}

// ln(1 + x) for x in [0, 1], exact relative to x near 0.
template <class F>
VDK_HD F log1p_unit(F x) {
  const auto small = x < F{} + 0.414213562f;
  return log1p_reduced(small ? x : x * 0.5f - 0.5f) + (small ? F{} : F{} + 0.693147181f);
}

}  // namespace vdk
