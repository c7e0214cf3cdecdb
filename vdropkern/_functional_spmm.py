"""The documented function of sparse products, which `functional` re-exports."""

from __future__ import annotations

import torch
from torch import Tensor

from ._validate import check_spmm
from .ops.spmm import spmm as _spmm
from .ops.spmm.csr import check_csr


def spmm(
    x: Tensor,
    values: Tensor,
    col_indices: Tensor,
    row_offsets: Tensor,
    bias: Tensor | None = None,
    *,
    check_invariants: bool = False,
) -> Tensor:
    """Linear layer with a sparse weight in compressed rows (CSR).

    y[b, o] = bias[o] + sum_k values[k] x[b, col_indices[k]], k from row_offsets[o] to row_offsets[o + 1]:
    the product of a pruned weight, for inference (Molchanov et al. 2017, arXiv 1701.05369, section 4.3) and
    for fine-tuning what was kept. Sums run in float32 (float64 where x or values are).

    Args:
        x: [*, I], float32, float64, bfloat16 or float16; any strides.
        values: [nnz], floating.
        col_indices: [nnz], int32 or int64, in [0, I), increasing within each row.
        row_offsets: [O + 1], of col_indices' dtype, from 0 to nnz, not decreasing.
        bias: [O] or None.
        check_invariants: check what is said above of the indices' values, which kernels rely on. It costs a
            pass over them and waits for the device.

    Returns:
        [*, O], of x's dtype (autocast's under torch.autocast); differentiable once in x, values and bias.

    Raises:
        ValueError: shapes or dtypes are wrong, or, with check_invariants, the indices are.
    """
    check_spmm(x, values, col_indices, row_offsets, bias)
    if check_invariants:
        try:
            check_csr(values, col_indices, row_offsets, x.shape[-1])
        except ValueError as err:
            raise ValueError(f"spmm: {err}") from None
    if x.device.type != "meta" and torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        x = x.to(torch.get_autocast_dtype(x.device.type))
    return _spmm(x, values, col_indices, row_offsets, bias)
