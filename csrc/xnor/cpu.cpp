// Convolution of packed signs. A task takes some rows of output pixels. Pixels whose window meets the image
// in the same taps are taken together, so what lies outside is never read and counts for nothing. Sums go to
// a tile in cache, and from there, scaled or compared, to memory.
#include "../common/bits.h"
#include "../common/workspace.h"
#include "count.h"
#include "xnor.h"

namespace vdk {
namespace VDK_ISA {
namespace {

constexpr int64_t kTaskPixels = 256;
constexpr int kMaxRuns = 256;  // taps of a kernel
// Pixels and vectors of outputs whose counts stay in registers.
constexpr int kPixels = VDK_VECTOR_BYTES == 16 ? 2 : 4;
constexpr int kVectors = kXnorOutputs / kLanesQ;  // of eight outputs
constexpr int kGroups = VDK_VECTOR_BYTES == 64 ? 2 : 1;

// Words beside each other in image and weights.
struct Stretch {
  int64_t a, w, words;
};

struct Window {
  int64_t begin_h, end_h, begin_w, end_w;  // taps inside the image
  bool operator==(const Window& o) const {
    return begin_h == o.begin_h && end_h == o.end_h && begin_w == o.begin_w && end_w == o.end_w;
  }
};

// The taps k of [0, kernel) for which first + k dilation lies in [0, size).
VDK_INLINE void inside(int64_t first, int64_t dilation, int64_t kernel, int64_t size, int64_t& begin,
                       int64_t& end) {
  begin = first < 0 ? (-first + dilation - 1) / dilation : 0;
  end = size > first ? (size - first + dilation - 1) / dilation : 0;
  if (end > kernel) end = kernel;
  if (begin > end) begin = end;
}

int stretches_of(const XnorArgs& a, const Window& v, Stretch* out) {
  const int64_t words = a.words(), width = v.end_w - v.begin_w;
  int n = 0;
  if (width <= 0) return 0;
  for (int64_t i = v.begin_h; i < v.end_h; ++i) {
    const int64_t row = i * a.dilation_h * a.width;
    const bool together = a.dilation_w == 1;
    for (int64_t j = v.begin_w; j < v.end_w; j += together ? width : 1)
      out[n++] = {(row + j * a.dilation_w) * words, (i * a.kernel_w + j) * words,
                  (together ? width : 1) * words};
  }
  return n;
}

// Counts of kCount pixels and kBlocks times eight outputs; sums of signs go to z[pixel * step].
template <class Count, int kCount, int kBlocks>
VDK_INLINE void count_block(const uint64_t* const* pixels, const Stretch* stretches, int n, int64_t total,
                            const uint64_t* w, int64_t block_step, int32_t* const* z) {
  constexpr int kV = kVectors * kBlocks;
  VecQ sums[kCount][kV] = {}, counts[kCount][kV] = {};
  int used = 0;
  for (int s = 0; s < n; ++s) {
    const Stretch& t = stretches[s];
    const uint64_t* b = w + t.w * kXnorOutputs;
    for (int64_t k = 0; k < t.words;) {
      int64_t end = k + (Count::kMost - used);
      if (end > t.words) end = t.words;
      used += int(end - k);
      for (; k < end; ++k) {
#pragma GCC unroll 16
        for (int v = 0; v < kV; ++v) {
          const VecQ weights =
              load_words(b + v / kVectors * block_step + k * kXnorOutputs + v % kVectors * kLanesQ);
#pragma GCC unroll 16
          for (int p = 0; p < kCount; ++p)
            counts[p][v] += Count::count(weights ^ (VecQ{} + pixels[p][t.a + k]));
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

// All outputs of pixels that share a window.
template <class Count>
void count_pixels(const XnorArgs& a, const Window& window, const int64_t* origins, const int32_t* places,
                  int64_t n_pixels, int32_t* tile, int64_t tile_step) {
  Stretch stretches[kMaxRuns];
  const int n = stretches_of(a, window, stretches);
  const int64_t taps = (window.end_h - window.begin_h) * (window.end_w - window.begin_w);
  const int64_t total = taps * a.channels, blocks = tile_step / kXnorOutputs;
  const int64_t block_step = a.kernel_h * a.kernel_w * a.words() * kXnorOutputs;
  for (int64_t o = 0; o < blocks;) {
    const int groups = blocks - o >= kGroups ? kGroups : 1;
    const uint64_t* const w = a.w + o * block_step;
    for (int64_t i = 0; i < n_pixels;) {
      const int count = n_pixels - i >= kPixels ? kPixels : 1;
      const uint64_t* pixels[kPixels];
      int32_t* z[kPixels];
      for (int p = 0; p < count; ++p) {
        pixels[p] = a.a + origins[i + p];
        z[p] = tile + places[i + p] * tile_step + o * kXnorOutputs;
      }
      if (count == kPixels && groups == kGroups)
        count_block<Count, kPixels, kGroups>(pixels, stretches, n, total, w, block_step, z);
      else if (count == kPixels)
        count_block<Count, kPixels, 1>(pixels, stretches, n, total, w, block_step, z);
      else if (groups == kGroups)
        count_block<Count, 1, kGroups>(pixels, stretches, n, total, w, block_step, z);
      else
        count_block<Count, 1, 1>(pixels, stretches, n, total, w, block_step, z);
      i += count;
    }
    o += groups;
  }
}

// Output rows [first, last) of the batch, row r being row r % out_h of image r / out_h.
template <class Count>
void count_rows(const XnorArgs& a, int64_t first, int64_t last, int32_t* tile, int64_t tile_step,
                int64_t* origins, int32_t* places, bool* done) {
  const int64_t pixels = (last - first) * a.out_w, words = a.words();
  const auto window_of = [&](int64_t pixel, int64_t& origin) __attribute__((always_inline)) {
    const int64_t row = first + pixel / a.out_w, x = pixel % a.out_w;
    const int64_t image = row / a.out_h, y = row - image * a.out_h;
    const int64_t top = y * a.stride_h - a.pad_h, left = x * a.stride_w - a.pad_w;
    Window v;
    inside(top, a.dilation_h, a.kernel_h, a.height, v.begin_h, v.end_h);
    inside(left, a.dilation_w, a.kernel_w, a.width, v.begin_w, v.end_w);
    origin = ((image * a.height + top) * a.width + left) * words;
    return v;
  };
  for (int64_t i = 0; i < pixels; ++i) done[i] = false;
  for (int64_t i = 0; i < pixels; ++i) {
    if (done[i]) continue;
    int64_t origin, n = 0;
    const Window window = window_of(i, origin);
    for (int64_t j = i; j < pixels; ++j) {
      if (done[j] || !(window_of(j, origin) == window)) continue;
      done[j] = true;
      origins[n] = origin;
      places[n++] = int32_t(j);
    }
    count_pixels<Count>(a, window, origins, places, n, tile, tile_step);
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

void write_pixels_first(const XnorArgs& a, int64_t pixel, int64_t n, const int32_t* tile, int64_t step) {
  for (int64_t i = 0; i < n; ++i)
    for (int64_t o = 0; o < a.outputs; o += kLanes<float>) {
      const int64_t left = a.outputs - o;
      const VecF bias = a.bias ? load_first(a.bias + o, left) : VecF{};
      const VecF y = scaled(load_sums(tile + i * step + o), load_first(a.alpha + o, left), bias);
      store_first(a.y + (pixel + i) * a.outputs + o, y, left);
    }
}

// n pixels of one image, from `pixel` of it on.
void write_planes(const XnorArgs& a, int64_t image, int64_t pixel, int64_t n, const int32_t* tile,
                  int64_t step) {
  constexpr int kL = kLanes<float>;
  const int64_t plane = a.out_h * a.out_w;
  for (int64_t o = 0; o < a.outputs; o += kL) {
    const int64_t left = a.outputs - o, most = left < kL ? left : kL;
    const VecF alpha = load_first(a.alpha + o, left), bias = a.bias ? load_first(a.bias + o, left) : VecF{};
    float* const y = a.y + (image * a.outputs + o) * plane + pixel;
    for (int64_t i = 0; i < n; i += kL) {
      VecF square[kL];
      for (int j = 0; j < kL; ++j)
        square[j] = i + j < n ? scaled(load_sums(tile + (i + j) * step + o), alpha, bias) : VecF{};
      transpose<float>(square);
      for (int64_t j = 0; j < most; ++j) store_first(y + j * plane + i, square[j], n - i);
    }
  }
}

void write_bits(const XnorArgs& a, int64_t pixel, int64_t n, const int32_t* tile, int64_t step) {
  const int64_t words = a.out_words();
  for (int64_t i = 0; i < n; ++i)
    for (int64_t w = 0; w < words; ++w) {
      const int64_t first = w * 64, count = a.outputs - first < 64 ? a.outputs - first : 64;
      uint64_t bits = 0;
      for (int64_t j = 0; j < count; j += kLanes<float>) {
        const VecI t = as_int(load_first(reinterpret_cast<const float*>(a.threshold + first + j), count - j));
        bits |= lane_bits(load_sums(tile + i * step + first + j) < t) << j;
      }
      if (count < 64) bits &= (uint64_t(1) << count) - 1;
      a.bits[(pixel + i) * words + w] = bits ^ a.flip[w];
    }
}

template <class Count>
void run(const XnorArgs& a, const Parallel& parallel) {
  const int64_t rows = a.batch * a.out_h, plane = a.out_h * a.out_w;
  if (rows * a.out_w * a.outputs == 0) return;
  const int64_t step = (a.outputs + kXnorOutputs - 1) / kXnorOutputs * kXnorOutputs;
  int64_t per_task = kTaskPixels / a.out_w;
  const int64_t share = (rows + parallel.threads - 1) / parallel.threads;
  if (per_task > share) per_task = share;
  if (per_task < 1) per_task = 1;
  const int64_t tasks = (rows + per_task - 1) / per_task, most = per_task * a.out_w;
  parallel(tasks, [&](int64_t task) {
    int32_t *tile, *places;
    int64_t* origins;
    bool* done;
    const auto carve = [&](Carver carver) {
      tile = carver.take<int32_t>(most * step + 64);  // whole vectors are read
      places = carver.take<int32_t>(most);
      origins = carver.take<int64_t>(most);
      done = carver.take<bool>(most);
      return carver.used();
    };
    carve(Carver(scratch(Scratch::kTask, carve(Carver()))));
    const int64_t first = task * per_task, last = first + per_task < rows ? first + per_task : rows;
    count_rows<Count>(a, first, last, tile, step, origins, places, done);
    const int64_t begin = first * a.out_w, end = last * a.out_w;
    if (!a.y) return write_bits(a, begin, end - begin, tile, step);
    if (a.pixels_first) return write_pixels_first(a, begin, end - begin, tile, step);
    for (int64_t p = begin, n; p < end; p += n) {
      const int64_t image = p / plane, in_image = p - image * plane;
      n = plane - in_image < end - p ? plane - in_image : end - p;
      write_planes(a, image, in_image, n, tile + (p - begin) * step, step);
    }
  });
}

}  // namespace

void xnor_conv2d(const XnorArgs& args, const Parallel& parallel) {
#ifdef VDK_COUNT_WORDS
  if (args.popcount) return run<CountWords>(args, parallel);
#endif
  run<CountBytes>(args, parallel);
}

}  // namespace VDK_ISA
}  // namespace vdk
