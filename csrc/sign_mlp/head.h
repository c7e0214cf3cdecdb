// The last layer's one output, in floats: a group of inputs picks an entry of a table, which stands in
// registers where the CPU can look up there.
#pragma once
#include "weights.h"

namespace vdk {
namespace VDK_ISA {

#if defined(__AVX512F__)
constexpr int kHeadBits = 5;
#elif defined(__AVX2__)
constexpr int kHeadBits = 3;
#else
constexpr int kHeadBits = 8;
#endif
constexpr int kHeadGroups = (kBlock + kHeadBits - 1) / kHeadBits;  // of a word
constexpr int kHeadEntries = kHeadGroups << kHeadBits;

// The entries that the lowest kHeadBits of each index pick.
VDK_INLINE VecF looked_up(const float* table, VecU index) {
#if defined(__AVX512F__)
  return (VecF)_mm512_permutex2var_ps((__m512)load(table), (__m512i)index, (__m512)load(table + 16));
#elif defined(__AVX2__)
  return (VecF)_mm256_permutevar8x32_ps((__m256)load(table), (__m256i)index);
#else
  VecF found;
  for (int i = 0; i < kLanes<float>; ++i) found[i] = table[index[i] % (1 << kHeadBits)];
  return found;
#endif
}

// [words][kHeadGroups][1 << kHeadBits]
VDK_INLINE void fill_head(const SignWeights& layer, int64_t words, float* table) {
  for (int64_t word = 0; word < words; ++word)
    for (int first = 0; first < kBlock; first += kHeadBits, table += 1 << kHeadBits) {
      float w[kHeadBits] = {};  // 0 for what is of the next word: its bits are 0
      for (int k = 0; k < kHeadBits && first + k < kBlock && word * kBlock + first + k < layer.width; ++k)
        w[k] = layer.weight(0, word * kBlock + first + k);
      table[0] = word + first ? 0 : layer.bias(0);
      for (int k = 0; k < kHeadBits; ++k) table[0] += w[k];
      for (int k = 0; k < kHeadBits; ++k)
        for (int m = 0; m < 1 << k; ++m) table[m + (1 << k)] = table[m] - 2 * w[k];
    }
}

// Squared errors of rows of signs, [words][kRows], summed. kWords: words of a row; 0: `words`.
template <int kWords>
VDK_INLINE float errors(const float* table, int64_t words, int64_t rows, const uint32_t* in, const float* y) {
  const int64_t count = kWords ? kWords : words;
  VecF total{};
  for (int64_t row = 0; row < rows; row += kLanes<float>) {
    VecF sum{};
    for (int64_t word = 0; word < count; ++word) {
      VecU bits;
      __builtin_memcpy(&bits, in + word * kRows + row, sizeof bits);
#pragma GCC unroll 11
      for (int g = 0; g < kHeadGroups; ++g)
        sum += looked_up(table + ((word * kHeadGroups + g) << kHeadBits), bits >> (g * kHeadBits));
    }
    const VecF e = sum - load_first(y + row, rows - row);
    total += rows - row < kLanes<float> ? keep_first<float>(e * e, rows - row) : e * e;
  }
  return sum_lanes<float>(total);
}

}  // namespace VDK_ISA
}  // namespace vdk
