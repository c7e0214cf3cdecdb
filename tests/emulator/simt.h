// The emulated side of csrc/cuda/simt.cuh: the names of CUDA over machine.h.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>

#include "machine.h"

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }

#define __launch_bounds__(...)
#define __restrict__ __restrict

#define VDK_KERNEL
#define VDK_DEVICE inline
#define VDK_SHARED(type, name) type* const name = static_cast<type*>(emu::shared_memory())
#define VDK_SHARED_ARRAY(type, name, count) \
  type(&name)[count] =                      \
      *reinterpret_cast<type(*)[count]>(emu::shared_array(#name, sizeof(type) * (count), emu::Site::here()))

#define threadIdx (emu::current->index)
#define blockIdx (emu::current->block)
#define blockDim (emu::current->block_size)
#define gridDim (emu::current->grid_size)

inline void __syncthreads(emu::Site site = emu::Site::here()) { emu::block_barrier(site); }
inline void __syncwarp(unsigned mask = ~0u, emu::Site site = emu::Site::here()) {
  emu::meet("__syncwarp", mask, nullptr, 0, site);
}

namespace emu {

template <class T>
const T& published(const Meeting& meeting, int lane) {
  if (!(meeting.lanes >> lane & 1)) fail("lane %d is read, but takes no part", lane);
  return *reinterpret_cast<const T*>(meeting.payload[lane].bytes);
}

// What lane `source` of the caller's segment published, or the caller's own value outside of it.
template <class T>
T shuffled(const char* what, unsigned mask, const T& value, int source, int width, Site site) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
  const Meeting& meeting = meet(what, mask, &value, sizeof value, site);
  const int first = current->lane & ~(width - 1);
  return source < first || source >= first + width ? value : published<T>(meeting, source);
}

}  // namespace emu

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, emu::Site site = emu::Site::here()) {
  const int first = emu::current->lane & ~(width - 1);
  return emu::shuffled("__shfl_sync", mask, value, first | (source & (width - 1)), width, site);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, emu::Site site = emu::Site::here()) {
  return emu::shuffled("__shfl_xor_sync", mask, value, emu::current->lane ^ bits, width, site);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   emu::Site site = emu::Site::here()) {
  return emu::shuffled("__shfl_down_sync", mask, value, emu::current->lane + int(delta), width, site);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, emu::Site site = emu::Site::here()) {
  const emu::Meeting& meeting = emu::meet("__ballot_sync", mask, &predicate, sizeof predicate, site);
  unsigned votes = 0;
  for (int lane = 0; lane < 32; ++lane)
    if (meeting.lanes >> lane & 1 && emu::published<int>(meeting, lane)) votes |= 1u << lane;
  return votes;
}

// Between two waiting points a thread runs alone, so a read and a write are atomic; they are written as
// atomic accesses so that the thread sanitizer knows too.
template <class T>
T atomicAdd(T* p, T value, emu::Site site = emu::Site::here()) {
  emu::count_atomic(p, sizeof(T), site);
  T old, sum;
  __atomic_load(p, &old, __ATOMIC_RELAXED);
  sum = old + value;
  __atomic_store(p, &sum, __ATOMIC_RELAXED);
  return old;
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
inline uint64_t __umul64hi(uint64_t a, uint64_t b) { return uint64_t((unsigned __int128)a * b >> 64); }
// products and sums that no compiler fuses
inline float __fmul_rn(float x, float y) {
  const volatile float product = x * y;
  return product;
}
inline float __fadd_rn(float x, float y) {
  const volatile float sum = x + y;
  return sum;
}
inline unsigned __float_as_uint(float x) { return vdk::as_uint(x); }
inline float __uint_as_float(unsigned x) { return vdk::as_float(uint32_t(x)); }
inline int __float_as_int(float x) { return vdk::as_int(x); }
inline float __int_as_float(int x) { return vdk::as_float(int32_t(x)); }
using std::max;
using std::min;

namespace vdk {

template <class V>
V load_global(const void* p, emu::Site site = emu::Site::here()) {
  emu::count_load(p, sizeof(V), site);
  return *static_cast<const V*>(p);
}
template <class V>
void store_global(void* p, V v, emu::Site site = emu::Site::here()) {
  emu::count_store(p, sizeof(V), site);
  *static_cast<V*>(p) = v;
}
template <class V>
V load_shared(const void* p) {
  emu::require_shared("load_shared", p, sizeof(V));
  return *static_cast<const V*>(p);
}
template <class V>
void store_shared(void* p, V v) {
  emu::require_shared("store_shared", p, sizeof(V));
  *static_cast<V*>(p) = v;
}

}  // namespace vdk

#include "approx.h"
#include "tensor_core.h"
