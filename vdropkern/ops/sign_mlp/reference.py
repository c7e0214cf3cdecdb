"""Losses of perturbed copies of a net of sign layers, one after the other."""

from __future__ import annotations

import torch
from torch import Tensor

from ..mul_noise.reference import compute_dtype
from ..philox_normal.reference import philox_normal


def layers_of(parameters: Tensor, width: int, depth: int) -> list[tuple[Tensor, Tensor]]:
    """(weight, bias) of each layer, views of a flat tensor of them in torch's order."""
    layers, at = [], 0
    for outputs in (*(width,) * depth, 1):
        weight = parameters[at : at + outputs * width].reshape(outputs, width)
        at += outputs * width
        layers.append((weight, parameters[at : at + outputs]))
        at += outputs
    return layers


def outputs_of(x: Tensor, parameters: Tensor, depth: int) -> tuple[Tensor, list[Tensor]]:
    """(output [B], what each sign was taken of [B, n])."""
    *hidden, (weight, bias) = layers_of(parameters, x.shape[1], depth)
    before = []
    for w, b in hidden:
        before.append(x @ w.T + b)
        x = torch.where(before[-1] >= 0, 1.0, -1.0).to(x.dtype)
    return (x @ weight.T + bias)[:, 0], before


def sign_mlp_losses(
    x: Tensor,  # [B, n]
    y: Tensor,  # [B]
    mu: Tensor,  # [d]
    sigma: Tensor,  # [d]
    seeds: Tensor,  # int64 [M]
    depth: int,
    antithetic: bool,
) -> Tensor:
    """[M] (or [2 M], + before -): mean squared error with the parameters mu + sigma e, e of each seed."""
    dtype = compute_dtype(x, mu)
    losses = []
    for seed in seeds:
        e = philox_normal(seed, 1, mu.numel(), dtype)[0]
        for sign in (1, -1) if antithetic else (1,):
            out, _ = outputs_of(x.to(dtype), mu.to(dtype) + sign * sigma.to(dtype) * e, depth)
            losses.append(torch.mean((out - y.to(dtype)) ** 2))
    return torch.stack(losses) if losses else x.new_empty(0, dtype=dtype)


def noise_moments(
    seeds: Tensor,  # int64 [M]
    weights: Tensor,  # [M]
    square_weights: Tensor,  # [M]
    parameters: int,
) -> tuple[Tensor, Tensor]:
    """(sum_k u_k e_k, sum_k v_k (e_k^2 - 1)), [d] each, with e of each seed once more; u, v the weights."""
    dtype = compute_dtype(weights)
    first, second = (torch.zeros(parameters, dtype=dtype, device=seeds.device) for _ in range(2))
    for seed, u, v in zip(seeds, weights.to(dtype), square_weights.to(dtype), strict=True):
        e = philox_normal(seed, 1, parameters, dtype)[0]
        first += u * e
        second += v * (e**2 - 1)
    return first, second
