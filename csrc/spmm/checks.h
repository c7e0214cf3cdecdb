// What the bindings of sparse products check, on any device. The values of indices are trusted.
#pragma once
#include "../common/binding.h"

namespace vdk {

// The sizes of `t` but for the last.
inline std::vector<int64_t> with_last(const Tensor& t, int64_t last) {
  const auto sizes = t.sizes();
  std::vector<int64_t> made(sizes.begin(), sizes.end());
  made.back() = last;
  return made;
}

inline int64_t rows_of(const Tensor& t) {
  int64_t rows = 1;
  for (int64_t i = 0; i + 1 < t.dim(); ++i) rows *= t.size(i);
  return rows;
}

inline void check_pattern(const char* op, const Tensor& values, const Tensor& cols, const Tensor& rows) {
  STD_TORCH_CHECK(values.dim() == 1 && cols.numel() == values.numel() && rows.numel() > 0, op,
                  ": values and col_indices must be [nnz], row_offsets [O + 1]");
  const auto type = cols.scalar_type();
  STD_TORCH_CHECK(type == rows.scalar_type() && (type == ScalarType::Int || type == ScalarType::Long), op,
                  ": col_indices and row_offsets must both be int32 or both int64");
}

inline void check_csr(const Tensor& x, const Tensor& values, const Tensor& cols, const Tensor& rows) {
  STD_TORCH_CHECK(x.dim() > 0, "spmm: x must be [*, I]");
  check_pattern("spmm", values, cols, rows);
}

}  // namespace vdk
