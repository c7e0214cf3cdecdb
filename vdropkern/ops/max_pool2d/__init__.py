"""``max_pool2d``: max pooling of NCHW images for inference, where torch's own takes a window at a time."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..._backend import choose
from .._register import register
from . import reference

__all__ = ["PoolGeometry", "max_pool2d", "max_pool2d_native"]

SCHEMA = (
    "max_pool2d(Tensor x, int kernel_h, int kernel_w, int stride_h, int stride_w, int pad_h, int pad_w,"
    " int dilation_h, int dilation_w, bool ceil_mode, bool relu) -> Tensor"
)


class PoolGeometry(NamedTuple):
    """Windows of a pooling, in the order of the op's arguments."""

    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    pad_h: int = 0
    pad_w: int = 0
    dilation_h: int = 1
    dilation_w: int = 1
    ceil_mode: bool = False


def _length(size: int, kernel: int, stride: int, pad: int, dilation: int, ceil_mode: bool) -> int:
    """Of an output's axis, as torch has it: windows beyond a whole number count where `ceil_mode` asks."""
    room = size + 2 * pad - dilation * (kernel - 1) - 1
    length = (room + (stride - 1 if ceil_mode else 0)) // stride + 1
    # none may begin behind the image
    return length - 1 if ceil_mode and (length - 1) * stride >= size + pad else length


def _fake(
    x: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    ceil_mode: bool,
    relu: bool,
) -> Tensor:
    torch._check(x.ndim in (3, 4), lambda: f"max_pool2d: x must be [N, C, H, W], got {tuple(x.shape)}")
    height = _length(x.shape[-2], kernel_h, stride_h, pad_h, dilation_h, ceil_mode)
    width = _length(x.shape[-1], kernel_w, stride_w, pad_w, dilation_w, ceil_mode)
    return x.new_empty((*x.shape[:-2], height, width))


_op = register(SCHEMA, reference.max_pool2d, _fake)
max_pool2d_native = _op.native  # for whoever has seen that compiled kernels are to run, and for graphs


def max_pool2d(
    x: Tensor,  # [N, C, H, W] or [C, H, W]
    geometry: PoolGeometry,
    relu: bool = False,
) -> Tensor:
    """y [.., H', W'] as of torch.nn.MaxPool2d, then ReLU where asked for, row-major; not differentiable.

    Raises:
        RuntimeError: a size is out of range, or the image too small.
    """
    y: Tensor = choose(_op, x)(x, *geometry, relu)
    return y
