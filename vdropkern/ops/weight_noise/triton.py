"""`weight_noise` in Triton: one pass over the weights, the noise drawn between load and store.

Noise proportional to mu is that of `mul_noise_learned` on mu.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._launch import launch_on, refuse_double
from .._triton import exp, normals_of_groups
from ..mul_noise.triton_learned import mul_noise_learned, mul_noise_learned_backward
from ..philox_normal.triton import NoiseGrid, noise_tile


@triton.jit
def weight_noise_kernel(
    given, log_sigma2, seed, out, rows, cols, groups,
    GRAD: tl.constexpr, ROWS: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """given = mu: mu + sigma e; GRAD, given = G: G sigma e / 2."""
    counter, at, inside = noise_tile(rows, cols, groups, ROWS, GROUPS)
    tile = tl.load(given + at, inside, 0.0).to(tl.float32)
    log = tl.load(log_sigma2 + at, inside, 0.0).to(tl.float32)
    noise = exp(log * 0.5, True) * normals_of_groups(seed, counter)
    result = tile * noise * 0.5 if GRAD else tile + noise
    tl.store(out + at, result.to(out.dtype.element_ty), inside)


def _run(given: Tensor, log_sigma2: Tensor, seed: Tensor, grad: bool) -> Tensor:
    refuse_double("weight_noise", given, log_sigma2)
    given_c, log_c = given.contiguous(), log_sigma2.contiguous()
    out = torch.empty_like(log_c if grad else given_c)
    if out.numel():
        grid = NoiseGrid.of(*out.shape)
        with launch_on(given):
            weight_noise_kernel[(grid.programs,)](
                given_c, log_c, seed, out, *grid.sizes, GRAD=grad, **grid.tile
            )
    return out


def weight_noise(mu: Tensor, log_sigma2: Tensor | None, log_alpha: Tensor | None, seed: Tensor) -> Tensor:
    """mu + exp(log_sigma2 / 2) e, or mu (1 + exp(log_alpha / 2) e)."""
    if log_sigma2 is not None:
        return _run(mu, log_sigma2, seed, grad=False)
    assert log_alpha is not None
    return mul_noise_learned(mu, log_alpha, None, seed)


def weight_noise_grad(
    grad: Tensor, mu: Tensor | None, log_sigma2: Tensor | None, log_alpha: Tensor | None, seed: Tensor
) -> tuple[Tensor, Tensor]:
    """(empty, dlog_sigma2), or (dmu, dlog_alpha); the noise drawn again."""
    if log_sigma2 is not None:
        return grad.new_empty(0), _run(grad, log_sigma2, seed, grad=True)
    assert mu is not None and log_alpha is not None
    return mul_noise_learned_backward(grad, mu, log_alpha, None, seed)[:2]
