"""Compressed rows (CSR): from dense, to dense, and what has to hold of the indices."""

from __future__ import annotations

import torch
from torch import Tensor

from .reference import row_of_each

_INT32_MAX = 2**31 - 1


def dense_to_csr(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """weight [O, I] -> (values [nnz], col_indices [nnz], row_offsets [O + 1]), by row, then by column.

    Indices are int32, or int64 where the matrix is too large for that. NaN counts as nonzero.
    """
    rows, cols = weight.nonzero(as_tuple=True)
    index_dtype = torch.int32 if max(rows.numel(), *weight.shape) <= _INT32_MAX else torch.int64
    counts = torch.bincount(rows, minlength=weight.shape[0])
    row_offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    return weight[rows, cols], cols.to(index_dtype), row_offsets.to(index_dtype)


def csr_to_dense(values: Tensor, col_indices: Tensor, row_offsets: Tensor, in_features: int) -> Tensor:
    """The dense weight [O, I]; differentiable in values."""
    dense = values.new_zeros(row_offsets.shape[0] - 1, in_features)
    rows = row_of_each(row_offsets, values.shape[0])
    return dense.index_put((rows, col_indices.long()), values)


def by_length(row_offsets: Tensor) -> Tensor:
    """Rows by falling number of nonzeros, int32 [O]: rows that lie together then end together."""
    return row_offsets.diff().argsort(descending=True, stable=True).to(torch.int32)


def check_csr(values: Tensor, col_indices: Tensor, row_offsets: Tensor, in_features: int) -> None:
    """Raise ValueError, saying what is wrong, unless the indices are those of a CSR matrix [O, in_features].

    Kernels trust them: an index out of range reads memory that is not the input's. Reads values back to the
    host, so it belongs where a matrix is made or loaded, not into a forward pass.
    """
    for name, t in (("col_indices", col_indices), ("row_offsets", row_offsets)):
        if t.dtype not in (torch.int32, torch.int64):
            raise ValueError(f"{name} must be int32 or int64, got {t.dtype}")
    if col_indices.dtype != row_offsets.dtype:
        raise ValueError(
            f"col_indices and row_offsets must share one dtype, "
            f"got {col_indices.dtype} and {row_offsets.dtype}"
        )
    if values.ndim != 1 or col_indices.shape != values.shape:
        raise ValueError(
            f"values and col_indices must be [nnz], got {tuple(values.shape)} and {tuple(col_indices.shape)}"
        )
    if row_offsets.ndim != 1 or row_offsets.numel() == 0:
        raise ValueError(f"row_offsets must be [O + 1], got {tuple(row_offsets.shape)}")
    nnz = values.shape[0]
    if int(row_offsets[0]) != 0 or int(row_offsets[-1]) != nnz:
        raise ValueError(
            f"row_offsets must run from 0 to nnz = {nnz}, got {int(row_offsets[0])} to {int(row_offsets[-1])}"
        )
    # the range first: differences of numbers out of range could wrap around
    if int(row_offsets.min()) < 0 or int(row_offsets.max()) > nnz or bool((row_offsets.diff() < 0).any()):
        raise ValueError("row_offsets must not decrease")
    if nnz == 0:
        return
    if int(col_indices.min()) < 0 or int(col_indices.max()) >= in_features:
        raise ValueError(
            f"col_indices must lie in [0, {in_features}), "
            f"got {int(col_indices.min())} to {int(col_indices.max())}"
        )
    rows = row_of_each(row_offsets, nnz)
    if bool(((rows.diff() == 0) & (col_indices.diff() <= 0)).any()):
        raise ValueError("col_indices must increase within each row")
