#include "isa.h"

#include <atomic>
#include <cstdlib>
#include <cstring>

namespace vdk {
namespace {

constexpr const char* kNames[] = {"portable", "avx2", "avx512"};

unsigned built() {
  unsigned bits = 1;
#ifdef VDK_BUILT_AVX2
  bits |= 2;
#endif
#ifdef VDK_BUILT_AVX512
  bits |= 4;
#endif
  return bits;
}

unsigned supported() {
  unsigned bits = 1;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))
    bits |= 2;
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    bits |= 4;
#endif
  return bits & built();
}

// The best one, or the one VDROPKERN_CPU_ISA names where it can run.
int initial() {
  const unsigned can = supported();
  if (const char* wanted = std::getenv("VDROPKERN_CPU_ISA"))
    for (int i = 0; i < 3; ++i)
      if (std::strcmp(wanted, kNames[i]) == 0 && (can >> i & 1)) return i;
  return can & 4 ? 2 : can & 2 ? 1 : 0;
}

std::atomic<int>& active() {
  static std::atomic<int> isa{initial()};
  return isa;
}

}  // namespace

Isa active_isa() { return Isa(active().load(std::memory_order_relaxed)); }

bool select_isa(Isa isa) {
  if (!(supported() >> int(isa) & 1)) return false;
  active().store(int(isa), std::memory_order_relaxed);
  return true;
}

bool has_bf16() {
#if defined(VDK_BUILT_AVX512) && defined(VDK_BUILT_BF16)
  static const bool cpu_has = __builtin_cpu_supports("avx512bf16");
  return cpu_has && active_isa() == Isa::kAvx512;
#else
  return false;
#endif
}

bool has_byte_lookup() {
#ifdef VDK_BUILT_AVX512
  static const bool cpu_has = __builtin_cpu_supports("avx512vbmi");
  return cpu_has && active_isa() == Isa::kAvx512;
#else
  return false;
#endif
}

namespace {
std::atomic<bool> bf16_allowed{false};
}
void allow_bf16_variance(bool allowed) { bf16_allowed.store(allowed, std::memory_order_relaxed); }
bool bf16_variance() { return bf16_allowed.load(std::memory_order_relaxed) && has_bf16(); }

unsigned built_isas() { return built(); }
unsigned supported_isas() { return supported(); }

}  // namespace vdk
