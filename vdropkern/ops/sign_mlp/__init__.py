"""``sign_mlp_losses`` and ``noise_moments``: what a search over the weights of a net of signs needs."""

from __future__ import annotations

import torch
from torch import Tensor

from ..._backend import choose
from .._register import register
from ..mul_noise.reference import compute_dtype
from . import reference
from .reference import layers_of, outputs_of

__all__ = ["layers_of", "noise_moments", "outputs_of", "sign_mlp_losses"]

LOSSES_SCHEMA = (
    "sign_mlp_losses(Tensor x, Tensor y, Tensor mu, Tensor sigma, Tensor seeds, int depth, bool antithetic)"
    " -> Tensor"
)
MOMENTS_SCHEMA = (
    "noise_moments(Tensor seeds, Tensor weights, Tensor square_weights, int parameters) -> (Tensor, Tensor)"
)


def _losses_fake(
    x: Tensor, y: Tensor, mu: Tensor, sigma: Tensor, seeds: Tensor, depth: int, antithetic: bool
) -> Tensor:
    return x.new_empty(seeds.numel() * (2 if antithetic else 1), dtype=compute_dtype(x, mu))


def _moments_fake(
    seeds: Tensor, weights: Tensor, square_weights: Tensor, parameters: int
) -> tuple[Tensor, Tensor]:
    dtype = compute_dtype(weights)
    return weights.new_empty(parameters, dtype=dtype), weights.new_empty(parameters, dtype=dtype)


_losses_op = register(LOSSES_SCHEMA, reference.sign_mlp_losses, _losses_fake)
_moments_op = register(MOMENTS_SCHEMA, reference.noise_moments, _moments_fake)


def sign_mlp_losses(
    x: Tensor, y: Tensor, mu: Tensor, sigma: Tensor, seeds: Tensor, depth: int, antithetic: bool
) -> Tensor:
    """See `reference.sign_mlp_losses`; the kernel is for float32, float64 runs the reference."""
    if x.dtype == torch.float64:
        return reference.sign_mlp_losses(x, y, mu, sigma, seeds, depth, antithetic)
    losses: Tensor = choose(_losses_op, x)(x, y, mu, sigma, seeds, depth, antithetic)
    return losses


def noise_moments(
    seeds: Tensor, weights: Tensor, square_weights: Tensor, parameters: int
) -> tuple[Tensor, Tensor]:
    """See `reference.noise_moments`; the kernel is for float32, float64 runs the reference."""
    if weights.dtype == torch.float64:
        return reference.noise_moments(seeds, weights, square_weights, parameters)
    sums: tuple[Tensor, Tensor] = choose(_moments_op, seeds)(seeds, weights, square_weights, parameters)
    return sums
