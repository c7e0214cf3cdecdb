"""Channel gates y = x * theta_c: one random factor a channel, for each sample or for the whole batch.

Papers: ``log-normal`` Neklyudov et al. 2017 (arXiv 1705.07283), ``normal`` Louizos et al. 2017 (arXiv
1705.08665), ``hard-concrete`` Louizos et al. 2018 (arXiv 1712.01312), ``concrete`` Gal et al. 2017 (arXiv
1705.07832), ``switch`` Leclerc et al. 2018 (arXiv 1806.03723).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..philox_bits.reference import philox_bits
from ..philox_normal.reference import philox_normal
from .truncated import draw

KINDS = ("normal", "log-normal", "hard-concrete", "concrete", "switch")


class Gates(NamedTuple):
    """theta and its derivatives by the two parameters, [rows, C] in float64; rows is 1 for a whole batch."""

    theta: Tensor
    by_location: Tensor
    by_log_sigma2: Tensor


def gates(
    rows: int,
    location: Tensor,  # [C]
    log_sigma2: Tensor | None,  # [C]
    seed: Tensor,
    kind: str,
    temperature: float,
    low: float,
    high: float,
) -> Gates:
    """Draw the gates, in float64, where u = (bits + 1/2) 2^-32 is exact."""
    a, cols = location.double(), location.numel()
    none = torch.zeros(rows, cols, dtype=torch.float64, device=a.device)
    if kind == "switch":
        return Gates(a.expand(rows, cols), none + 1, none)
    if kind == "normal":
        assert log_sigma2 is not None
        noise = torch.exp(0.5 * log_sigma2.double()) * philox_normal(seed, rows, cols, torch.float64)
        return Gates(a + noise, none + 1, 0.5 * noise)
    bits = philox_bits(seed, rows, cols)
    u, rest = _uniforms(bits)
    if kind == "log-normal":
        assert log_sigma2 is not None
        return log_normal_gates(bits, a, log_sigma2.double(), low, high)
    q = (torch.log(u) - torch.log(rest) + a) / temperature
    if kind == "hard-concrete":
        s = torch.sigmoid(q)
        stretched = s * (high - low) + low
        slope = (high - low) / temperature * s * torch.sigmoid(-q)
        return Gates(stretched.clamp(0, 1), slope * ((stretched > 0) & (stretched < 1)), none)
    theta = torch.sigmoid(-q) * (1 + torch.exp(a))  # (1 - z) / (1 - p)
    return Gates(theta, theta * (torch.sigmoid(a) - torch.sigmoid(q) / temperature), none)


def _uniforms(bits: Tensor) -> tuple[Tensor, Tensor]:
    """u and 1 - u, float64, each exact where it is small."""
    words = bits.double()
    return (words + 0.5) * 2.0**-32, (2.0**32 - 1 - words + 0.5) * 2.0**-32


def log_normal_gates(bits: Tensor, mu: Tensor, log_sigma2: Tensor, low: float, high: float) -> Gates:
    """`gates` of kind ``log-normal`` for random words [rows, C] and float64 parameters [C]."""
    y = draw(*_uniforms(bits), mu, log_sigma2, low, high)
    theta = torch.exp(y.y)
    return Gates(theta, theta * y.by_mu, 0.5 * theta * y.by_log_sigma)


def view(t: Tensor, channel_dim: int) -> Tensor:
    """[rows, C, spatial]"""
    d = channel_dim % t.ndim
    return t.reshape(t.shape[:d].numel(), t.shape[d], t.shape[d + 1 :].numel())


def _compute_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def like(x: Tensor, channel_dim: int) -> Tensor:
    """Unwritten memory of x's shape and dtype: channels last where x is that, else contiguous."""
    last = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    if (
        x.ndim in (4, 5)
        and channel_dim % x.ndim == 1
        and not x.is_contiguous()
        and x.is_contiguous(memory_format=last)
    ):
        return torch.empty_like(x, memory_format=last)
    return x.new_empty(x.shape)


def gate(
    x: Tensor,
    location: Tensor,
    log_sigma2: Tensor | None,
    seed: Tensor,
    kind: str,
    channel_dim: int,
    per_sample: bool,
    temperature: float,
    low: float,
    high: float,
) -> Tensor:
    """x * theta, rounded once to x's dtype."""
    seen = view(x, channel_dim)
    rows = seen.shape[0] if per_sample else 1
    theta = gates(rows, location, log_sigma2, seed, kind, temperature, low, high).theta
    dtype = _compute_dtype(x)
    y = seen.to(dtype) * theta.to(dtype)[:, :, None]
    return like(x, channel_dim).copy_(y.reshape(x.shape))


def gate_backward(
    grad: Tensor,
    x: Tensor,
    location: Tensor,
    log_sigma2: Tensor | None,
    seed: Tensor,
    kind: str,
    channel_dim: int,
    per_sample: bool,
    temperature: float,
    low: float,
    high: float,
    needs_x: bool,
    needs_parameters: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, location and log_sigma2, the noise drawn again; what is not needed is empty."""
    dy, seen = view(grad, channel_dim), view(x, channel_dim)
    rows = seen.shape[0] if per_sample else 1
    drawn = gates(rows, location, log_sigma2, seed, kind, temperature, low, high)
    dtype = _compute_dtype(x)
    dx, d_location, d_log = x.new_empty(0), location.new_empty(0), location.new_empty(0)
    if needs_x:
        product = dy.to(dtype) * drawn.theta.to(dtype)[:, :, None]
        dx = like(x, channel_dim).copy_(product.reshape(x.shape))
    if needs_parameters:
        by_theta = (dy.to(dtype) * seen.to(dtype)).sum(-1).double()  # [rows of x, C]
        if not per_sample:
            by_theta = by_theta.sum(0, keepdim=True)
        d_location = (by_theta * drawn.by_location).sum(0).to(location.dtype)
        if log_sigma2 is not None:
            d_log = (by_theta * drawn.by_log_sigma2).sum(0).to(log_sigma2.dtype)
    return dx, d_location, d_log
