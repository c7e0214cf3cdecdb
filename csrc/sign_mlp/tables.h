// A layer whose inputs are signs. Its inputs are taken in groups of 5 or 6, and all sums a group can have
// stand in a table: 32 outputs of sixteen bits an entry, so that a row's sums are one entry a group, added.
// Each output has a unit of its own. What lies within the rounding errors of 0 is summed again in floats.
#pragma once
#include "../common/bits.h"
#include "sign_mlp.h"
#include "words.h"

namespace vdk {
namespace VDK_ISA {

constexpr int kGroups = 6;  // of a word of 32 inputs
constexpr int kGroupAt[kGroups + 1] = {0, 6, 12, 17, 22, 27, 32};
constexpr int kEntryAt[kGroups + 1] = {0, 64, 128, 160, 192, 224, 256};
constexpr int kEntries = kEntryAt[kGroups];

// The entry of group g for a word of signs, of the tables of that word.
VDK_INLINE const int16_t* entry_of(const int16_t* tables, uint32_t word, int g) {
  constexpr int kBytes = 6;  // log2 of an entry's
  static_assert(kBlock * 2 == 1 << kBytes, "");
  const uint32_t mask = ((1u << (kGroupAt[g + 1] - kGroupAt[g])) - 1) << kBytes;
  const int shift = kGroupAt[g] - kBytes;
  const size_t offset =
      (shift < 0 ? word << (shift < 0 ? -shift : 0) : word >> (shift < 0 ? 0 : shift)) & mask;
  return reinterpret_cast<const int16_t*>(reinterpret_cast<const char*>(tables) + offset) +
         kEntryAt[g] * kBlock;
}

// mu + sign sigma e of one layer.
struct SignWeights {
  const float *mu, *noise;  // [outputs, width], then [outputs] biases
  float sign;
  int64_t width, outputs;

  VDK_INLINE float weight(int64_t o, int64_t j) const {
    return mu[o * width + j] + sign * noise[o * width + j];
  }
  VDK_INLINE float bias(int64_t o) const {
    return mu[outputs * width + o] + sign * noise[outputs * width + o];
  }

