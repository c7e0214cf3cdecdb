// The steps of a product: operands on their way to shared memory while earlier ones are multiplied.
#pragma once
#include "simt.cuh"

namespace vdk {
namespace cuda {

// Tiles in shared memory: of three steps where they are used as they came, of two where they are converted.
constexpr int kPlainSlots = 3, kConvertedSlots = 2;

// One barrier a step: while a tile is multiplied, the operands of the next are converted and the one after is
// on its way. `feed` has fetch(plain slot, converted slot), which starts the copies of its next step, and
// advance(); convert(slot) makes operands of what this thread copied; multiply(plain slot, converted slot).
template <class Feed, class Convert, class Multiply>
VDK_DEVICE void pipelined(Feed& feed, int steps, Convert&& convert, Multiply&& multiply) {
  for (int step = 0; step < 2; ++step) {
    if (step < steps) feed.fetch(step, step);
    feed.advance();
    cp_async_commit();
  }
  const auto next_slot = [](int slot) { return slot == kPlainSlots - 1 ? 0 : slot + 1; };
  const auto prepare = [&](int slot) {
    cp_async_wait<1>();
    convert(slot);
  };
  if (steps) prepare(0);
  __syncthreads();
  int to = 2, from = 0;
  VDK_ROLLED
  for (int step = 0; step < steps; ++step) {
    if (step + 2 < steps) feed.fetch(to, step % 2);
    feed.advance();
    cp_async_commit();
    multiply(from, step % 2);
    if (step + 1 < steps) prepare((step + 1) % 2);
    to = next_slot(to);
    from = next_slot(from);
    __syncthreads();
  }
  cp_async_wait<0>();
}

// KiB of shared memory of a multiprocessor, by compute capability.
constexpr int shared_kib(int capability) {
  if (capability == 86 || capability == 89 || capability >= 120) return 100;
  return capability < 80 ? 64 : capability < 90 ? 164 : 228;
}

// Blocks as wanted, but no more than shared memory holds.
constexpr int fitting_blocks(int capability, int wanted, int bytes) {
  const int fit = (shared_kib(capability) << 10) / (bytes + 1024);
  return fit < 1 ? 1 : fit < wanted ? fit : wanted;
}

// With registers saved for blocks that cannot be there, products spill on sm_120.
template <int kWanted, int kSharedBytes>
constexpr int blocks_at_once() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1200
  return fitting_blocks(120, kWanted, kSharedBytes);
#else
  return kWanted;
#endif
}

}  // namespace cuda
}  // namespace vdk
