// multi_sample_head on a GPU: launchers over raw device pointers. All matrices are row-major and dense;
// nothing here waits for the device, allocates, or reads device memory from the host.
#pragma once
#include "../linear_lrt/cuda.h"

namespace vdk {
namespace cuda {

struct MultiSampleHead {
  int64_t rows, features, classes, samples;
  Number type;  // of h and weight
  Precision precision;
  const void *h, *weight;     // [rows, features], [classes, features]
  const float* bias;          // [classes] or null
  const int64_t* target;      // [rows]; one that is neither a class nor ignore_index makes its row NaN
  const float* class_weight;  // [classes] or null
  const int64_t* seed;        // on the device
  double p;
  int64_t ignore_index;
  float smoothing;
  bool mean;               // of the rows, else their sum
  const float* row_scale;  // [rows] or null: 1; what each row's loss counts in the gradients, times
  float* loss;             // [1] or null
  float* losses;           // [rows], each the mean over its samples, or null
  float *dh, *dweight;     // [rows, features], [classes, features], or null
  float* dbias;            // [classes], or null without a bias or dweight
};

// Bytes of device memory a call needs for itself, aligned to 256 bytes. It depends on shapes, on which
// results are asked for and on the number of multiprocessors, never on values.
size_t multi_sample_head_workspace(const MultiSampleHead& args, int multiprocessors);

// Needs classes and features. What is computed does not depend on `capability`, but for the order of tiles.
void multi_sample_head(const MultiSampleHead& args, int capability, int multiprocessors, void* workspace,
                       void* stream);

}  // namespace cuda
}  // namespace vdk
