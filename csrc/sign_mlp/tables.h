// A layer whose inputs are signs. Its inputs are taken in groups of 5 or 6, and all sums a group can have
// stand in a table: 32 outputs of sixteen bits an entry, so that a row's sums are one entry a group, added.
// Each output has a unit of its own. What lies within the rounding errors of 0 is summed again in floats.
#pragma once
#include "weights.h"

namespace vdk {
namespace VDK_ISA {

constexpr int kGroupAt[kGroups + 1] = {0, 6, 12, 17, 22, 27, 32};
constexpr int kEntryAt[kGroups + 1] = {0, 64, 128, 160, 192, 224, 256};
static_assert(kEntryAt[kGroups] == kEntries, "");

// The entry of group g for a word of signs, of the tables of that word.
VDK_INLINE const int16_t* entry_of(const int16_t* tables, uint32_t word, int g) {
  constexpr int kBytes = 6;  // log2 of an entry's
  static_assert(kBlock * 2 == 1 << kBytes, "");
  const uint32_t mask = ((1u << (kGroupAt[g + 1] - kGroupAt[g])) - 1) << kBytes;
  const int shift = kGroupAt[g] - kBytes;
  const size_t offset = (word >> (shift & 31) | word << (-shift & 31)) & mask;  // rotated: one instruction
  return reinterpret_cast<const int16_t*>(reinterpret_cast<const char*>(tables) + offset) +
         kEntryAt[g] * kBlock;
}

// Sums of one word of inputs, [kEntries][kBlock], of the weights w[input][kBlock].
VDK_INLINE void fill_entries(const float* w, float* sums) {
  for (int g = 0; g < kGroups; ++g)
    for (int v = 0; v < kBlock; v += kLanes<float>) {
      const float* const own = w + kGroupAt[g] * kBlock + v;
      float* const entry = sums + kEntryAt[g] * kBlock + v;
      const int bits = kGroupAt[g + 1] - kGroupAt[g];
      VecF none{};  // of the inputs is negative
      for (int k = 0; k < bits; ++k) none += load(own + k * kBlock);
      store(entry, none);
      for (int k = 0; k < bits; ++k)
        for (int m = 0; m < 1 << k; ++m)
          store(entry + (m + (1 << k)) * kBlock, load(entry + m * kBlock) - 2.0f * load(own + k * kBlock));
    }
}

// Tables of one block of outputs, to whose sums the bound is added: [words][kEntries][kBlock] by `place`.
VDK_INLINE void fill_tables(const SignWeights& layer, int64_t block, int64_t words, int16_t* tables) {
  const int64_t n = layer.width, first = block * kBlock;
  float scale[kBlock] = {};
  for (int i = 0; i < kBlock && first + i < n; ++i) scale[i] = layer.scale(first + i, words);
  for (int64_t word = 0; word < words; ++word) {
    const int64_t inputs = n - word * kBlock < kBlock ? n - word * kBlock : kBlock;
    alignas(64) float w[kBlock * kBlock] = {}, sums[kEntries * kBlock], bias[kBlock] = {};
    for (int i = 0; i < kBlock; ++i) {
      const int64_t o = first + i;
      const int at = wide_place(i);
      bias[at] = layer.scaled_bias(o, scale[i], words);
      for (int64_t j = 0; j < inputs && o < n; ++j)
        w[j * kBlock + at] = layer.scaled(o, word * kBlock + j, scale[i]);
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

// Signs of a block of outputs for rows of signs; in and out are [words][kRows]. kWords: words of a row; 0:
// `words`. near, unsure: [kRows].
template <int kWords>
VDK_INLINE void look_up_rows(const SignWeights& layer, int64_t block, int64_t words, const int16_t* tables,
                             int64_t rows, const uint32_t* in, uint32_t* out, uint32_t* near,
                             Unsure* unsure) {
  const int64_t count = kWords ? kWords : words;
  const int most = 2 * table_bound(count);
  out += block * kRows;
  for (int64_t row = 0; row < rows; ++row) {
    VecS sums[kParts] = {};
    for (int64_t word = 0; word < count; ++word) {
      const uint32_t bits = in[word * kRows + row];
#pragma GCC unroll 8
      for (int g = 0; g < kGroups; ++g) {
        const int16_t* const entry = entry_of(tables + word * kEntries * kBlock, bits, g);
#pragma GCC unroll 8
        for (int i = 0; i < kParts; ++i) sums[i] += load_sums(entry + i * (kBlock / kParts));
      }
    }
    const Signs found = signs_of(sums, most);
    out[row] = found.negative;
    near[row] = found.within;
  }
  const Unsure* const end = list_unsure(near, 0, rows, unsure);
  for (; unsure < end; ++unsure)
    for (uint32_t again = unsure->outputs; again; again &= again - 1) {
      const int i = __builtin_ctz(again);
      set_bit(out + unsure->row, i, layer.negative(block * kBlock + i, in + unsure->row));
    }
}

}  // namespace VDK_ISA
}  // namespace vdk