  // Whether the sum of output o is at least 0, for inputs of these signs.
  __attribute__((noinline)) bool positive(int64_t o, const uint32_t* in) const {
    VecF sum{};
    for (int64_t j = 0; j < width; j += kLanes<float>) {
      const int64_t at = o * width + j, left = width - j;
      const VecF w = load_first(mu + at, left) + sign * load_first(noise + at, left);
      const uint32_t bits = in[j / kBlock] >> j % kBlock;
      sum += where_bits<float>(bits, w) - where_bits<float>(~bits, w);
    }
    return bias(o) + sum_lanes<float>(sum) >= 0;
  }
};

// Sums of one word of inputs, [kEntries][kBlock], of the weights w[input][kBlock].
VDK_INLINE void fill_entries(const float* w, float* sums) {
  for (int g = 0; g < kGroups; ++g)
    for (int v = 0; v < kBlock; v += kLanes<float>) {
      const float* const own = w + kGroupAt[g] * kBlock + v;
      float* const entry = sums + kEntryAt[g] * kBlock + v;
      const int bits = kGroupAt[g + 1] - kGroupAt[g];
      VecF none{};
      for (int k = 0; k < bits; ++k) none -= load(own + k * kBlock);
      store(entry, none);
      for (int k = 0; k < bits; ++k)
        for (int m = 0; m < 1 << k; ++m)
          store(entry + (m + (1 << k)) * kBlock, load(entry + m * kBlock) + 2.0f * load(own + k * kBlock));
    }
}

// Of the error of a sum: each entry is rounded, and a sum of floats.
VDK_INLINE int table_bound(int64_t words) { return int(float(words * kGroups) * 0.53f + 0.5f); }

// Tables of one block of outputs, to whose sums the bound is added: [words][kEntries][kBlock] by `place`.
VDK_INLINE void fill_tables(const SignWeights& layer, int64_t block, int64_t words, int16_t* tables) {
  const int64_t n = layer.width, first = block * kBlock;
  float scale[kBlock] = {};
  for (int i = 0; i < kBlock && first + i < n; ++i) {
    float sum = magnitude(layer.bias(first + i));
    for (int64_t j = 0; j < n; ++j) sum += magnitude(layer.weight(first + i, j));
    // no scale, all sums 0 and so summed again: where nothing is finite, or all is 0
    scale[i] = sum > 1e-30f && sum < 1e30f ? (kMost - 8 * float(words)) / sum : 0;
  }
  for (int64_t word = 0; word < words; ++word) {
    const int64_t inputs = n - word * kBlock < kBlock ? n - word * kBlock : kBlock;
    alignas(64) float w[kBlock * kBlock] = {}, sums[kEntries * kBlock], bias[kBlock] = {};
    for (int i = 0; i < kBlock; ++i) {
      const int64_t o = first + i;
      const int at = wide_place(i);
      if (o >= n) bias[at] = 16384;  // outputs that are not there: far from 0
      if (o >= n) continue;
      bias[at] = layer.bias(o) * scale[i] + float(table_bound(words));
      for (int64_t j = 0; j < inputs; ++j) w[j * kBlock + at] = layer.weight(o, word * kBlock + j) * scale[i];
    }
    fill_entries(w, sums);
    for (int e = 0; e < kEntries; ++e, tables += kBlock) {
      VecI wide[kWide];
      VecS packed[kParts];
      for (int v = 0; v < kWide; ++v) {
        VecF sum = load(sums + e * kBlock + v * kLanes<float>);
        if (word == 0 && e < kEntryAt[1]) sum += load(bias + v * kLanes<float>);
        wide[v] = __builtin_convertvector(sum + 32768.5f, VecI) - 32768;
      }
      pack_block(wide, packed);
      for (int i = 0; i < kParts; ++i) store(tables + i * (kBlock / kParts), packed[i]);
    }
  }
}

// Signs of a block of outputs for rows of signs. kWords: words of a row; 0: `words`.
template <int kWords>
VDK_INLINE void look_up_rows(const SignWeights& layer, int64_t block, int64_t words, const int16_t* tables,
                             int64_t rows, const uint32_t* in, uint32_t* out) {
  const int64_t count = kWords ? kWords : words;
  const int bound = table_bound(count);
  for (int64_t row = 0; row < rows; ++row) {
    const uint32_t* const mine = in + row * count;
    VecS sums[kParts] = {};
    for (int64_t word = 0; word < count; ++word) {
      const uint32_t bits = mine[word];
#pragma GCC unroll 8
      for (int g = 0; g < kGroups; ++g) {
        const int16_t* const entry = entry_of(tables + word * kEntries * kBlock, bits, g);
#pragma GCC unroll 8
        for (int i = 0; i < kParts; ++i) sums[i] += load_sums(entry + i * (kBlock / kParts));
      }
    }
    const Signs found = signs_of(sums, 2 * bound);
    uint32_t signs = ~found.negative;
    if (__builtin_expect(found.within != 0, 0))
      for (uint32_t again = found.within; again; again &= again - 1) {
        const int i = __builtin_ctz(again);
        set_bit(&signs, i, layer.positive(block * kBlock + i, mine));
      }
    out[row * count + block] = signs;
  }
}

// The last layer's one output, in floats, of groups of 8 inputs: [words][4][256].
constexpr int kHeadEntries = 4 * 256;
VDK_INLINE void fill_head(const SignWeights& layer, int64_t words, float* table) {
  for (int64_t first = 0; first < words * kBlock; first += 8, table += 256) {
    float w[8] = {};
    for (int64_t k = 0; k < 8 && first + k < layer.width; ++k) w[k] = layer.weight(0, first + k);
    table[0] = first ? 0 : layer.bias(0);
    for (int k = 0; k < 8; ++k) table[0] -= w[k];
    for (int k = 0; k < 8; ++k)
      for (int m = 0; m < 1 << k; ++m) table[m + (1 << k)] = table[m] + 2 * w[k];
  }
}

// Squared errors of rows, summed. kWords as above.
template <int kWords>
VDK_INLINE float errors(const float* table, int64_t words, int64_t rows, const uint32_t* in, const float* y) {
  const int64_t count = kWords ? kWords : words;
  float total = 0;
  for (int64_t row = 0; row < rows; ++row) {
    float sum = 0;
    for (int64_t word = 0; word < count; ++word) {
      const float* const mine = table + word * kHeadEntries;
      const uint32_t bits = in[row * count + word];
      sum += (mine[bits & 255] + mine[256 + (bits >> 8 & 255)]) +
             (mine[512 + (bits >> 16 & 255)] + mine[768 + (bits >> 24)]);
    }
    const float e = sum - y[row];
    total += e * e;
  }
  return total;
}

}  // namespace VDK_ISA
}  // namespace vdk
