// exp, log and log1p where a permutation looks up 16 floats at once: half the instructions of elementary.h's
// polynomials, within the same bounds. Included by vmath.h for AVX-512 alone.
#pragma once
#include "simd.h"

namespace vdk {
namespace table {

// 2^(j/16)
alignas(64) constexpr float kExp2[16] = {
    1.0f,        1.0442737f, 1.0905077f, 1.1387886f, 1.1892071f, 1.2418578f, 1.2968396f, 1.3542556f,
    1.41421356f, 1.4768262f, 1.5422108f, 1.6104903f, 1.6817929f, 1.7562522f, 1.8340081f, 1.9152066f};
// By the upper four bits of a mantissa: the reciprocal of an interval's middle, and -ln of it as rounded. In
// [1, 2), with 1 itself for the first, so that little next to 1 is lost ...
alignas(64) constexpr float kInverse[16] = {
    1.0f,       0.9142857f, 0.8648649f, 0.82051283f, 0.7804878f, 0.74418604f, 0.7111111f,  0.68085104f,
    0.6530612f, 0.627451f,  0.6037736f, 0.58181816f, 0.5614035f, 0.5423729f,  0.52459013f, 0.50793654f};
alignas(64) constexpr float kLog[16] = {
    0.0f,        0.089612156f, 0.14518198f, 0.19782573f, 0.2478362f,  0.29546422f, 0.34092656f, 0.38441172f,
    0.42608443f, 0.4660897f,   0.504556f,   0.5415973f,  0.57731533f, 0.61180156f, 0.645138f,   0.67739874f};
// ... and in [3/4, 3/2), with 1 for both neighbours of 1.
alignas(64) constexpr float kInverseAroundOne[16] = {
    1.0f,       0.9142857f, 0.8648649f, 0.82051283f, 0.7804878f, 0.74418604f, 0.7111111f, 0.68085104f,
    1.3061224f, 1.254902f,  1.2075472f, 1.1636363f,  1.122807f,  1.0847458f,  1.0491803f, 1.0f};
alignas(64) constexpr float kLogAroundOne[16] = {0.0f,         0.089612156f, 0.14518198f,   0.19782573f,
                                                 0.2478362f,   0.29546422f,  0.34092656f,   0.38441172f,
                                                 -0.26706275f, -0.22705749f, -0.18859118f,  -0.15154986f,
                                                 -0.11583182f, -0.08134564f, -0.048009165f, 0.0f};

VDK_INLINE VecF look_up(const float (&of)[16], VecI index) {  // by the four low bits
  return (VecF)_mm512_permutexvar_ps((__m512i)index, _mm512_load_ps(of));
}
// ln(1 + r) for r in [-1/32, 1/16]
VDK_INLINE VecF log1p_small(VecF r) {
  const VecF q = ((r * 0.18856977f - 0.2500664f) * r + 0.3333444f) * r - 0.5f;
  return q * (r * r) + r;
}

}  // namespace table

// As exp_f32.
VDK_INLINE VecF vexp(VecF x) {
  x = minimum(VecF{} + 88.0f, maximum(VecF{} - 87.0f, x));  // NaN, second, stays
  const VecF sixteenths = x * 23.08312f + 12582912.0f;      // 16 / ln 2; see exp_f32
  const VecF n = sixteenths - 12582912.0f;
  const VecF r = x - n * 0.0433217f - n * -1.1904089e-10f;  // ln 2 / 16 in two parts
  const VecF t = table::look_up(table::kExp2, as_int(sixteenths));
  const VecF p = (r * 0.16666667f + 0.5f) * (r * r) + r;
  return (VecF)_mm512_scalef_ps((__m512)(t * p + t), (__m512)(n * 0.0625f));  // times 2^floor(n / 16)
}

// As log_f32.
VDK_INLINE VecF vlog(VecF x) {
  const VecF m = (VecF)_mm512_getmant_ps((__m512)x, _MM_MANT_NORM_p75_1p5, _MM_MANT_SIGN_zero);
  const VecF exponent = (VecF)_mm512_getexp_ps((__m512)x) - (VecF)_mm512_getexp_ps((__m512)m);
  const VecI index = as_int(m) >> 19;
  const VecF r = m * table::look_up(table::kInverseAroundOne, index) - 1.0f;
  return exponent * 0.693147181f + (table::look_up(table::kLogAroundOne, index) + table::log1p_small(r));
}

// As log1p_unit. The reduced argument comes of x itself: 1 + x would have rounded it.
VDK_INLINE VecF vlog1p_unit(VecF x) {
  const VecI m = as_int(minimum(VecF{} + 1.99999988f, x + 1.0f)) >> 19;
  const VecF c = table::look_up(table::kInverse, m);
  return table::look_up(table::kLog, m) + table::log1p_small(x * c + (c - 1.0f));
}

}  // namespace vdk
