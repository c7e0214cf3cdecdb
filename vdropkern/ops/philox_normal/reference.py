"""Standard normals from Philox bits by Box and Muller (1958)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..philox_bits.reference import philox_bits


def philox_normal(seed: Tensor, rows: int, cols: int, dtype: torch.dtype) -> Tensor:
    """(z0, z1) = sqrt(-2 ln u0) (cos 2 pi u1, sin 2 pi u1), u = (bits + 1/2) 2^-32, pairs along a row.

    Computed in float64, where u is exact, then rounded to `dtype`.
    """
    padded = (cols + 3) // 4 * 4
    u = (philox_bits(seed, rows, padded).double() + 0.5) * 2.0**-32
    u0, u1 = u[:, 0::2], u[:, 1::2]
    radius = torch.sqrt(-2 * torch.log(u0))
    angle = 2 * math.pi * u1
    z = torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), dim=-1)
    return z.reshape(rows, padded)[:, :cols].to(dtype).contiguous()  # [rows, cols]
