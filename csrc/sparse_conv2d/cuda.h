// Convolutions with sparse weights in compressed rows (CSR) on a GPU. All pointers are device memory.
#pragma once
#include <cstddef>
#include <cstdint>

#include "../cuda/types.h"

namespace vdk {
namespace cuda {

// A pair of numbers, of rows and of columns of an image.
struct Extent {
  int64_t h, w;
};

template <class E>
struct SparseConvArgs {
  int64_t batch, channels, outputs, groups, nnz;
  Extent image, out, kernel, stride, padding, dilation;
  const E* x;            // [batch, channels, image]
  const float* values;   // [nnz]
  const int32_t* cols;   // [nnz]: (channel of the group, row, column of the window); trusted
  const int32_t* rows;   // [outputs + 1]
  const int32_t* order;  // [outputs]: rows in the order in which blocks take them
  const float* bias;     // [outputs] or null
  bool relu;
  E* y;  // [batch, outputs, out]
};

// Bytes that sparse_conv2d needs for itself.
size_t sparse_conv_workspace(const SparseConvArgs<float>& args);
size_t sparse_conv_workspace(const SparseConvArgs<BFloat16>& args);

void sparse_conv2d(const SparseConvArgs<float>& args, int multiprocessors, void* workspace, void* stream);
void sparse_conv2d(const SparseConvArgs<BFloat16>& args, int multiprocessors, void* workspace, void* stream);

}  // namespace cuda
}  // namespace vdk
