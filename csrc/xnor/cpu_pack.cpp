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

constexpr int64_t kStrip = 1024;  // pixels at a time: long runs of memory for the prefetcher

// Pixels beside each other: 32 channels shift their comparison through the lanes, a lane a pixel.
void pack_strip(const XnorPackArgs& a, int64_t image, int64_t pixel, int64_t n) {
  constexpr int kL = kLanes<float>;
  const int64_t words = (a.channels + 63) / 64, whole = n / kL * kL;
  alignas(64) uint32_t strip[kStrip];
  for (int64_t half = 0; half < 2 * words; ++half) {
    const int64_t first = half * 32, left = a.channels - first, channels = left < 32 ? left : 32;
    const float* x = a.x + (image * a.channels + first) * a.inner + pixel;
    for (int64_t i = 0; i < n; ++i) strip[i] = 0;
    for (int64_t c = 0; c < channels; ++c, x += a.inner) {
      const VecF t = broadcast(a.threshold ? a.threshold[first + c] : 0.0f);
      const auto shift_in = [&](int64_t i, VecF v) __attribute__((always_inline)) {
        VecU bits;
        __builtin_memcpy(&bits, strip + i, sizeof bits);
        bits = bits >> 1 | ((VecU)(v < t) & 0x80000000u);
        __builtin_memcpy(strip + i, &bits, sizeof bits);
      };
      for (int64_t i = 0; i < whole; i += kL) shift_in(i, load(x + i));
      if (whole < n) shift_in(whole, load_first(x + whole, n - whole));
    }
    const int shift = channels > 0 ? int(32 - channels) : 0;
    const uint32_t flip = a.flip ? uint32_t(a.flip[half / 2] >> (half % 2 * 32)) : 0;
    uint64_t* const out = a.bits + (image * a.inner + pixel) * words + half / 2;
    for (int64_t i = 0; i < n; ++i) {
      const uint64_t word = (strip[i] >> shift) ^ flip;
      out[i * words] = half % 2 ? out[i * words] | word << 32 : word;
    }
  }
}

void pack_image(const XnorPackArgs& a, int64_t image) {
  for (int64_t p = 0; p < a.inner; p += kStrip)
    pack_strip(a, image, p, a.inner - p < kStrip ? a.inner - p : kStrip);
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
