// Convolution of packed signs. A task takes some rows of output pixels and some outputs, 64 at a time. Sums
// go to a tile in cache, and from there, scaled or compared, to memory.
#include "../common/bits.h"
#include "../common/workspace.h"
#include "count.h"
#include "table.h"
#include "windows.h"
#include "xnor.h"

namespace vdk {
namespace VDK_ISA {
namespace {

template <int kValue>
struct Constant {
  static constexpr int value = kValue;
};

VDK_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

constexpr int64_t kTaskPixels = 128;
constexpr int64_t kTileOutputs = 64;        // a word of packed ones
constexpr int64_t kTaskProducts = 1 << 21;  // of signs, worth a thread
// Pixels and vectors of outputs whose counts stay in registers.
constexpr int kPixels = VDK_VECTOR_BYTES == 64 ? 4 : 2;
constexpr int kVectors = kXnorOutputs / kLanesQ;  // of eight outputs
constexpr int kGroups = VDK_VECTOR_BYTES == 64 ? 2 : 1;

// Counts of kCount pixels and kBlocks times eight outputs; sums of signs go to z[pixel * step].
template <class Count, int kCount, int kBlocks>
VDK_INLINE void count_block(const uint64_t* const* pixels, const Stretch* stretches, int n, int64_t words,
                            int64_t total, const uint64_t* w, int64_t block_step, int32_t* const* z) {
  constexpr int kV = kVectors * kBlocks;
  VecQ sums[kCount][kV] = {}, counts[kCount][kV] = {};
  int used = 0;
  for (int s = 0; s < n; ++s) {
    const Stretch& t = stretches[s];
    const uint64_t* b = w + t.tap * words * kXnorOutputs;
    const int64_t length = t.taps * words;
    for (int64_t k = 0; k < length;) {
      int64_t end = k + (Count::kMost - used);
      if (end > length) end = length;
      used += int(end - k);
      for (; k < end; ++k) {
#pragma GCC unroll 16
        for (int v = 0; v < kV; ++v) {
          const VecQ weights =
              load_words(b + v / kVectors * block_step + k * kXnorOutputs + v % kVectors * kLanesQ);
#pragma GCC unroll 16
          for (int p = 0; p < kCount; ++p)
            counts[p][v] += Count::count(weights ^ (VecQ{} + pixels[p][t.word + k]));
        }
      }
      if (used == Count::kMost) {
#pragma GCC unroll 16
        for (int p = 0; p < kCount; ++p)
#pragma GCC unroll 16
          for (int v = 0; v < kV; ++v) sums[p][v] += Count::widen(counts[p][v]), counts[p][v] = VecQ{};
        used = 0;
      }
    }
  }
#pragma GCC unroll 16
  for (int p = 0; p < kCount; ++p) {
    alignas(64) uint64_t words[kV * kLanesQ];
#pragma GCC unroll 16
    for (int v = 0; v < kV; ++v) {
      const VecQ sum = sums[p][v] + Count::widen(counts[p][v]);
      __builtin_memcpy(words + v * kLanesQ, &sum, sizeof sum);
    }
    for (int i = 0; i < kV * kLanesQ; ++i) z[p][i] = int32_t(total) - 2 * int32_t(words[i]);
  }
}

// All pixels of a group and outputs [first, first + outputs) of the layer.
template <class Count>
void count_pixels(const XnorArgs& a, const PixelGroup& group, int64_t first, int64_t outputs, int32_t* tile) {
  Stretch stretches[kMaxTaps];
  const int n = stretches_of(a, group.h, group.w, true, stretches);
  const int64_t total = (group.h.end - group.h.begin) * (group.w.end - group.w.begin) * a.channels;
  const int64_t blocks = (outputs + kXnorOutputs - 1) / kXnorOutputs;
  const int64_t block_step = a.kernel_h * a.kernel_w * a.words() * kXnorOutputs;
  for (int64_t o = 0; o < blocks;) {
    const int groups = blocks - o >= kGroups ? kGroups : 1;
    const uint64_t* const w = a.w + (first / kXnorOutputs + o) * block_step;
    for (int64_t i = 0; i < group.n;) {
      const int count = group.n - i >= kPixels ? kPixels : 1;
      const uint64_t* pixels[kPixels];
      int32_t* z[kPixels];
      for (int p = 0; p < count; ++p) {
        pixels[p] = a.a + group.origins[i + p];
        z[p] = tile + group.places[i + p] * kTileOutputs + o * kXnorOutputs;
      }
      const auto block = [&](auto kCount, auto kBlocks) {
        count_block<Count, kCount.value, kBlocks.value>(pixels, stretches, n, a.words(), total, w, block_step,
                                                        z);
      };
      if (count == kPixels && groups == kGroups)
        block(Constant<kPixels>{}, Constant<kGroups>{});
      else if (count == kPixels)
        block(Constant<kPixels>{}, Constant<1>{});
      else if (groups == kGroups)
        block(Constant<1>{}, Constant<kGroups>{});
      else
        block(Constant<1>{}, Constant<1>{});
      i += count;
    }
    o += groups;
  }
}

// alpha z + bias, each rounded: the sum must not be fused with the product.
VDK_INLINE VecF scaled(VecI z, VecF alpha, VecF bias) {
  VecF product = to_float(z) * alpha;
#if defined(__AVX512F__)
  asm("" : "+v"(product));
#elif defined(__x86_64__)
  asm("" : "+x"(product));
#elif defined(__aarch64__)
  asm("" : "+w"(product));
#endif
  return product + bias;
}

VDK_INLINE VecI load_sums(const int32_t* z) {
  VecI v;
  __builtin_memcpy(&v, z, sizeof v);
  return v;
}

// Where sums of a tile go: n pixels from `pixel` on, outputs [first, first + outputs).
struct Target {
  int64_t pixel, n, first, outputs;
};

void write_pixels_first(const XnorArgs& a, const Target& t, const int32_t* tile) {
  for (int64_t i = 0; i < t.n; ++i)
    for (int64_t o = 0; o < t.outputs; o += kLanes<float>) {
      const int64_t left = t.outputs - o, at = t.first + o;
      const VecF bias = a.bias ? load_first(a.bias + at, left) : VecF{};
      const VecF y = scaled(load_sums(tile + i * kTileOutputs + o), load_first(a.alpha + at, left), bias);
      store_first(a.y + (t.pixel + i) * a.outputs + at, y, left);
    }
}

// Pixels of one image, `pixel` counted in it.
void write_planes(const XnorArgs& a, int64_t image, const Target& t, const int32_t* tile) {
  constexpr int kL = kLanes<float>;
  const int64_t plane = a.out_h * a.out_w;
  for (int64_t o = 0; o < t.outputs; o += kL) {
    const int64_t left = t.outputs - o, most = left < kL ? left : kL, at = t.first + o;
    const VecF alpha = load_first(a.alpha + at, left), bias = a.bias ? load_first(a.bias + at, left) : VecF{};
    float* const y = a.y + (image * a.outputs + at) * plane + t.pixel;
    for (int64_t i = 0; i < t.n; i += kL) {
      VecF square[kL];
      for (int j = 0; j < kL; ++j)
        square[j] = i + j < t.n ? scaled(load_sums(tile + (i + j) * kTileOutputs + o), alpha, bias) : VecF{};
      transpose<float>(square);
      for (int64_t j = 0; j < most; ++j) store_first(y + j * plane + i, square[j], t.n - i);
    }
  }
}

void write_bits(const XnorArgs& a, const Target& t, const int32_t* tile) {
  const int64_t word = t.first / 64;
  for (int64_t i = 0; i < t.n; ++i) {
    uint64_t bits = 0;
    for (int64_t j = 0; j < t.outputs; j += kLanes<float>) {
      const auto* thresholds = reinterpret_cast<const float*>(a.threshold + t.first + j);
      const VecI limit = as_int(load_first(thresholds, t.outputs - j));
      bits |= lane_bits(load_sums(tile + i * kTileOutputs + j) < limit) << j;
    }
    if (t.outputs < 64) bits &= (uint64_t(1) << t.outputs) - 1;
    a.bits[(t.pixel + i) * a.out_words() + word] = bits ^ a.flip[word];
  }
}

void write(const XnorArgs& a, const Target& t, const int32_t* tile) {
  if (!a.y) return write_bits(a, t, tile);
  const int64_t plane = a.out_h * a.out_w;
  if (a.pixels_first || plane == 1) return write_pixels_first(a, t, tile);
  for (int64_t p = t.pixel, n; p < t.pixel + t.n; p += n) {
    const int64_t image = p / plane, in_image = p - image * plane, left = t.pixel + t.n - p;
    n = plane - in_image < left ? plane - in_image : left;
    write_planes(a, image, {in_image, n, t.first, t.outputs}, tile + (p - t.pixel) * kTileOutputs);
  }
}

template <class Count>
void run(const XnorArgs& a, bool tables, const Parallel& parallel) {
  const int64_t rows = a.batch * a.out_h, tiles = (a.outputs + kTileOutputs - 1) / kTileOutputs;
  if (rows * a.out_w * tiles == 0) return;
  const int64_t per_task = a.out_w < kTaskPixels ? kTaskPixels / a.out_w : 1;
  const int64_t row_tasks = (rows + per_task - 1) / per_task;
  // Few rows: threads share out the outputs instead.
  const double products = double(rows * a.out_w) * double(a.outputs * a.kernel_h * a.kernel_w * a.channels);
  const int64_t wanted = least((2 * parallel.threads + row_tasks - 1) / row_tasks, tiles);
  const int64_t parts = least(wanted, int64_t(products / double(kTaskProducts)) / row_tasks + 1);
  parallel(row_tasks * parts, [&](int64_t task) {
    const int64_t first = task / parts * per_task, last = least(first + per_task, rows);
    const Range mine = part_of(tiles, 1, task % parts, parts);
    Windows windows;
    int32_t* tile;
    uint8_t* panel;
    const auto carve = [&](Carver carver) {
      windows = Windows(a, per_task, carver);
      tile = carver.take<int32_t>(per_task * a.out_w * kTileOutputs);
      panel = carver.take<uint8_t>(tables ? panel_bytes(a) : 0);
      return carver.used();
    };
    carve(Carver(scratch(Scratch::kTask, carve(Carver()))));
    windows.set(a, first, last);
    for (int64_t o = mine.begin; o < mine.end; ++o) {
      const int64_t begin = o * kTileOutputs, outputs = least(a.outputs - begin, kTileOutputs);
#ifdef VDK_COUNT_TABLES
      if (tables) {
        fill_panel(a, begin, panel);
        windows.each_group([&](const PixelGroup& group) {
          if (outputs > 32) return table_pixels<2>(a, group, panel, tile, kTileOutputs);
          table_pixels<1>(a, group, panel, tile, kTileOutputs);
        });
      } else
#endif
      {
        windows.each_group([&](const PixelGroup& g) { count_pixels<Count>(a, g, begin, outputs, tile); });
      }
      write(a, {first * a.out_w, (last - first) * a.out_w, begin, outputs}, tile);
    }
  });
}

}  // namespace

void xnor_conv2d(const XnorArgs& args, const Parallel& parallel) {
#ifdef VDK_COUNT_WORDS
  if (args.popcount) return run<CountWords>(args, false, parallel);
#endif
  run<CountBytes>(args, args.batch * args.out_h * args.out_w >= kTableFrom, parallel);
}

}  // namespace VDK_ISA
}  // namespace vdk
