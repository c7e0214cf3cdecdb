// Bits counted by tables in registers: vpshufb takes four channels of a pixel, as the table of popcount(a ^
// w) over w, to 32 outputs at once. Two instructions a vector, where xor, split and count take nine. Weights
// are laid out for it a task at a time, which a few pixels pay for.
#pragma once
#include "windows.h"

namespace vdk {
namespace VDK_ISA {

constexpr int64_t kTableFrom = 8;  // pixels of a call that pay for the layout
// Of a byte of channels: the low four of outputs 0..31, the high four, the same of outputs 32..63.
constexpr int64_t kPanelVectors = 4;

// Bytes of a tap's channels; the last word's empty ones are left out.
VDK_INLINE int64_t tap_bytes(const XnorArgs& a) { return (a.channels + 7) / 8; }
VDK_INLINE int64_t panel_bytes(const XnorArgs& a) {
  return a.kernel_h * a.kernel_w * tap_bytes(a) * kPanelVectors * 32;
}

}  // namespace VDK_ISA
}  // namespace vdk

#if defined(__AVX2__)
#define VDK_COUNT_TABLES
#include <immintrin.h>

namespace vdk {
namespace VDK_ISA {

constexpr int kTablePixels = 4;   // whose counts stay in registers
constexpr int kBytesOfByte = 31;  // whose counts of at most 8 fit a byte
constexpr int kSumsOfWord = 264;  // of such bytes that fit 16 bits

// popcount(a ^ w) over w for the low and the high four bits of a.
struct Tables {
  alignas(64) uint8_t of[256][2][16];
  constexpr Tables() : of() {
    for (int a = 0; a < 256; ++a)
      for (int w = 0; w < 16; ++w) {
        const int low = (a & 15) ^ w, high = (a >> 4) ^ w;
        of[a][0][w] = uint8_t((low & 1) + (low >> 1 & 1) + (low >> 2 & 1) + (low >> 3));
        of[a][1][w] = uint8_t((high & 1) + (high >> 1 & 1) + (high >> 2 & 1) + (high >> 3));
      }
  }
};
inline constexpr Tables kTables;

// Eight outputs' words -> their bytes: out[j] holds bytes 2j and 2j + 1 of the eight.
VDK_INLINE void transpose_block(const uint64_t* words, __m128i* out) {
  const __m128i pairs = _mm_setr_epi8(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
  __m128i x[4];
  for (int i = 0; i < 4; ++i)
    x[i] = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(words) + i), pairs);
  const __m128i a = _mm_unpacklo_epi16(x[0], x[1]), b = _mm_unpackhi_epi16(x[0], x[1]);
  const __m128i c = _mm_unpacklo_epi16(x[2], x[3]), d = _mm_unpackhi_epi16(x[2], x[3]);
  out[0] = _mm_unpacklo_epi32(a, c), out[1] = _mm_unpackhi_epi32(a, c);
  out[2] = _mm_unpacklo_epi32(b, d), out[3] = _mm_unpackhi_epi32(b, d);
}

// Weights of outputs [first, first + 64) as [taps, bytes, 4] vectors. Output i of 32 is byte 2i, i + 16 byte
// 2i + 1, so that the even and the odd bytes of a count are 16 outputs each, in order.
inline void fill_panel(const XnorArgs& a, int64_t first, uint8_t* panel) {
  const int64_t words = a.words(), taps = a.kernel_h * a.kernel_w, bytes = tap_bytes(a);
  const int64_t blocks = (a.outputs - first + kXnorOutputs - 1) / kXnorOutputs;
  const __m128i low = _mm_set1_epi8(15);
  for (int64_t tap = 0; tap < taps; ++tap)
    for (int64_t word = 0; word < words; ++word) {
      __m128i block[8][4];
      for (int64_t b = 0; b < 8; ++b)
        if (b < blocks)
          transpose_block(a.w + (((first / kXnorOutputs + b) * taps + tap) * words + word) * kXnorOutputs,
                          block[b]);
        else
          for (__m128i& x : block[b]) x = _mm_setzero_si128();
      for (int64_t j = 0; j < 8 && word * 8 + j < bytes; ++j) {
        __m128i* out = reinterpret_cast<__m128i*>(panel + (tap * bytes + word * 8 + j) * kPanelVectors * 32);
        for (int64_t half = 0; half < 2; ++half, out += 4) {
          __m128i v[4];
          for (int64_t b = 0; b < 4; ++b) v[b] = block[half * 4 + b][j / 2];
          const __m128i x = j % 2 ? _mm_unpackhi_epi64(v[0], v[1]) : _mm_unpacklo_epi64(v[0], v[1]);
          const __m128i y = j % 2 ? _mm_unpackhi_epi64(v[2], v[3]) : _mm_unpacklo_epi64(v[2], v[3]);
          const __m128i first16 = _mm_unpacklo_epi8(x, y), last16 = _mm_unpackhi_epi8(x, y);
          _mm_store_si128(out, _mm_and_si128(first16, low));
          _mm_store_si128(out + 1, _mm_and_si128(last16, low));
          _mm_store_si128(out + 2, _mm_and_si128(_mm_srli_epi16(first16, 4), low));
          _mm_store_si128(out + 3, _mm_and_si128(_mm_srli_epi16(last16, 4), low));
        }
      }
    }
}

// Counts of kCount pixels and kVectors times 32 outputs; sums of signs go to z[pixel].
template <int kCount, int kVectors>
VDK_INLINE void table_block(const uint8_t* const* pixels, const Stretch* stretches, int n, int64_t bytes,
                            int64_t total, const uint8_t* panel, int32_t* const* z) {
  const __m256i zero = _mm256_setzero_si256(), even = _mm256_set1_epi16(0xFF);
  __m256i counts[kCount][kVectors], sums[kCount][kVectors][2];  // a byte each; 16 bits each
  for (int p = 0; p < kCount; ++p) {
    for (int v = 0; v < kVectors; ++v) counts[p][v] = sums[p][v][0] = sums[p][v][1] = zero;
    for (int i = 0; i < kVectors * 32; ++i) z[p][i] = int32_t(total);
  }
  const auto widen = [&]() __attribute__((always_inline)) {
#pragma GCC unroll 16
    for (int p = 0; p < kCount; ++p)
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) {
        sums[p][v][0] = _mm256_add_epi16(sums[p][v][0], _mm256_and_si256(counts[p][v], even));
        sums[p][v][1] = _mm256_add_epi16(sums[p][v][1], _mm256_srli_epi16(counts[p][v], 8));
        counts[p][v] = zero;
      }
  };
  const auto write = [&]() __attribute__((always_inline)) {
    for (int p = 0; p < kCount; ++p)
      for (int v = 0; v < kVectors; ++v)
        for (int half = 0; half < 4; ++half) {
          const __m256i sum = sums[p][v][half / 2];
          const __m128i part = half % 2 ? _mm256_extracti128_si256(sum, 1) : _mm256_castsi256_si128(sum);
          __m256i* const out = reinterpret_cast<__m256i*>(z[p] + v * 32 + half * 8);
          _mm256_storeu_si256(out, _mm256_sub_epi32(_mm256_loadu_si256(out),
                                                    _mm256_slli_epi32(_mm256_cvtepu16_epi32(part), 1)));
          if (half % 2) sums[p][v][half / 2] = zero;
        }
  };
  int used = 0, widened = 0;
  for (int s = 0; s < n; ++s) {
    const Stretch& t = stretches[s];
    const __m256i* w = reinterpret_cast<const __m256i*>(panel) + t.tap * bytes * kPanelVectors;
    const int64_t first = t.word * 8, length = t.taps * bytes;
    for (int64_t k = 0; k < length;) {
      const int64_t end = length - k < kBytesOfByte - used ? length : k + kBytesOfByte - used;
      used += int(end - k);
      for (; k < end; ++k) {
        __m256i low[kVectors], high[kVectors];
#pragma GCC unroll 16
        for (int v = 0; v < kVectors; ++v)
          low[v] = _mm256_load_si256(w + k * kPanelVectors + 2 * v),
          high[v] = _mm256_load_si256(w + k * kPanelVectors + 2 * v + 1);
#pragma GCC unroll 16
        for (int p = 0; p < kCount; ++p) {
          const __m128i* const table = reinterpret_cast<const __m128i*>(kTables.of[pixels[p][first + k]]);
          const __m256i of_low = _mm256_broadcastsi128_si256(_mm_load_si128(table));
          const __m256i of_high = _mm256_broadcastsi128_si256(_mm_load_si128(table + 1));
#pragma GCC unroll 16
          for (int v = 0; v < kVectors; ++v) {
            counts[p][v] = _mm256_add_epi8(counts[p][v], _mm256_shuffle_epi8(of_low, low[v]));
            counts[p][v] = _mm256_add_epi8(counts[p][v], _mm256_shuffle_epi8(of_high, high[v]));
          }
        }
      }
      if (used < kBytesOfByte) continue;
      widen();
      used = 0;
      if (++widened == kSumsOfWord) write(), widened = 0;
    }
  }
  widen();
  write();
}

