"""`mul_noise` in Triton: x read once, y written once, noise drawn between; the gradient is the same op."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._launch import launch_on, refuse_double
from .._triton import normals_of_groups, weave, words_of_groups
from ..philox_normal.triton import NoiseGrid, noise_tile
from .reference import layout_of, rows_and_cols


@triton.jit
def mul_noise_kernel(
    x, seed, y, rows, cols, groups, below, factor,
    BERNOULLI: tl.constexpr, ROWS: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """Bernoulli: words under `below` give 0, others `factor` = 1 / (1 - p). Gaussian: 1 + factor e."""
    counter, at, inside = noise_tile(rows, cols, groups, ROWS, GROUPS)
    tile = tl.load(x + at, inside, 0.0).to(tl.float32)
    if BERNOULLI:
        w0, w1, w2, w3 = words_of_groups(seed, counter)
        xi = tl.where(weave(w0, w1, w2, w3) >= tl.cast(below, tl.uint32), factor, 0.0)
    else:
        xi = 1.0 + factor * normals_of_groups(seed, counter)
    tl.store(y + at, (tile * xi).to(y.dtype.element_ty), inside)


def mul_noise(x: Tensor, seed: Tensor, noise: str, strength: float) -> Tensor:
    """x times noise of mean 1, of x's shape, dtype and format."""
    refuse_double("mul_noise", x)
    dense = x.contiguous()
    y = torch.empty_like(dense)
    if y.numel() == 0:
        return y
    bernoulli = noise == "bernoulli"
    below = min(math.floor(strength * 2.0**32), 2**32 - 1) if bernoulli else 0
    factor = 1 / (1 - strength) if bernoulli else math.sqrt(strength)
    grid = NoiseGrid.of(*rows_and_cols(x))
    with launch_on(x):
        mul_noise_kernel[(grid.programs,)](
            dense, seed, y, *grid.sizes, below, factor, BERNOULLI=bernoulli, **grid.tile
        )
    return y.contiguous(memory_format=layout_of(x))
