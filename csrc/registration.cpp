// Ops register themselves in csrc/<op>/binding.cpp, against schemas that Python defines.
#include "common/binding.h"
#include "common/isa.h"

namespace vdk {
namespace {

// Select an instruction set (-1: leave it), and report: bits 0-3 the one in use, 4-7 built, 8-11 supported,
// 12 whether the one in use looks up bytes.
int64_t cpu_isa(int64_t select) {
  if (select >= 0) STD_TORCH_CHECK(select_isa(Isa(select)), "cpu_isa: this CPU or build lacks set ", select);
  return int64_t(active_isa()) | int64_t(built_isas()) << 4 | int64_t(supported_isas()) << 8 |
         int64_t(has_byte_lookup()) << 12;
}

// CUDA's version and the architectures built, as "13.0 sm_90 compute_90"; empty without CUDA kernels.
std::string cuda_build() {
#ifdef VDK_CUDA_BUILD
  return VDK_CUDA_BUILD;
#else
  return "";
#endif
}

// Allow (1) or forbid (0) variance products of bfloat16 (-1: leave it), and report: bit 0 whether they are
// allowed and possible here, bit 1 whether they are possible.
int64_t cpu_bf16_variance(int64_t select) {
  if (select >= 0) allow_bf16_variance(select != 0);
  return int64_t(bf16_variance()) | int64_t(has_bf16()) << 1;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(vdropkern, CompositeExplicitAutograd, m) {
  m.impl("cpu_isa", TORCH_BOX(&cpu_isa));
  m.impl("cuda_build", TORCH_BOX(&cuda_build));
  m.impl("cpu_bf16_variance", TORCH_BOX(&cpu_bf16_variance));
}

}  // namespace vdk
