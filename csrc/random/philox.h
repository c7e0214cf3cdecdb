// Philox4x32-10 (Salmon et al., SC 2011) and standard normals by Box and Muller, for scalars and vectors,
// host and device. The reference is vdropkern/ops/philox_bits/reference.py.
#pragma once
#include "../common/elementary.h"

namespace vdk {

// Ten rounds in place on counter words c[4]; U is uint32_t or a vector of them.
template <class U>
VDK_HD void philox4x32(U c[4], uint32_t k0, uint32_t k1) {
  for (int round = 0; round < 10; ++round) {
    U hi0, lo0, hi1, lo1;
    multiply_wide(c[0], 0xD2511F53u, hi0, lo0);
    multiply_wide(c[2], 0xCD9E8D57u, hi1, lo1);
    c[0] = hi1 ^ c[1] ^ k0;
    c[1] = lo1;
    c[2] = hi0 ^ c[3] ^ k1;
    c[3] = lo0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
}

// -2 ln((bits + 1/2) 2^-32). Near 1 the distance to 1 is taken from the complemented bits, where it is exact.
template <class F, class U>
VDK_HD F minus_two_log(U bits) {
  F exponent, f;
  split_log(to_float(bits) + 0.5f, exponent, f);
  const F to_one = (to_float(as_int(~bits)) + 0.5f) * -2.3283064365386963e-10f;  // 2^-32
  const auto near_one = bits >= U{} + 0xB504F334u;                               // sqrt(1/2) 2^32
  f = near_one ? to_one : f;
  exponent = near_one ? F{} : exponent - 32.0f;
  return (log1p_reduced(f) + exponent * 0.693147181f) * -2.0f;
}

// The same of one word, where leading zeros can be counted: u = (1 - w / 2) 2^-zeros with w in (0, 1]. The
// word, moved up to its first bit, is -w / 2 as a signed fraction: exact near u = 1, and no sum cancels.
template <class F>
VDK_HD float minus_two_log(uint32_t bits) {
  const int zeros = leading_zeros(bits);
  const int32_t fraction = as_int(shift_left(bits, 0x80000000u, zeros));
  const float w = to_float(fraction) * -4.6566128730773926e-10f - 2.3283064365386963e-10f;  // 2^-31, 2^-32
  float p = w * 5.5255770362e-3f - 1.2809294986e-2f;
  p = p * w + 1.8886158360e-2f;
  p = p * w - 5.6547620798e-3f;
  p = p * w + 1.6480685194e-2f;
  p = p * w + 3.0460325634e-2f;
  p = p * w + 8.3408030205e-2f;
  p = p * w + 2.4999760860e-1f;
  return float(zeros) * 1.386294361f + (w * w * p + w);
}

// cos and sin of 2 pi (bits + 1/2) 2^-32: the quadrant and the rest are split off in exact integers.
template <class F, class U>
VDK_HD void cos_sin_turn(U bits, F& cosine, F& sine) {
  const U place = bits + 0x20000000u;  // its upper two bits are the quadrant
  // the rest is what they leave when shifted out; 2 pi 2^-34, 2 pi 2^-33
  const F t = to_float(as_int(bits << 2)) * 3.657295198167899e-10f + 7.314590396335798e-10f;
  const F t2 = t * t;
  F s = t2 * -1.9515295891e-4f + 8.3321608736e-3f;
  s = s * t2 - 1.6666654611e-1f;
  s = s * t2 * t + t;
  F c = t2 * 2.443315711809948e-5f - 1.388731625493765e-3f;
  c = c * t2 + 4.166664568298827e-2f;
  c = c * (t2 * t2) + (1.0f - t2 * 0.5f);
  const auto odd = as_int(place << 1) < 0;
  const F plain_c = odd ? s : c, plain_s = odd ? c : s;
  // quadrants 1, 2 flip the cosine's sign, 2, 3 the sine's
  cosine = as_float(as_uint(plain_c) ^ ((place + 0x40000000u) & 0x80000000u));
  sine = as_float(as_uint(plain_s) ^ (place & 0x80000000u));
}

template <class F, class U>
VDK_HD F radius_of(U bits) {
  return square_root(minus_two_log<F>(bits));
}
template <class F>
VDK_HD float radius_of(uint32_t bits) {
  return square_root_of_normal(minus_two_log<F>(bits));
}

// Four normals from four words: z[0], z[1] from the first two, z[2], z[3] from the others.
template <class F, class U>
VDK_HD void box_muller(const U words[4], F z[4]) {
  for (int pair = 0; pair < 2; ++pair) {
    const F radius = radius_of<F>(words[2 * pair]);
    F c, s;
    cos_sin_turn<F>(words[2 * pair + 1], c, s);
    z[2 * pair] = radius * c;
    z[2 * pair + 1] = radius * s;
  }
}

// The same in double, from the definition.
VDK_HD void box_muller_f64(const uint32_t words[4], double z[4]) {
  for (int pair = 0; pair < 2; ++pair) {
    const double u0 = (words[2 * pair] + 0.5) * 0x1p-32, u1 = (words[2 * pair + 1] + 0.5) * 0x1p-32;
    const double radius = sqrt(-2 * log(u0));
    double c, s;
#ifdef __CUDA_ARCH__
    sincospi(2 * u1, &s, &c);  // needs no reduction of large angles, which would take a stack
#else
    const double angle = 6.283185307179586476925286766559 * u1;
    c = cos(angle);
    s = sin(angle);
#endif
    z[2 * pair] = radius * c;
    z[2 * pair + 1] = radius * s;
  }
}

}  // namespace vdk
