"""``sparse_conv2d``: a convolution with a packed sparse weight, for inference; training runs torch's own."""

from __future__ import annotations

import torch
from torch import Tensor

from ..._backend import choose
from .._register import register
from . import reference
from .cells import cells_of, grid_of
from .plane import ConvGeometry, Pair, band_of, blocks_of, conv_columns

__all__ = [
    "ConvGeometry",
    "Pair",
    "band_of",
    "blocks_of",
    "cells_of",
    "conv_columns",
    "grid_of",
    "sparse_conv2d",
    "sparse_conv2d_eager",
    "sparse_conv2d_native",
    "sparse_conv2d_ordered",
]

SCHEMA = (
    "sparse_conv2d(Tensor x, Tensor packed, int out_channels, int[] window, int band, bool relu) -> Tensor"
)

ORDERED_SCHEMA = (
    "sparse_conv2d_ordered(Tensor x, Tensor values, Tensor col_indices, Tensor row_offsets, Tensor order,"
    " Tensor? bias, int[] kernel_size, int[] stride, int[] padding, int[] dilation, int groups, bool relu)"
    " -> Tensor"
)


def _result(
    x: Tensor,
    out_channels: int,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> Tensor:
    torch._check(x.ndim == 4, lambda: f"sparse_conv2d: x must be [N, C, H, W], got {tuple(x.shape)}")
    sizes = [
        (x.shape[2 + i] + 2 * padding[i] - dilation[i] * (kernel_size[i] - 1) - 1) // stride[i] + 1
        for i in (0, 1)
    ]
    return x.new_empty((x.shape[0], out_channels, *sizes))


def _fake(x: Tensor, packed: Tensor, out_channels: int, window: list[int], band: int, relu: bool) -> Tensor:
    return _result(x, out_channels, window[:2], window[2:4], window[4:6], window[6:])


def _ordered_fake(
    x: Tensor,
    values: Tensor,
    col_indices: Tensor,
    row_offsets: Tensor,
    order: Tensor,
    bias: Tensor | None,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    relu: bool,
) -> Tensor:
    return _result(x, row_offsets.shape[0] - 1, kernel_size, stride, padding, dilation)


_op = register(SCHEMA, reference.sparse_conv2d, _fake)
sparse_conv2d_native = _op.native  # for graphs
# as `spmm_packed_eager` of op `spmm`
sparse_conv2d_eager = getattr(sparse_conv2d_native, "_op", sparse_conv2d_native)
_ordered_op = register(ORDERED_SCHEMA, reference.sparse_conv2d_ordered, _ordered_fake)


def sparse_conv2d(
    x: Tensor,  # [N, C, H, W]
    packed: Tensor,  # uint8, of `spmm.pack.pack` with `conv_columns`
    out_channels: int,
    geometry: ConvGeometry,
    relu: bool,
) -> Tensor:
    """y [N, O, H', W'] of a packed convolution with its bias, then ReLU where asked for; no gradients."""
    y: Tensor = choose(_op, x)(x, packed, out_channels, geometry.window, band_of(geometry), relu)
    return y


def sparse_conv2d_ordered(
    x: Tensor,  # [N, C, H, W]
    values: Tensor,  # [nnz]
    col_indices: Tensor,  # [nnz], in [0, C / groups * kh * kw)
    row_offsets: Tensor,  # [O + 1]
    order: Tensor,  # int32 [O], of `spmm.csr.by_length`
    bias: Tensor | None,  # [O]
    geometry: ConvGeometry,
    groups: int,
    relu: bool,
) -> Tensor:
    """y [N, O, H', W'] of a weight in compressed rows, then ReLU where asked for; no gradients.

    For GPUs, whose blocks take output channels in the order given.
    """
    g = geometry
    tensors = (x, values, col_indices, row_offsets, order, bias)
    y: Tensor = choose(_ordered_op, x, tensors)(
        *tensors, g.kernel_size, g.stride, g.padding, g.dilation, groups, relu
    )
    return y
