// Kernels are compiled once per instruction set, each into a namespace of its own, and picked at run time.
//
// A file compiled more than once must not emit inline functions another one could share: a linker keeps one
// copy, and it may keep the one that this CPU cannot run. So everything such a file includes stands inside
// `namespace VDK_ISA`, and no std:: container or algorithm is used there.
#pragma once
#include <cstdint>

namespace vdk {

enum class Isa : int { kPortable = 0, kAvx2 = 1, kAvx512 = 2 };

Isa active_isa();
bool select_isa(Isa isa);  // false if it is not built in or this CPU lacks it
unsigned built_isas();     // bit i = Isa(i)
unsigned supported_isas();

// Whether variance products may be computed of bfloat16. Kernels that cannot ignore it, which is more exact.
bool bf16_variance();
void allow_bf16_variance(bool allowed);
bool has_bf16();         // whether the instruction set in use multiplies bfloat16
bool has_byte_lookup();  // whether that in use is AVX-512 and has its VBMI, which looks up bytes

}  // namespace vdk

#ifdef VDK_BUILT_AVX2
#define VDK_AVX2_CASE(type, fn) \
  if (isa == ::vdk::Isa::kAvx2) return type(&::vdk::avx2::fn);
#else
#define VDK_AVX2_CASE(type, fn)
#endif
#ifdef VDK_BUILT_AVX512
#define VDK_AVX512_CASE(type, fn) \
  if (isa == ::vdk::Isa::kAvx512) return type(&::vdk::avx512::fn);
#else
#define VDK_AVX512_CASE(type, fn)
#endif

// The overload of `fn` with function pointer type `type`, of the instruction set in use.
#define VDK_SELECT_AS(type, fn)        \
  ([](::vdk::Isa isa) -> type {        \
    (void)isa;                         \
    VDK_AVX512_CASE(type, fn)          \
    VDK_AVX2_CASE(type, fn)            \
    return type(&::vdk::portable::fn); \
  }(::vdk::active_isa()))

// Declare a kernel once for every instruction set.
#define VDK_DECLARE_KERNEL(...) \
  namespace portable {          \
  __VA_ARGS__                   \
  }                             \
  namespace avx2 {              \
  __VA_ARGS__                   \
  }                             \
  namespace avx512 {            \
  __VA_ARGS__                   \
  }
