// The weights of one layer of a candidate, as they are summed by tables and by floats.
#pragma once
#include "../common/bits.h"
#include "sign_mlp.h"
#include "words.h"

namespace vdk {
namespace VDK_ISA {

constexpr int kGroups = 6;  // of a word of 32 inputs: all sums that a group can have stand in a table
constexpr int kEntries = 2 * 64 + 4 * 32;  // of all groups

// Of the error of a sum: each entry is rounded, and a sum of floats.
VDK_INLINE int table_bound(int64_t words) { return int(float(words * kGroups) * 0.53f + 0.5f); }

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

  // Whether the sum of output o is not at least 0, for a row of signs, [words][kRows].
  __attribute__((noinline)) bool negative(int64_t o, const uint32_t* in) const {
    VecF sum{};
    for (int64_t j = 0; j < width; j += kLanes<float>) {
      const int64_t at = o * width + j, left = width - j;
      const VecF w = load_first(mu + at, left) + sign * load_first(noise + at, left);
      const uint32_t bits = in[j / kBlock * kRows] >> j % kBlock;
      sum += where_bits<float>(~bits, w) - where_bits<float>(bits, w);
    }
    return !(bias(o) + sum_lanes<float>(sum) >= 0);
  }

  // An output's unit, in which its largest sum has sixteen bits. 0 where nothing is finite, or all is 0: all
  // its sums are then 0, and so summed again.
  VDK_INLINE float scale(int64_t o, int64_t words) const {
    float sum = magnitude(bias(o));
    for (int64_t j = 0; j < width; ++j) sum += magnitude(weight(o, j));
    return sum > 1e-30f && sum < 1e30f ? (kMost - 8 * float(words)) / sum : 0;
  }
  VDK_INLINE float scaled(int64_t o, int64_t j, float scale) const {
    return scale ? weight(o, j) * scale : 0;
  }
  // The bound of errors is added to sums, so that one comparison finds those that could be wrong. Outputs
  // that are not there are far from 0.
  VDK_INLINE float scaled_bias(int64_t o, float scale, int64_t words) const {
    return o >= width ? 16384 : (scale ? bias(o) * scale : 0) + float(table_bound(words));
  }
};

}  // namespace VDK_ISA
}  // namespace vdk
