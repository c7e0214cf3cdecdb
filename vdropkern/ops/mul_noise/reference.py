"""Multiplicative noise (Srivastava et al., JMLR 2014): y = x * xi, xi with mean 1."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..philox_bits.reference import philox_bits
from ..philox_normal.reference import philox_normal

NOISES = ("bernoulli", "gaussian")


def rows_and_cols(x: Tensor) -> tuple[int, int]:
    """The matrix whose noise x gets: its last dimension are the columns."""
    return (x.shape[:-1].numel(), x.shape[-1]) if x.ndim else (1, 1)


def noise_of(x: Tensor, seed: Tensor, noise: str, strength: float) -> Tensor:
    """xi of x's shape, in float64 for float64 and float32 for all else.

    ``bernoulli``: 0 with probability p = `strength`, where the random word is below p 2^32, else 1 / (1 - p)
    (section 10 of the paper, "inverted" so that nothing is scaled in use). ``gaussian``: N(1, alpha),
    alpha = `strength`.
    """
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    rows, cols = rows_and_cols(x)
    if noise == "bernoulli":
        below = min(math.floor(strength * 2.0**32), 2**32 - 1)
        kept = philox_bits(seed, rows, cols) >= below
        xi = kept.to(dtype) * (1 / (1 - strength))
    else:
        xi = 1 + math.sqrt(strength) * philox_normal(seed, rows, cols, dtype)
    return xi.reshape(x.shape)


def mul_noise(x: Tensor, seed: Tensor, noise: str, strength: float) -> Tensor:
    """x * xi, rounded once to x's dtype."""
    xi = noise_of(x, seed, noise, strength)
    return (x.to(xi.dtype) * xi).to(x.dtype).contiguous()
