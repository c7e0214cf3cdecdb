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

// Entry of group g of a word of signs.
VDK_INLINE uint32_t entry_of(uint32_t word, int g) {
  return uint32_t(kEntryAt[g]) + (word >> kGroupAt[g] & ((1u << (kGroupAt[g + 1] - kGroupAt[g])) - 1));
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

// Tables of one block of outputs: [words][kEntries][kBlock] by `place`.
VDK_INLINE void fill_tables(const SignWeights& layer, int64_t block, int64_t words, int16_t* tables) {
  const int64_t n = layer.width, first = block * kBlock;
  float scale[kBlock] = {};
  for (int i = 0; i < kBlock && first + i < n; ++i) {
    float sum = magnitude(layer.bias(first + i));
    for (int64_t j = 0; j < n; ++j) sum += magnitude(layer.weight(first + i, j));
    // no scale, all sums 0 and so summed again: where nothing is finite, or all is 0
    scale[i] = sum > 1e-30f && sum < 1e30f ? (kMost - 4 * float(words)) / sum : 0;
  }
  for (int64_t word = 0; word < words; ++word) {
    const int64_t inputs = n - word * kBlock < kBlock ? n - word * kBlock : kBlock;
    alignas(64) float w[kBlock * kBlock] = {}, sums[kEntries * kBlock], bias[kBlock] = {};
    for (int i = 0; i < kBlock; ++i) {
      const int64_t o = first + i;
      const int at = wide_place(i);
      if (o >= n) bias[at] = 16384;  // outputs that are not there: far from 0
      if (o >= n || scale[i] == 0) continue;
      bias[at] = layer.bias(o) * scale[i];
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
  // each entry is rounded, and a sum of floats
  const int16_t bound = int16_t(float(count * kGroups) * 0.53f + 0.5f);
  for (int64_t row = 0; row < rows; ++row) {
    const uint32_t* const mine = in + row * count;
    VecS sums[kParts] = {};
    for (int64_t word = 0; word < count; ++word) {
      const uint32_t bits = mine[word];
#pragma GCC unroll 8
      for (int g = 0; g < kGroups; ++g) {
        const int16_t* const entry = tables + (word * kEntries + entry_of(bits, g)) * kBlock;
#pragma GCC unroll 8
        for (int i = 0; i < kParts; ++i) sums[i] += load_sums(entry + i * (kBlock / kParts));
      }
    }
    VecS close{};
#pragma GCC unroll 8
    for (int i = 0; i < kParts; ++i) close |= near(sums[i], bound);
    uint32_t signs = ~negative(sums);
    if (__builtin_expect(any(close), 0)) {
      VecS mask[kParts];
      for (int i = 0; i < kParts; ++i) mask[i] = near(sums[i], bound);
      for (uint32_t again = negative(mask); again; again &= again - 1) {
        const int i = __builtin_ctz(again);
        set_bit(&signs, i, layer.positive(block * kBlock + i, mine));
      }
    }
    out[row * count + block] = signs;
  }
}

// The last layer's one output, in floats: [words][kEntries].
VDK_INLINE void fill_head(const SignWeights& layer, int64_t words, float* table) {
  for (int64_t word = 0; word < words; ++word, table += kEntries) {
    float w[kBlock] = {};
    for (int64_t j = 0; j < kBlock && word * kBlock + j < layer.width; ++j)
      w[j] = layer.weight(0, word * kBlock + j);
    for (int g = 0; g < kGroups; ++g)
      for (int m = 0; m < kEntryAt[g + 1] - kEntryAt[g]; ++m) {
        float sum = word == 0 && g == 0 ? layer.bias(0) : 0;
        for (int k = kGroupAt[g]; k < kGroupAt[g + 1]; ++k) sum += m >> (k - kGroupAt[g]) & 1 ? w[k] : -w[k];
        table[kEntryAt[g] + m] = sum;
      }
  }
}

// Squared errors of rows, summed.
VDK_INLINE double errors(const float* table, int64_t words, int64_t rows, const uint32_t* in,
                         const float* y) {
  double total = 0;
  for (int64_t row = 0; row < rows; ++row) {
    float sum = 0;
    for (int64_t word = 0; word < words; ++word) {
      const float* const mine = table + word * kEntries;
      const uint32_t bits = in[row * words + word];
      float part[kGroups];
#pragma GCC unroll 8
      for (int g = 0; g < kGroups; ++g) part[g] = mine[entry_of(bits, g)];
      sum += ((part[0] + part[1]) + (part[2] + part[3])) + (part[4] + part[5]);
    }
    const float e = sum - y[row];
    total += double(e) * e;
  }
  return total;
}

}  // namespace VDK_ISA
}  // namespace vdk
