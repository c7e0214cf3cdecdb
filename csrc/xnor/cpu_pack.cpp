// Signs of floats as bits, one pass over memory.
#include "../common/bits.h"
#include "xnor.h"

namespace vdk {
namespace VDK_ISA {
namespace {

constexpr int64_t kGrain = 1 << 14;  // elements worth a thread

// Channels beside each other: a comparison's lanes are bits already.
void pack_row(const XnorPackArgs& a, int64_t row) {
  const float* const x = a.x + row * a.channels;
  const int64_t words = (a.channels + 63) / 64;
  for (int64_t w = 0; w < words; ++w) {
    const int64_t first = w * 64, n = a.channels - first < 64 ? a.channels - first : 64;
    uint64_t bits = 0;
    for (int64_t j = 0; j < n; j += kLanes<float>) {
      const VecF v = load_first(x + first + j, n - j);
      const VecF t = a.threshold ? load_first(a.threshold + first + j, n - j) : VecF{};
      bits |= lane_bits(v < t) << j;
    }
    if (n < 64) bits &= (uint64_t(1) << n) - 1;
    a.bits[row * words + w] = a.flip ? bits ^ a.flip[w] : bits;
  }
}

constexpr int kSets = 4;  // vectors of pixels at a time

// Pixels beside each other: 32 channels shift their comparison through the lanes, a lane a pixel.
template <int kCount>
VDK_INLINE void pack_pixels(const XnorPackArgs& a, int64_t image, int64_t pixel, int64_t left) {
  const int64_t words = (a.channels + 63) / 64;
  for (int64_t half = 0; half < 2 * words; ++half) {
    VecU bits[kCount] = {};
    const int64_t first = half * 32, n = a.channels - first < 32 ? a.channels - first : 32;
    const float* x = a.x + (image * a.channels + first) * a.inner + pixel;
    for (int64_t c = 0; c < n; ++c, x += a.inner) {
      const float t = a.threshold ? a.threshold[first + c] : 0.0f;
      for (int s = 0; s < kCount; ++s) {
        const VecF v = kCount > 1 ? load(x + s * kLanes<float>) : load_first(x, left);
        bits[s] = bits[s] >> 1 | ((VecU)(v < VecF{} + t) & 0x80000000u);
      }
    }
    const uint32_t flip = a.flip ? uint32_t(a.flip[half / 2] >> (half % 2 * 32)) : 0;
    for (int s = 0; s < kCount; ++s) {
      const VecU word = (n <= 0 ? VecU{} : n < 32 ? bits[s] >> uint32_t(32 - n) : bits[s]) ^ flip;
      for (int i = 0; i < kLanes<float> && s * kLanes<float> + i < left; ++i) {
        const int64_t at = (image * a.inner + pixel + s * kLanes<float> + i) * words + half / 2;
        const uint64_t placed = uint64_t(word[i]) << (half % 2 * 32);
        a.bits[at] = half % 2 ? a.bits[at] | placed : placed;
      }
    }
  }
}

void pack_image(const XnorPackArgs& a, int64_t image) {
  constexpr int64_t kStep = kSets * kLanes<float>;
  int64_t p = 0;
  for (; p + kStep <= a.inner; p += kStep) pack_pixels<kSets>(a, image, p, kStep);
  for (; p < a.inner; p += kLanes<float>) pack_pixels<1>(a, image, p, a.inner - p);
}

}  // namespace

void xnor_pack(const XnorPackArgs& a, const Parallel& parallel) {
  const int64_t wanted = a.outer * a.channels * a.inner / kGrain + 1;
  const int64_t most = wanted < parallel.threads ? wanted : parallel.threads;
  const int64_t tasks = most < a.outer ? most : a.outer;
  parallel(tasks, [&](int64_t task) {
    const Range mine = part_of(a.outer, 1, task, tasks);
    for (int64_t i = mine.begin; i < mine.end; ++i) a.inner == 1 ? pack_row(a, i) : pack_image(a, i);
  });
}

}  // namespace VDK_ISA
}  // namespace vdk
