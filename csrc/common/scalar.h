// Scalar twins of the vector helpers in simd.h, for host and device: code written over a type V runs with
// V = float on a GPU and in tests, and with a vector on the CPU.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define VDK_HD __host__ __device__ inline
#define VDK_UNROLL _Pragma("unroll")
#else
#define VDK_HD inline __attribute__((always_inline))
#define VDK_UNROLL
#endif

namespace vdk {

VDK_HD float to_float(uint32_t x) { return float(x); }
VDK_HD float to_float(int32_t x) { return float(x); }
VDK_HD int32_t as_int(uint32_t x) { return int32_t(x); }
VDK_HD int32_t as_int(float x) {
  int32_t r;
  memcpy(&r, &x, sizeof r);
  return r;
}
VDK_HD uint32_t as_uint(float x) {
  uint32_t r;
  memcpy(&r, &x, sizeof r);
  return r;
}
VDK_HD float as_float(uint32_t x) {
  float r;
  memcpy(&r, &x, sizeof r);
  return r;
}
VDK_HD float as_float(int32_t x) { return as_float(uint32_t(x)); }
// of NaN and a number: the second argument, as the vector instructions do
VDK_HD float minimum(float a, float b) { return a < b ? a : b; }
VDK_HD float maximum(float a, float b) { return a > b ? a : b; }
VDK_HD double minimum(double a, double b) { return a < b ? a : b; }
VDK_HD double maximum(double a, double b) { return a > b ? a : b; }
// On a GPU within an ulp, a fifth of the exact one's instructions.
VDK_HD float square_root(float x) {
#ifdef __CUDA_ARCH__
  float r;
  asm("sqrt.approx.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
#else
  return sqrtf(x);
#endif
}
// The same in one instruction, of what is not subnormal.
VDK_HD float square_root_of_normal(float x) {
#ifdef __CUDA_ARCH__
  float r;
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
#else
  return sqrtf(x);
#endif
}
// 32 of 0
VDK_HD int leading_zeros(uint32_t x) {
#ifdef __CUDA_ARCH__
  return __clz(int(x));
#else
  return x ? __builtin_clz(x) : 32;
#endif
}
// The upper word of (high, low) shifted left by n <= 32.
VDK_HD uint32_t shift_left(uint32_t high, uint32_t low, int n) {
#ifdef __CUDA_ARCH__
  return __funnelshift_lc(low, high, n);
#else
  return uint32_t(((uint64_t(high) << 32 | low) << n) >> 32);
#endif
}
VDK_HD void multiply_wide(uint32_t a, uint32_t m, uint32_t& hi, uint32_t& lo) {
#ifdef __CUDA_ARCH__
  uint64_t p;
  asm("mul.wide.u32 %0, %1, %2;" : "=l"(p) : "r"(a), "r"(m));  // nvcc adds a zero to what C++ says
#else
  const uint64_t p = uint64_t(a) * m;
#endif
  hi = uint32_t(p >> 32);
  lo = uint32_t(p);
}

}  // namespace vdk
