// Normals in vectors of rows: lane i of z[j] is the noise of element (row + i, 4 * group + j).
#pragma once
#include "philox.h"

namespace vdk {
namespace VDK_ISA {

// The noise of a [rows, cols] tensor: seed and the number of groups of four in a row.
struct NoiseGrid {
  uint32_t k0, k1;
  uint64_t groups;

  NoiseGrid(uint64_t seed, int64_t cols)
      : k0(uint32_t(seed)), k1(uint32_t(seed >> 32)), groups(uint64_t(cols + 3) / 4) {}
};

// 64-bit counters base + lane * step, as two vectors of words.
VDK_INLINE void counters(uint64_t base, uint64_t step, VecU& low, VecU& high) {
  const uint64_t last = base + step * (kLanes<float> - 1);
  VecU lane;
  for (int i = 0; i < kLanes<float>; ++i) lane[i] = uint32_t(i);
  low = lane * uint32_t(step) + uint32_t(base);
  high = VecU{} + uint32_t(base >> 32);
  if (last >> 32 != base >> 32)  // a carry among the lanes: rare
    for (int i = 0; i < kLanes<float>; ++i) high[i] = uint32_t((base + step * i) >> 32);
}

// Words of the groups base + lane * step.
VDK_INLINE void words_of_groups(const NoiseGrid& grid, uint64_t base, uint64_t step, VecU words[4]) {
  counters(base, step, words[0], words[1]);
  words[2] = words[3] = VecU{};
  philox4x32(words, grid.k0, grid.k1);
}

// Of neighbouring groups: v[j] lane i -> out[4 i + j].
template <class T, class V>
VDK_INLINE void weave(const V v[4], T* out) {
  V even[2], odd[2], r[4];
  zip(v[0], v[2], even[0], even[1]);
  zip(v[1], v[3], odd[0], odd[1]);
  zip(even[0], odd[0], r[0], r[1]);
  zip(even[1], odd[1], r[2], r[3]);
  for (int j = 0; j < 4; ++j) store(out + j * kLanes<T>, r[j]);
}

VDK_INLINE void normals_of_counters(const NoiseGrid& grid, VecU low, VecU high, VecF z[4]) {
  VecU words[4] = {low, high, VecU{}, VecU{}};
  philox4x32(words, grid.k0, grid.k1);
  box_muller(words, z);
}

VDK_INLINE void normals_of_rows(const NoiseGrid& grid, int64_t row, int64_t group, VecF z[4]) {
  VecU low, high;
  counters(uint64_t(row) * grid.groups + uint64_t(group), grid.groups, low, high);
  normals_of_counters(grid, low, high, z);
}

VDK_INLINE void normals_of_rows(const NoiseGrid& grid, int64_t row, int64_t group, VecD z[4]) {
  for (int i = 0; i < kLanes<double>; ++i) {
    const uint64_t counter = uint64_t(row + i) * grid.groups + uint64_t(group);
    uint32_t words[4] = {uint32_t(counter), uint32_t(counter >> 32), 0, 0};
    double lanes[4];
    philox4x32(words, grid.k0, grid.k1);
    box_muller_f64(words, lanes);
    for (int j = 0; j < 4; ++j) z[j][i] = lanes[j];
  }
}

}  // namespace VDK_ISA
}  // namespace vdk
