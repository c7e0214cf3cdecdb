// The noise of a [rows, cols] tensor on a GPU: words and normals of groups of four, and a kernel that writes
// what a function makes of every group.
#pragma once
#include "../cuda/launch.cuh"
#include "philox.h"

namespace vdk {

struct NoiseKey {
  uint32_t low, high;
};

// The seed stays on the device: nothing waits for it.
VDK_DEVICE NoiseKey noise_key(const int64_t* seed) {
  const uint64_t s = uint64_t(load_global<int64_t>(seed));
  return {uint32_t(s), uint32_t(s >> 32)};
}

// Groups of four in a row; group g of row r has the counter r * groups + g.
VDK_HD int64_t groups_of(int64_t cols) { return (cols + 3) / 4; }

VDK_DEVICE void noise_words(NoiseKey key, uint64_t counter, uint32_t (&words)[4]) {
  words[0] = uint32_t(counter);
  words[1] = uint32_t(counter >> 32);
  words[2] = words[3] = 0;
  philox4x32(words, key.low, key.high);
}

// Word j by choice: an index known at run time alone would put the words on a stack.
VDK_DEVICE uint32_t word_of(const uint32_t (&words)[4], int j) {
  return j < 2 ? (j == 0 ? words[0] : words[1]) : (j == 2 ? words[2] : words[3]);
}

VDK_DEVICE void noise_normals(NoiseKey key, uint64_t counter, float (&z)[4]) {
  uint32_t words[4];
  noise_words(key, counter, words);
  box_muller(words, z);
}
VDK_DEVICE void noise_normals(NoiseKey key, uint64_t counter, double (&z)[4]) {
  uint32_t words[4];
  noise_words(key, counter, words);
  box_muller_f64(words, z);
}

}  // namespace vdk
