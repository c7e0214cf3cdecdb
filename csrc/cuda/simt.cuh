// The one header through which kernels use the GPU. nvcc compiles it to instructions; with VDK_EMULATED any
// C++ compiler gets the same names from tests/emulator, so that kernels run on a CPU under sanitizers.
//
//   VDK_KERNEL void name(Args args)      a kernel takes one struct; __launch_bounds__(n) may follow
//   VDK_KERNEL VDK_DEVICE                           before a function that kernels call VDK_SHARED(type,
//   name)               type* name: the dynamic shared memory, aligned to 128 bytes VDK_SHARED_ARRAY(type,
//   name, count)  type name[count] in static shared memory, aligned to 16 bytes launch.cuh VDK_LAUNCH(kernel,
//   grid, block, shared_bytes, stream, args)
//
//   threadIdx blockIdx blockDim gridDim, dim3, float2/4, uint2/4, int2/4, double2 with make_...
//   __syncthreads() __syncwarp(mask) __shfl_sync __shfl_xor_sync __shfl_down_sync __ballot_sync atomicAdd
//   __popc __clz __ffs __umulhi __fmul_rn __fadd_rn __float_as_uint __uint_as_float fmaf ...
//
// In namespace vdk:
//   load_global<V>(p) store_global(p, v)            sizeof(V) = 1, 2, 4, 8, 16 bytes, p aligned to them;
//   every access
//                                                   to global memory goes through these two (or cp_async16),
//                                                   which the emulator counts and checks
//   store_global_whole(p, v)                        a uint2 or uint4 in one access for certain
//   load_shared<V>(p) store_shared(p, v)            the same for wide accesses to shared memory
//   cp_async16(dst_shared, src_global, valid)       16 bytes, zeros where !valid (src is not read then);
//   cp_async8 cp_async4                             8 or 4 of them
//   cp_async_commit() cp_async_wait<N>()            at most the N newest groups stay in flight
//   ldmatrix_x4(r, row) ldmatrix_x4_trans(r, row)   four 8x8 matrices of 16-bit elements
//   mma_m16n8k8_tf32(d, a, b)                       d += a b; fragments as in the PTX ISA
//   mma_m16n8k16_bf16(d, a, b) mma_m16n8k16_f16(d, a, b)
//   mma_m16n8k256_b1(d, a, b)                       int32 d += bits that differ; sm_80 to sm_89 alone
//   to_tf32(x)                                      nearest, ties away; what mma_..._tf32 reads
//   Float16, BFloat16                               storage types: to_float(h), round_to<H>(x),
//   pack<H>(low, high) unpack<H>(word)              two of them in a word, low half first
//   approx_exp2 approx_log2 approx_rcp approx_sqrt approx_rsqrt approx_sin approx_cos
//                                                   one instruction each, of its documented error
#pragma once
#include "../common/half.h"
#include "../common/scalar.h"

// For loops whose body is long and whose registers are few.
#ifdef __CUDACC__
#define VDK_ROLLED _Pragma("unroll 1")
#else
#define VDK_ROLLED
#endif

#ifdef VDK_EMULATED
#include "emulator/simt.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#define VDK_KERNEL __global__
#define VDK_DEVICE __device__ __forceinline__
#define VDK_SHARED(type, name)                                  \
  extern __shared__ __align__(128) unsigned char vdk_shared_[]; \
  type* const name = reinterpret_cast<type*>(vdk_shared_)
#define VDK_SHARED_ARRAY(type, name, count) __shared__ __align__(16) type name[count]

namespace vdk {

template <class V>
VDK_DEVICE V load_global(const void* p) {
  return *static_cast<const V*>(p);
}
template <class V>
VDK_DEVICE void store_global(void* p, V v) {
  *static_cast<V*>(p) = v;
}
// One access, also where the compiler would take it apart, as it does at the end of some loops.
VDK_DEVICE void store_global_whole(void* p, uint4 v) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(p)), "r"(v.x),
               "r"(v.y), "r"(v.z), "r"(v.w)
               : "memory");
}
VDK_DEVICE void store_global_whole(void* p, uint2 v) {
  asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(p)), "r"(v.x), "r"(v.y)
               : "memory");
}
template <class V>
VDK_DEVICE V load_shared(const void* p) {
  return *static_cast<const V*>(p);
}
template <class V>
VDK_DEVICE void store_shared(void* p, V v) {
  *static_cast<V*>(p) = v;
}

VDK_DEVICE uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }

// Before sm_80 the copy is made at once, by loads and stores.
VDK_DEVICE void cp_async16(void* dst, const void* src, bool valid) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(dst)), "l"(src),
               "r"(valid ? 16 : 0)
               : "memory");
#else
  *static_cast<uint4*>(dst) = valid ? *static_cast<const uint4*>(src) : make_uint4(0, 0, 0, 0);
#endif
}
VDK_DEVICE void cp_async8(void* dst, const void* src, bool valid) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(shared_address(dst)), "l"(src),
               "r"(valid ? 8 : 0)
               : "memory");
#else
  *static_cast<uint2*>(dst) = valid ? *static_cast<const uint2*>(src) : make_uint2(0, 0);