// All pixels of a group and outputs [0, 32 vectors) of a panel; rows of z are `step` apart.
template <int kVectors>
void table_pixels(const XnorArgs& a, const PixelGroup& group, const uint8_t* panel, int32_t* z,
                  int64_t step) {
  const int64_t bytes = tap_bytes(a);
  Stretch stretches[kMaxTaps];
  const int n = stretches_of(a, group.h, group.w, bytes == a.words() * 8, stretches);
  const int64_t total = (group.h.end - group.h.begin) * (group.w.end - group.w.begin) * a.channels;
  for (int64_t i = 0; i < group.n;) {
    const int count = group.n - i >= kTablePixels ? kTablePixels : 1;
    const uint8_t* pixels[kTablePixels];
    int32_t* rows[kTablePixels];
    for (int p = 0; p < count; ++p) {
      pixels[p] = reinterpret_cast<const uint8_t*>(a.a + group.origins[i + p]);
      rows[p] = z + group.places[i + p] * step;
    }
    if (count == kTablePixels)
      table_block<kTablePixels, kVectors>(pixels, stretches, n, bytes, total, panel, rows);
    else
      table_block<1, kVectors>(pixels, stretches, n, bytes, total, panel, rows);
    i += count;
  }
}

}  // namespace VDK_ISA
}  // namespace vdk
#endif
