"""``sparse_conv2d``: a convolution with a packed sparse weight, for inference; training runs torch's own."""

from __future__ import annotations

import torch
from torch import Tensor

from ..._backend import choose
from .._register import register
from . import reference
from .plane import ConvGeometry, Pair, band_of, conv_columns

__all__ = ["ConvGeometry", "Pair", "band_of", "conv_columns", "sparse_conv2d"]

SCHEMA = (
    "sparse_conv2d(Tensor x, Tensor packed, int out_channels, int[] kernel_size, int[] stride, int[] padding,"
    " int[] dilation, int band, bool relu) -> Tensor"
)


def _fake(
    x: Tensor,
    packed: Tensor,
    out_channels: int,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    band: int,
    relu: bool,
) -> Tensor:
    torch._check(x.ndim == 4, lambda: f"sparse_conv2d: x must be [N, C, H, W], got {tuple(x.shape)}")
    sizes = [
        (x.shape[2 + i] + 2 * padding[i] - dilation[i] * (kernel_size[i] - 1) - 1) // stride[i] + 1
        for i in (0, 1)
    ]
    return x.new_empty((x.shape[0], out_channels, *sizes))


_op = register(SCHEMA, reference.sparse_conv2d, _fake)


def sparse_conv2d(
    x: Tensor,  # [N, C, H, W]
    packed: Tensor,  # uint8, of `spmm.pack.pack` with `conv_columns`
    out_channels: int,
    geometry: ConvGeometry,
    relu: bool,
) -> Tensor:
    """y [N, O, H', W'] of a packed convolution with its bias, then ReLU where asked for; no gradients."""
    g = geometry
    y: Tensor = choose(_op, x)(
        x, packed, out_channels, g.kernel_size, g.stride, g.padding, g.dilation, band_of(g), relu
    )
    return y
