// Conversions and the approximate instructions. Those of a documented error are made to err by up to as much,
// by an amount drawn from the argument's bits: a kernel that needs more accuracy fails here, not only on a
// GPU.
#pragma once

namespace emu {

inline float flushed(float x) { return std::fabs(x) < 1.17549435e-38f ? std::copysign(0.0f, x) : x; }

// In [-1, 1], a function of the bits of x.
inline double error_of(float x) {
  uint32_t h = vdk::as_uint(x) * 0x9E3779B1u;
  h = (h ^ h >> 15) * 0x85EBCA77u;
  h ^= h >> 13;
  return (double(h) + 0.5) * 0x1p-31 - 1;
}
inline float relative(float x, double exact, double bound) {
  return flushed(float(exact * (1 + bound * error_of(x))));
}

}  // namespace emu

namespace vdk {

// PTX ISA, "floating point instructions": maximum errors of the .approx.ftz forms.
inline float approx_exp2(float x) { return emu::relative(x, std::exp2(double(emu::flushed(x))), 0x1p-22); }
inline float approx_rcp(float x) { return emu::relative(x, 1 / double(emu::flushed(x)), 0x1p-23); }
inline float approx_sqrt(float x) { return emu::relative(x, std::sqrt(double(emu::flushed(x))), 0x1p-23); }
inline float approx_rsqrt(float x) {
  return emu::relative(x, 1 / std::sqrt(double(emu::flushed(x))), 0x1.76p-23);
}
inline float approx_log2(float x) {
  const double exact = std::log2(double(emu::flushed(x)));
  if (x > 0.5f && x < 2.0f) return float(exact + 0x1p-22 * emu::error_of(x));  // absolute there
  return emu::relative(x, exact, 0x1p-22);
}
inline float approx_sin(float x) {
  return float(std::sin(double(emu::flushed(x))) + 0x1.7p-21 * emu::error_of(x));
}
inline float approx_cos(float x) {
  return float(std::cos(double(emu::flushed(x))) + 0x1.7p-21 * emu::error_of(x));
}

inline uint32_t to_tf32(float x) {
  const uint32_t bits = as_uint(x);
  if ((bits & 0x7F800000u) == 0x7F800000u) return (bits & 0x007FFFFFu) ? 0x7FFFFFFFu : bits;
  return (bits + 0x1000u) & ~0x1FFFu;  // the nearest, ties away from zero
}

inline float to_float(BFloat16 h) { return as_float(uint32_t(h.bits) << 16); }
inline float to_float(Float16 h) {
  const uint32_t size = uint32_t(h.bits & 0x7FFF) << 13, sign = uint32_t(h.bits & 0x8000) << 16;
  if (size >= 0x0F800000u) return as_float(sign | size | 0x7F800000u);  // infinity, NaN
  return as_float(sign | as_uint(as_float(size) * 0x1p112f));
}

inline uint16_t bfloat16_bits(float x) {
  const uint32_t bits = as_uint(x);
  if (x != x) return 0x7FFF;
  return uint16_t((bits + 0x7FFFu + (bits >> 16 & 1)) >> 16);
}
inline uint16_t float16_bits(float x) {
  const uint16_t sign = uint16_t(as_uint(x) >> 16 & 0x8000);
  if (x != x) return 0x7FFF;
  const double size = std::fabs(double(x));
  if (size >= 65520) return sign | 0x7C00;
  if (size < 0x1p-14) return uint16_t(sign | unsigned(std::nearbyint(size * 0x1p24)));
  int exponent;
  const double fraction = std::frexp(size, &exponent);                  // in [1/2, 1)
  const unsigned mantissa = unsigned(std::nearbyint(fraction * 2048));  // 2048: a carry into the exponent
  return uint16_t(sign | ((unsigned(exponent + 13) << 10) + mantissa));
}

template <class H>
uint32_t pack(float low, float high);
template <>
inline uint32_t pack<BFloat16>(float low, float high) {
  return bfloat16_bits(low) | uint32_t(bfloat16_bits(high)) << 16;
}
template <>
inline uint32_t pack<Float16>(float low, float high) {
  return float16_bits(low) | uint32_t(float16_bits(high)) << 16;
}

}  // namespace vdk
