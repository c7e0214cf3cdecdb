// What the kernels of linear_lrt are given.
#pragma once
#include "cuda.h"
#include "tile.cuh"

namespace vdk {
namespace cuda {

// A product of [m, k] and [n, k]: which tiles there are, and in how many parts the reduction is cut where
// there are too few of them to fill the GPU. Parts are summed in a fixed order by a second kernel.
struct Plan {
  int64_t m, n, k;
  int64_t block_m, tiles_m, tiles_n;
  int64_t band;                   // rows of tiles that blocks walk through column by column
  int64_t parts, steps_per_part;  // steps of kBlockK
  float* partial;                 // [parts, 2, m, padded n], or null with one part; of every group

  VDK_HD int64_t padded_n() const { return (n + 3) / 4 * 4; }
  VDK_HD int64_t part_size() const { return m * padded_n(); }
};

struct ProductArgs {
  Plan plan;
  LrtWeights w;
  int64_t out, in;
  const void *a, *a2, *b;  // of the activations; see Pass
  bool whole_a, whole_b;   // rows keep the alignment of 16 bytes: activations, or mu
  bool whole_log;          // the same of log, which also is not broadcast
  bool plain_weights;      // sigma^2 = exp(log), and no mean is clipped
  bool whole_result;       // rows of results keep the alignment of four elements

  const int64_t* seed;
  const float* bias;
  float eps;
  const void* x;  // kInput
  void *result, *log_result;
  float* std;
  float* log_sums;  // kWeights: sums over tiles of the gradient of a broadcast log, see LogSums
  Prior::Kind prior;
  NormalPrior<float> normal;  // of kNormal
  float* kl_sums;             // kForward: of every block, or null
  const float* kl_scale;      // kWeights
};

// The noise's gradient before the products: g_v = dy e / (2 std), and the bias' gradient by parts of the
// batch.
struct NoiseGradientArgs {
  const void* dy;
  const float* std;
  const int64_t* seed;
  int64_t batch, out, rows_per_block;
  bool whole;        // rows of dy and g_v keep the alignment of four elements
  void* g_v;         // [batch, out], or null
  float* bias_sums;  // [blocks, out], or null
};

// result[c] = sum of sums[., c].
struct SumRowsArgs {
  const float* sums;
  int64_t rows, cols;
  void* result;
  bool result_is_float;
};

}  // namespace cuda
}  // namespace vdk
