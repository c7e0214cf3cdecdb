// Linear layers with sparse weights in compressed rows (CSR) on a GPU. All pointers are device memory.
#pragma once
#include <cstddef>
#include <cstdint>

#include "../cuda/types.h"

namespace vdk {
namespace cuda {

// A sparse matrix [out, in]. `values` and `cols` lie at multiples of 16 bytes; indices are trusted.
template <class V>
struct CsrMatrix {
  int64_t out, in, nnz;
  const V* values;      // [nnz]
  const int32_t* cols;  // [nnz], in [0, in), increasing within a row
  const int32_t* rows;  // [out + 1]
};

template <class E, class V>
struct SpmmArgs {
  CsrMatrix<V> w;
  int64_t batch;
  const int32_t* order;  // [out]: rows in the order in which blocks take them, or null: as they are
  const E* x;            // [batch, in]
  const float* bias;     // [out] or null
  bool relu;
  E* y;  // [batch, out]
};

template <class E, class V>
struct SpmmGradientArgs {
  CsrMatrix<V> w;
  int64_t batch;
  const E* x;      // [batch, in]
  const E* dy;     // [batch, out]
  E* dx;           // [batch, in] or null
  float* dvalues;  // [nnz] or null
  float* dbias;    // [out] or null
};

// Bytes that the calls below need for themselves.
template <class E, class V>
size_t spmm_workspace(const SpmmArgs<E, V>& args);
template <class E, class V>
size_t spmm_workspace(const SpmmGradientArgs<E, V>& args);

// `workspace` lies at a multiple of 16 bytes.
template <class E, class V>
void spmm(const SpmmArgs<E, V>& args, void* workspace, void* stream);
template <class E, class V>
void spmm_backward(const SpmmGradientArgs<E, V>& args, void* workspace, void* stream);

// There are these: x and y of one type, weights of the same or of float.
#define VDK_SPMM_TYPES(declare) \
  declare(float, float) declare(::vdk::BFloat16, float) declare(::vdk::BFloat16, ::vdk::BFloat16)
#define VDK_SPMM_DECLARE(E, V)                                          \
  extern template size_t spmm_workspace(const SpmmArgs<E, V>&);         \
  extern template size_t spmm_workspace(const SpmmGradientArgs<E, V>&); \
  extern template void spmm(const SpmmArgs<E, V>&, void*, void*);       \
  extern template void spmm_backward(const SpmmGradientArgs<E, V>&, void*, void*);
VDK_SPMM_TYPES(VDK_SPMM_DECLARE)
#undef VDK_SPMM_DECLARE

}  // namespace cuda
}  // namespace vdk
