"""A linear layer whose weight is sparse, in compressed rows (CSR)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag


def _compute_dtype(*tensors: Tensor) -> torch.dtype:
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def _weighted_row_sums(
    rows: Tensor,  # [I, B]
    weights: Tensor,  # [nnz]
    indices: Tensor,  # [nnz], into rows
    offsets: Tensor,  # [O + 1], from 0 to nnz
) -> Tensor:  # [O, B]
    """out[o] = sum over k from offsets[o] to offsets[o + 1] of weights[k] rows[indices[k]]."""
    if rows.numel() == 0 or indices.numel() == 0:  # embedding_bag refuses these
        return rows.new_zeros(offsets.shape[0] - 1, rows.shape[1])
    return embedding_bag(
        indices, rows.contiguous(), offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
    )


def row_of_each(row_offsets: Tensor, nnz: int) -> Tensor:
    """Row of every nonzero: row_offsets [O + 1] -> int64 [nnz]."""
    counts = row_offsets.diff()
    rows = torch.arange(counts.shape[0], device=row_offsets.device)
    return torch.repeat_interleave(rows, counts, output_size=nnz)


def spmm(
    x: Tensor,  # [*, I]
    values: Tensor,  # [nnz]
    col_indices: Tensor,  # [nnz]
    row_offsets: Tensor,  # [O + 1]
    bias: Tensor | None,  # [O]
) -> Tensor:  # [*, O]
    """y[b, o] = bias[o] + sum of values[k] x[b, col_indices[k]] over the k of row o.

    Row o holds k from row_offsets[o] to row_offsets[o + 1].
    """
    dtype = _compute_dtype(x, values)
    x_t = x.reshape(x.shape[:-1].numel(), x.shape[-1]).to(dtype).T  # [I, B]
    y = _weighted_row_sums(x_t, values.to(dtype), col_indices, row_offsets).T  # [B, O]
    if bias is not None:
        y = y + bias.to(dtype)
    return y.to(x.dtype).reshape(*x.shape[:-1], row_offsets.shape[0] - 1).contiguous()


def spmm_backward(
    grad_y: Tensor,  # [*, O]
    x: Tensor,  # [*, I]
    values: Tensor,  # [nnz]
    col_indices: Tensor,  # [nnz]
    row_offsets: Tensor,  # [O + 1]
    needs_x: bool,
    needs_values: bool,
    needs_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, values and bias; those not needed are empty.

    With o(k) the row of nonzero k: dx[b, i] = sum over k with col_indices[k] = i of values[k] dy[b, o(k)],
    dvalues[k] = sum over b of dy[b, o(k)] x[b, col_indices[k]], dbias = sum over b of dy[b].
    """
    dtype = _compute_dtype(x, values)
    batch, inp, out = x.shape[:-1].numel(), x.shape[-1], row_offsets.shape[0] - 1
    dy = grad_y.reshape(batch, out).to(dtype)  # [B, O]
    row_indices = row_of_each(row_offsets, values.shape[0])
    dx, dvalues, dbias = x.new_empty(0), values.new_empty(0), values.new_empty(0, dtype=dtype)
    if needs_x:  # the transposed weight, its nonzeros ordered by column, times dy
        by_column = torch.argsort(col_indices, stable=True)
        counts = torch.bincount(col_indices, minlength=inp)
        offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))  # [I + 1]
        dx_t = _weighted_row_sums(dy.T, values.to(dtype)[by_column], row_indices[by_column], offsets)
        dx = dx_t.T.to(x.dtype).reshape(x.shape).contiguous()
    if needs_values:
        x_t = x.reshape(batch, inp).to(dtype).T  # [I, B]
        dvalues = (dy.T[row_indices] * x_t[col_indices]).sum(1).to(values.dtype)
    if needs_bias:
        dbias = dy.sum(0)
    return dx, dvalues, dbias


def spmm_ordered(
    x: Tensor,  # [*, I]
    values: Tensor,  # [nnz]
    col_indices: Tensor,  # [nnz]
    row_offsets: Tensor,  # [O + 1]
    order: Tensor,  # int32 [O], which changes nothing
    bias: Tensor | None,  # [O]
    relu: bool,
) -> Tensor:  # [*, O]
    """`spmm`, then ReLU where asked for."""
    y = spmm(x, values, col_indices, row_offsets, bias)
    return y.relu() if relu else y


def spmm_packed(
    x: Tensor,  # [*, I]
    packed: Tensor,  # uint8, see `pack.py`
    out_features: int,
    relu: bool,
) -> Tensor:  # [*, O]
    """y = x W^T + bias of a packed weight, taken apart, then ReLU where asked for."""
    from .pack import unpack  # which builds on this module

    dtype = _compute_dtype(x)
    weight, bias = (t.to(dtype) for t in unpack(packed))
    y = torch.nn.functional.linear(x.to(dtype), weight, bias)
    return (y.relu() if relu else y).to(x.dtype).contiguous()


def spmm_chain(
    x: Tensor,  # [*, I]
    chain: Tensor,  # uint8, see `pack.py`
    out_features: int,
) -> Tensor:  # [*, O]
    """Packed layers one after the other; rounded to x's dtype at the end alone."""
    from .pack import chain_parts

    y = x.to(_compute_dtype(x))
    for packed, relu in chain_parts(chain):
        y = spmm_packed(y, packed, 0, relu)
    return y.to(x.dtype)
