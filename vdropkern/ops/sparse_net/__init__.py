"""``sparse_net``: sparse convolutions, max pooling and sparse linear layers in one call, for inference.

What an op costs in Python and dispatch, 2 to 4 us, is paid once: at batch 1 small layers take no longer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._register import register
from ..max_pool2d import PoolGeometry
from ..sparse_conv2d import ConvGeometry, band_of
from . import reference

__all__ = ["conv_numbers", "linear_numbers", "pool_numbers", "sparse_net_native"]

SCHEMA = "sparse_net(Tensor x, Tensor[] packed, Tensor program, int[] out_sizes) -> Tensor"
CONV, POOL, LINEAR = 0, 1, 2  # kinds of layers, as csrc/sparse_net knows them


def _fake(x: Tensor, packed: Sequence[Tensor], program: Tensor, out_sizes: Sequence[int]) -> Tensor:
    torch._check(x.ndim == 4, lambda: f"sparse_net: x must be [N, C, H, W], got {tuple(x.shape)}")
    return x.new_empty((x.shape[0], *out_sizes))


# for whoever has seen that compiled kernels are to run
sparse_net_native = register(SCHEMA, reference.sparse_net, _fake).native


def conv_numbers(index: int, out_channels: int, geometry: ConvGeometry, relu: bool) -> list[int]:
    """What a program says of a convolution whose packed form is the one of that index."""
    return [CONV, index, out_channels, *geometry.window, band_of(geometry), int(relu)]


def pool_numbers(geometry: PoolGeometry, relu: bool) -> list[int]:
    """What a program says of max pooling."""
    return [POOL, *(int(number) for number in geometry), int(relu)]


def linear_numbers(index: int) -> list[int]:
    """What a program says of a chain of linear layers, which gets [N, everything else]."""
    return [LINEAR, index]
