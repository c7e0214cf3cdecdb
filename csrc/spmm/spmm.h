// Linear layers with sparse weights: packed for inference, in compressed rows (CSR) for training.
#pragma once
#include "../common/isa.h"
#include "../common/parallel.h"
#include "pack.h"

namespace vdk {

// y = activation(x W^T + bias), layer after layer.
struct PackedArgs {
  const Pack* layers;
  const bool* relu;  // [count]
  int64_t count;
  int64_t batch;
  const float* x;  // [batch, layers[0].in]
  float* y;        // [batch, layers[count - 1].out]
};

template <class T, class I>
struct CsrArgs {
  int64_t batch, in, out;
  const T* x;       // [batch, in]
  const T* values;  // [nnz]
  const I* col_indices;
  const I* row_offsets;  // [out + 1]
  const T* bias;         // [out] or null
  T* y;                  // [batch, out]: written forward, dy backward
  T* dx;                 // [batch, in] or null
  T* dvalues;            // [nnz] or null
  T* dbias;              // [out] or null
};

VDK_DECLARE_KERNEL(void spmm_packed(const PackedArgs& args, const Parallel& parallel);
                   void spmm(const CsrArgs<float, int32_t>& args, const Parallel& parallel);
                   void spmm(const CsrArgs<float, int64_t>& args, const Parallel& parallel);
                   void spmm(const CsrArgs<double, int32_t>& args, const Parallel& parallel);
                   void spmm(const CsrArgs<double, int64_t>& args, const Parallel& parallel);
                   void spmm_backward(const CsrArgs<float, int32_t>& args, const Parallel& parallel);
                   void spmm_backward(const CsrArgs<float, int64_t>& args, const Parallel& parallel);
                   void spmm_backward(const CsrArgs<double, int32_t>& args, const Parallel& parallel);
                   void spmm_backward(const CsrArgs<double, int64_t>& args, const Parallel& parallel);)
}  // namespace vdk
