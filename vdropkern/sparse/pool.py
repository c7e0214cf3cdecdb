"""Max pooling by comparisons of whole rows: torch's own takes NCHW images a window at a time, far slower."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

__all__ = ["max_pool2d", "pools_apart"]


def _pair(size: int | tuple[int, ...]) -> tuple[int, ...]:
    return (size, size) if isinstance(size, int) else tuple(size)


def pools_apart(pool: torch.nn.MaxPool2d) -> bool:
    """Whether windows lie side by side, without padding or gaps, and the values alone are wanted."""
    kernel = _pair(pool.kernel_size)
    return (
        kernel == _pair(pool.stride)
        and kernel[0] * kernel[1] <= 16  # a comparison for each
        and _pair(pool.padding) == (0, 0)
        and _pair(pool.dilation) == (1, 1)
        and not pool.ceil_mode
        and not pool.return_indices
    )


def max_pool2d(pool: torch.nn.MaxPool2d, x: Tensor) -> Tensor:
    """pool(x) of one that `pools_apart`, [N, C, H, W] or [C, H, W] -> [.., H // kh, W // kw]; no gradient.

    Raises:
        RuntimeError: as the module itself.
    """
    kh, kw = _pair(pool.kernel_size)
    if x.ndim not in (3, 4) or not x.is_contiguous() or x.shape[-2] < kh or x.shape[-1] < kw:
        return pool(x)
    height, width = x.shape[-2] // kh * kh, x.shape[-1] // kw * kw
    rows = functools.reduce(torch.maximum, (x[..., i:height:kh, :] for i in range(kh)))
    return functools.reduce(torch.maximum, (rows[..., j:width:kw] for j in range(kw))).contiguous()
