// Signs packed and multiplied on a GPU. All pointers are device memory.
#pragma once
#include <cstddef>

#include "../cuda/types.h"
#include "xnor.h"

namespace vdk {
namespace cuda {

// As vdk::XnorPackArgs, of any floating type but double; x is of any alignment.
template <class E>
struct XnorPackArgs {
  const E* x;              // [outer, channels, inner]
  const float* threshold;  // [channels], or null: 0
  const uint64_t* flip;    // [words], or null: none
  int64_t outer, channels, inner;
  uint64_t* bits;  // [outer * inner, words]
};

void xnor_pack(const XnorPackArgs<float>& args, void* stream);
void xnor_pack(const XnorPackArgs<Float16>& args, void* stream);
void xnor_pack(const XnorPackArgs<BFloat16>& args, void* stream);

// Bytes that xnor_conv2d needs for itself.
size_t xnor_workspace(const XnorArgs& args);

// `weights` must lie at a multiple of 16 bytes. `capability`, as 90 of sm_90, decides how bits are counted.
void xnor_conv2d(const XnorArgs& args, int capability, int multiprocessors, void* workspace, void* stream);

}  // namespace cuda
}  // namespace vdk
