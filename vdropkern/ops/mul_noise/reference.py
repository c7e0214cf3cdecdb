"""Multiplicative noise of mean 1: fixed (Srivastava et al., JMLR 2014) or learned (Kingma et al. 2015)."""

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


def layout_of(x: Tensor) -> torch.memory_format:
    """Results lie in memory as x does, channels last or row-major, whatever x's own strides are."""
    last = torch.channels_last
    if x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=last):
        return last
    return torch.contiguous_format


def compute_dtype(*tensors: Tensor | None) -> torch.dtype:
    """float64 as soon as one tensor is, else float32."""
    any_double = any(t is not None and t.dtype == torch.float64 for t in tensors)
    return torch.float64 if any_double else torch.float32


def noise_of(x: Tensor, seed: Tensor, noise: str, strength: float) -> Tensor:
    """xi of x's shape, in float64 for float64 and float32 for all else.

    ``bernoulli``: 0 with probability p = `strength`, where the random word is below p 2^32, else 1 / (1 - p)
    (section 10 of the paper, "inverted" so that nothing is scaled in use). ``gaussian``: N(1, alpha),
    alpha = `strength`.
    """
    dtype = compute_dtype(x)
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
    return (x.to(xi.dtype) * xi).to(x.dtype).contiguous(memory_format=layout_of(x))


def mul_noise_learned(
    x: Tensor,
    log_alpha: Tensor,  # broadcastable to x
    bias: Tensor | None,  # broadcastable to x
    seed: Tensor,
) -> Tensor:
    """(x + bias) * (1 + sqrt(alpha) e), alpha = exp(log_alpha)."""
    dtype = compute_dtype(x, log_alpha, bias)
    z = x.to(dtype)
    if bias is not None:
        z = z + bias.to(dtype)
    e = philox_normal(seed, *rows_and_cols(x), dtype).reshape(x.shape)
    y = z * (1 + torch.exp(log_alpha.to(dtype) / 2) * e)
    return y.to(x.dtype).contiguous(memory_format=layout_of(x))


def mul_noise_learned_backward(
    grad_y: Tensor, x: Tensor, log_alpha: Tensor, bias: Tensor | None, seed: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """dx = dy (1 + sqrt(alpha) e), dlog_alpha = 1/2 sqrt(alpha) sum dy (x + bias) e, dbias = sum dx.

    Without a bias the last is empty.
    """
    dtype = compute_dtype(x, log_alpha, bias)
    dy, z = grad_y.to(dtype), x.to(dtype)
    if bias is not None:
        z = z + bias.to(dtype)
    e = philox_normal(seed, *rows_and_cols(x), dtype).reshape(x.shape)
    std = torch.exp(log_alpha.to(dtype) / 2)
    dx = dy * (1 + std * e)
    dlog_alpha = 0.5 * (dy * z * e * std).sum_to_size(log_alpha.shape)
    dbias = log_alpha.new_empty(0) if bias is None else dx.sum_to_size(bias.shape).to(bias.dtype)
    return (
        dx.to(x.dtype).contiguous(memory_format=layout_of(x)),
        dlog_alpha.to(log_alpha.dtype).contiguous(),
        dbias.contiguous(),
    )
