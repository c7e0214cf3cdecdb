// Bound by the memory it writes: each group of four is drawn once and stored in accesses of 16 bytes. Rows of
// a multiple of four are written as they are drawn. Other rows, whose groups lie at any alignment, pass
// through shared memory: consecutive groups fill one run of the output, gaps closed.
#pragma once
#include "../cuda/vector.cuh"
#include "../random/noise.cuh"
#include "cuda.h"

namespace vdk {
namespace cuda {

constexpr int kNoiseThreads = 256;

template <class T>
struct NoiseArgs {
  T* out;  // [rows, cols]
  int64_t rows, cols;
  const int64_t* seed;
};

// Groups a thread draws side by side, 16 bytes or more.
template <class T>
constexpr int kUnit = sizeof(T) >= 4 ? 1 : 2;
constexpr int kUnits = 2;  // a thread
template <class T>
constexpr int64_t kNoiseTile = int64_t(kNoiseThreads) * kUnits * kUnit<T>;  // groups a block draws

VDK_DEVICE void draw(NoiseKey key, uint64_t counter, int64_t (&out)[4]) {
  uint32_t words[4];
  noise_words(key, counter, words);
  VDK_UNROLL
  for (int j = 0; j < 4; ++j) out[j] = words[j];
}
VDK_DEVICE void draw(NoiseKey key, uint64_t counter, double (&out)[4]) { noise_normals(key, counter, out); }
template <class T>
VDK_DEVICE void draw(NoiseKey key, uint64_t counter, T (&out)[4]) {
  float z[4];
  noise_normals(key, counter, z);
  VDK_UNROLL
  for (int j = 0; j < 4; ++j) out[j] = round_to<T>(z[j]);
}

// Where every group begins at a multiple of 16 bytes: group g is elements 4 g ... of the whole tensor.
template <class T>
VDK_KERNEL void __launch_bounds__(kNoiseThreads) noise_kernel(NoiseArgs<T> a) {
  constexpr int kElements = 4 * kUnit<T>, kVector = kPer16<T>;
  const NoiseKey key = noise_key(a.seed);
  const int64_t total = a.rows * a.cols;
  VDK_UNROLL
  for (int u = 0; u < kUnits; ++u) {
    const int64_t unit = (int64_t(blockIdx.x) * kUnits + u) * kNoiseThreads + threadIdx.x;
    if (unit * kElements >= total) return;
    T drawn[kUnit<T>][4];
    VDK_UNROLL
    for (int g = 0; g < kUnit<T>; ++g) draw(key, uint64_t(unit) * kUnit<T> + g, drawn[g]);
    VDK_UNROLL
    for (int v = 0; v < kElements / kVector; ++v) {
      T vector[kVector];
      VDK_UNROLL
      for (int j = 0; j < kVector; ++j) vector[j] = drawn[(v * kVector + j) / 4][(v * kVector + j) % 4];
      store_vector(a.out, vector, unit * kElements + v * kVector, total, true);
    }
  }
}

// First element of a group counted through all rows.
VDK_DEVICE int64_t element_of(int64_t group, int64_t groups, int64_t cols) {
  return group / groups * cols + group % groups * 4;
}

template <class T>
VDK_KERNEL void __launch_bounds__(kNoiseThreads) ragged_noise_kernel(NoiseArgs<T> a) {
  constexpr int kGroups = int(kNoiseTile<T>), kVector = kPer16<T>;
  VDK_SHARED_ARRAY(T, run, 4 * kGroups + kVector);
  VDK_SHARED_ARRAY(int64_t, place, 4);  // of the block: row and group it begins with, elements it fills
  const NoiseKey key = noise_key(a.seed);
  const int64_t groups = groups_of(a.cols), first = int64_t(blockIdx.x) * kGroups;
  const int64_t total = a.rows * groups, last = first + kGroups < total ? first + kGroups : total;
  if (threadIdx.x == 0) {
    place[0] = first / groups;
    place[1] = first % groups;
    place[2] = element_of(first, groups, a.cols);
    place[3] = element_of(last, groups, a.cols);
  }
  __syncthreads();
  const int64_t begin = place[2], end = place[3];
  // the run starts in shared memory where it starts in a 16-byte word of the output
  const int shift = int(reinterpret_cast<uintptr_t>(a.out + begin) % 16 / sizeof(T));
  for (int i = threadIdx.x; i < int(last - first); i += kNoiseThreads) {
    T drawn[4];
    draw(key, uint64_t(first + i), drawn);
    int64_t row = place[0], group = place[1] + i;
    if (groups > kGroups) {  // at most one row further
      if (group >= groups) ++row, group -= groups;
    } else {
      row += uint32_t(group) / uint32_t(groups);
      group = uint32_t(group) % uint32_t(groups);
    }
    const int at = int(row * a.cols + 4 * group - begin) + shift;
    VDK_UNROLL
    for (int j = 0; j < 4; ++j)
      if (4 * group + j < a.cols) run[at + j] = drawn[j];
  }
  __syncthreads();
  const int filled = int(end - begin) + shift;
  for (int i = threadIdx.x * kVector; i < filled; i += kNoiseThreads * kVector) {
    T* const to = a.out + begin - shift + i;
    if (i >= shift && i + kVector <= filled) {
      store_global(to, load_shared<uint4>(run + i));
      continue;
    }
    for (int j = 0; j < kVector; ++j)
      if (i + j >= shift && i + j < filled) store_global(to + j, run[i + j]);
  }
}

}  // namespace cuda
}  // namespace vdk
