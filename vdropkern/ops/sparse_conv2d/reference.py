"""A convolution with a packed sparse weight: the weight taken apart, then torch's dense convolution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..spmm.csr import csr_to_dense
from ..spmm.pack import parts, rows_and_steps
from .plane import ConvGeometry, conv_columns


def unpack_conv(packed: Tensor, geometry: ConvGeometry) -> tuple[Tensor, Tensor]:
    """(weight [O, C, kh, kw] without groups, bias [O]) of a packed convolution, in float32."""
    p = parts(packed)
    columns = conv_columns(geometry, p.header["blocks"])
    width = 1 << 16
    column_of = torch.full((p.header["blocks"], width), columns.block.shape[0])
    column_of[columns.block, columns.index] = torch.arange(columns.block.shape[0])
    row, block = rows_and_steps(p)
    weight = torch.zeros(p.header["out"] + 1, columns.block.shape[0] + 1, dtype=torch.float32)
    col = column_of[block[:, None], p.index]
    row = torch.where(col == columns.block.shape[0], p.header["out"], row.clamp(max=p.header["out"]))
    weight.index_put_((row, col), p.values.float())
    weight = weight[:-1, :-1] * (p.scales[:, None] if p.scales.numel() else 1.0)
    return weight.reshape(-1, geometry.in_channels, *geometry.kernel_size), p.bias.clone()


def sparse_conv2d(
    x: Tensor,  # [N, C, H, W]
    packed: Tensor,  # uint8
    out_channels: int,
    window: Sequence[int],  # kernel size, stride, padding, dilation, each of rows and columns
    band: int,
    relu: bool,
) -> Tensor:  # [N, O, H', W']
    """y = conv2d(x, weight) + bias, then ReLU where asked for."""
    kernel_size, stride, padding, dilation = ((window[i], window[i + 1]) for i in range(0, 8, 2))
    geometry = ConvGeometry(x.shape[1], kernel_size, stride, padding, dilation, (x.shape[2], x.shape[3]))
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    weight, bias = (t.to(dtype) for t in unpack_conv(packed, geometry))
    y = torch.nn.functional.conv2d(x.to(dtype), weight, bias, stride, padding, dilation)
    return (y.relu() if relu else y).to(x.dtype).contiguous()


def sparse_conv2d_ordered(
    x: Tensor,  # [N, C, H, W]
    values: Tensor,  # [nnz]
    col_indices: Tensor,  # [nnz]
    row_offsets: Tensor,  # [O + 1]
    order: Tensor,  # int32 [O], which changes nothing
    bias: Tensor | None,  # [O]
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    relu: bool,
) -> Tensor:  # [N, O, H', W']
    """y = conv2d(x, weight) + bias, then ReLU where asked for."""
    double = torch.float64 in (x.dtype, values.dtype)
    dtype = torch.float64 if double else torch.float32
    columns = x.shape[1] // groups * kernel_size[0] * kernel_size[1]
    weight = csr_to_dense(values.to(dtype), col_indices, row_offsets, columns)
    weight = weight.reshape(weight.shape[0], x.shape[1] // groups, *kernel_size)
    shift = None if bias is None else bias.to(dtype)
    y = torch.nn.functional.conv2d(
        x.to(dtype), weight, shift, list(stride), list(padding), list(dilation), groups
    )
    return (y.relu() if relu else y).to(x.dtype).contiguous()
