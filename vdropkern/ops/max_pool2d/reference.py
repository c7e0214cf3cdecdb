"""Max pooling of images: torch's own, its result row-major."""

from __future__ import annotations

import torch
from torch import Tensor


def max_pool2d(
    x: Tensor,  # [N, C, H, W] or [C, H, W]
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
) -> Tensor:  # [.., H', W']
    """y = the largest of each window, NaN where one is in it; then ReLU where asked for."""
    y = torch.nn.functional.max_pool2d(
        x, (kernel_h, kernel_w), (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w), ceil_mode
    )
    return (y.relu() if relu else y).contiguous()
