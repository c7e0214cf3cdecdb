// How the bindings of sparse kernels prepare a matrix in compressed rows for a GPU.
#pragma once
#include "../cuda/binding.h"
#include "checks.h"
#include "cuda.h"

namespace vdk {

// A matrix in compressed rows, its indices as int32, its values as `type`.
struct CsrOnGpu {
  Tensor values, cols, rows;

  CsrOnGpu(const char* op, const Tensor& given_values, const Tensor& given_cols, const Tensor& given_rows,
           ScalarType type)
      : values(aligned16(prepared(given_values, type))),
        cols(aligned16(narrowed(op, given_cols, given_values.numel()))),
        rows(narrowed(op, given_rows, given_values.numel())) {}

  int64_t out() const { return rows.numel() - 1; }

  template <class V>
  cuda::CsrMatrix<V> of(int64_t in) const {
    return {out(), in, values.numel(), pointer<V>(values), pointer<int32_t>(cols), pointer<int32_t>(rows)};
  }

 private:
  // int64 is for matrices beyond what the kernels index
  static Tensor narrowed(const char* op, const Tensor& indices, int64_t nnz) {
    STD_TORCH_CHECK(nnz <= INT32_MAX, op, ": the CUDA kernels take at most 2^31 - 1 nonzeros, got ", nnz);
    return prepared(indices, ScalarType::Int);
  }
};

}  // namespace vdk