#endif
}
VDK_DEVICE void cp_async4(void* dst, const void* src, bool valid) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(dst)), "l"(src),
               "r"(valid ? 4 : 0)
               : "memory");
#else
  *static_cast<uint32_t*>(dst) = valid ? *static_cast<const uint32_t*>(src) : 0;
#endif
}
VDK_DEVICE void cp_async_commit() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int kInFlight>
VDK_DEVICE void cp_async_wait() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kInFlight) : "memory");
#endif
}

// Lane l names row l % 8 of matrix l / 8 and gets elements 2 (l % 4), 2 (l % 4) + 1 of row l / 4 of each;
// with _trans of column l / 4.
VDK_DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
VDK_DEVICE void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// With g = lane / 4, t = lane % 4, all three products leave d[0..1] at (g, 2t + 0..1) and d[2..3] at (g + 8,
// ...).
#if __CUDA_ARCH__ >= 800
#define VDK_MMA(shape_and_types)                                 \
  asm volatile("mma.sync.aligned." shape_and_types               \
               " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, " \
               "{%0, %1, %2, %3};"                               \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])  \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
#else
#define VDK_MMA(shape_and_types) __trap()
#endif
// a: (g, t) (g + 8, t) (g, t + 4) (g + 8, t + 4); b: (t, g) (t + 4, g)
VDK_DEVICE void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  VDK_MMA("m16n8k8.row.col.f32.tf32.tf32.f32");
}
// a, two to a word: (g, 2t..) (g + 8, 2t..) (g, 2t + 8..) (g + 8, 2t + 8..); b: (2t.., g) (2t + 8.., g)
VDK_DEVICE void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  VDK_MMA("m16n8k16.row.col.f32.bf16.bf16.f32");
}
VDK_DEVICE void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  VDK_MMA("m16n8k16.row.col.f32.f16.f16.f32");
}
#undef VDK_MMA

// a, 32 bits a word: (g, 32t..) (g + 8, 32t..) (g, 32t + 128..) (g + 8, ...); b: (32t.., g) (32t + 128.., g);
// d as above. The tensor cores of sm_80 to sm_89 do this in an instruction. From sm_90 on the assembler makes
// a subroutine of it, there of two products by AND, later of eight of bytes, so nothing calls it there.
VDK_DEVICE void mma_m16n8k256_b1(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800 && __CUDA_ARCH__ < 900
  asm volatile(
      "mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.xor.popc {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  __trap();
#endif
}

VDK_DEVICE uint32_t to_tf32(float x) {
#if __CUDA_ARCH__ >= 800
  uint32_t r;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(x));
  return r;
#else
  return __float_as_uint(x);
#endif
}

VDK_DEVICE float to_float(Float16 h) { return __half2float(__ushort_as_half(h.bits)); }
VDK_DEVICE float to_float(BFloat16 h) { return __uint_as_float(uint32_t(h.bits) << 16); }
template <class H>
VDK_DEVICE uint32_t pack(float low, float high);
template <>
VDK_DEVICE uint32_t pack<Float16>(float low, float high) {
  const __half2 h = __floats2half2_rn(low, high);
  return reinterpret_cast<const uint32_t&>(h);
}
template <>
VDK_DEVICE uint32_t pack<BFloat16>(float low, float high) {
  const __nv_bfloat162 h = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const uint32_t&>(h);
}

// The product of two words of two, each rounded once.
VDK_DEVICE uint32_t multiply_bf16x2(uint32_t a, uint32_t b) {
  const __nv_bfloat162 product =
      __hmul2(reinterpret_cast<const __nv_bfloat162&>(a), reinterpret_cast<const __nv_bfloat162&>(b));
  return reinterpret_cast<const uint32_t&>(product);
}

#define VDK_APPROX(name, instruction)                              \
  VDK_DEVICE float approx_##name(float x) {                        \
    float r;                                                       \
    asm(instruction ".approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x)); \
    return r;                                                      \
  }
VDK_APPROX(exp2, "ex2")
VDK_APPROX(log2, "lg2")
VDK_APPROX(rcp, "rcp")
VDK_APPROX(sqrt, "sqrt")
VDK_APPROX(rsqrt, "rsqrt")
VDK_APPROX(sin, "sin")
VDK_APPROX(cos, "cos")
#undef VDK_APPROX

}  // namespace vdk
#endif

namespace vdk {

VDK_DEVICE float to_float(float x) { return x; }
template <class H>
VDK_DEVICE H round_to(float x) {
  if constexpr (sizeof(H) == 2)
    return H{uint16_t(pack<H>(x, 0.0f))};
  else
    return H(x);
}
template <class H>
VDK_DEVICE float2 unpack(uint32_t word) {
  return make_float2(to_float(H{uint16_t(word)}), to_float(H{uint16_t(word >> 16)}));
}

#ifdef VDK_EMULATED
template <class V>
void store_global_whole(void* p, V v) {
  store_global(p, v);
}
inline uint32_t multiply_bf16x2(uint32_t a, uint32_t b) {
  const float2 x = unpack<BFloat16>(a), y = unpack<BFloat16>(b);
  return pack<BFloat16>(x.x * y.x, x.y * y.y);
}
#endif

}  // namespace vdk
