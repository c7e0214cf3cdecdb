"""A noisy copy of the weights: W = mu + sigma e, e ~ N(0, 1), one draw a call."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kl.reference import compute_dtype
from ..philox_normal.reference import philox_normal


def weight_noise(mu: Tensor, log_sigma2: Tensor | None, log_alpha: Tensor | None, seed: Tensor) -> Tensor:
    """mu + exp(log_sigma2 / 2) e, or mu (1 + exp(log_alpha / 2) e), rounded once to mu's dtype."""
    dtype = compute_dtype(mu, log_sigma2, log_alpha)
    rows, cols = mu.shape
    m, noise = mu.to(dtype), philox_normal(seed, rows, cols, dtype)
    if log_sigma2 is not None:
        noisy = m + torch.exp(0.5 * log_sigma2.to(dtype)) * noise
    else:
        assert log_alpha is not None
        noisy = m * (1 + torch.exp(0.5 * log_alpha.to(dtype)) * noise)
    return noisy.to(mu.dtype).contiguous()


def weight_noise_grad(
    grad: Tensor, mu: Tensor | None, log_sigma2: Tensor | None, log_alpha: Tensor | None, seed: Tensor
) -> tuple[Tensor, Tensor]:
    """(empty, G sigma e / 2) for log_sigma2, whose gradient by mu is G itself; with t = exp(log_alpha / 2) e,
    (G (1 + t), G mu t / 2), the latter summed over the weights that share a log_alpha.
    """
    dtype = compute_dtype(grad, mu, log_sigma2, log_alpha)
    rows, cols = grad.shape
    g, noise = grad.to(dtype), philox_normal(seed, rows, cols, dtype)
    if log_sigma2 is not None:
        d_log = 0.5 * g * torch.exp(0.5 * log_sigma2.to(dtype)) * noise
        return grad.new_empty(0), d_log.to(log_sigma2.dtype)
    assert mu is not None and log_alpha is not None
    t = torch.exp(0.5 * log_alpha.to(dtype)) * noise
    d_log = (0.5 * g * mu.to(dtype) * t).sum_to_size(log_alpha.shape)
    return (g + g * t).to(mu.dtype), d_log.to(log_alpha.dtype)
