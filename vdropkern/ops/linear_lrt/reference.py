"""The local reparameterisation of a linear layer (Kingma, Salimans & Welling 2015, section 2.3)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..kl import reference as kl_reference
from ..philox_normal.reference import philox_normal

F = TypeVar("F", bound=Callable[..., Any])


def without_autocast(function: F) -> F:
    """Keep autocast from casting the products: a float16 variance loses eps and is 0 / 0 in backward."""

    @functools.wraps(function)
    def run(first: Tensor, *args: Any) -> Any:
        if first.device.type == "meta":  # knows no autocast
            return function(first, *args)
        with torch.autocast(first.device.type, enabled=False):
            return function(first, *args)

    return run  # type: ignore[return-value]


def sigma2_of(mu: Tensor, log_sigma2: Tensor | None, log_alpha: Tensor | None) -> Tensor:
    if log_sigma2 is not None:
        return log_sigma2.to(mu.dtype).exp()  # [O, I]
    assert log_alpha is not None
    return log_alpha.to(mu.dtype).exp() * mu**2  # [O, I]


def clipped(
    of: Tensor, mu: Tensor, log_sigma2: Tensor | None, log_alpha: Tensor | None, clip: float
) -> Tensor:
    """`of` [O, I], and 0 where log_alpha >= clip: what train_clip leaves of the means and their gradients."""
    if log_alpha is None:
        assert log_sigma2 is not None
        log_alpha = log_sigma2.to(mu.dtype) - torch.log(mu**2 + kl_reference.EPS)
    return torch.where(log_alpha >= clip, 0.0, of)


@without_autocast
def linear_lrt(
    x: Tensor,  # [*, I]
    mu: Tensor,  # [O, I]
    log_sigma2: Tensor | None,  # [O, I], or None with
    log_alpha: Tensor | None,  # [1|O, 1|I]
    bias: Tensor | None,  # [O]
    seed: Tensor,  # int64 scalar
    prior: str,
    eps: float,
    clip: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """y = x mean^T + bias + sqrt(x^2 (sigma^2)^T + eps) * e, its standard deviation, and KL of the weights.

    sigma^2 = exp(log_sigma2) or exp(log_alpha) mu^2; mean = mu where log_alpha < clip, else 0. KL is 0 with
    prior "none".
    """
    dtype = kl_reference.compute_dtype(x, mu, log_sigma2, log_alpha)
    x2d, m = x.reshape(x.shape[:-1].numel(), x.shape[-1]).to(dtype), mu.to(dtype)
    mean = x2d @ clipped(m, m, log_sigma2, log_alpha, clip).T  # [B, O]
    std = torch.sqrt(x2d**2 @ sigma2_of(m, log_sigma2, log_alpha).T + eps)  # [B, O]
    y = mean + std * philox_normal(seed, x2d.shape[0], mu.shape[0], dtype)
    if bias is not None:
        y = y + bias.to(dtype)
    kl = y.new_zeros(())
    if prior != "none":
        kl = kl_reference.kl(None if log_alpha is not None else mu, log_sigma2, log_alpha, prior).to(dtype)
    shape = (*x.shape[:-1], mu.shape[0])
    return y.to(x.dtype).reshape(shape), std.reshape(shape), kl


@without_autocast
def linear_lrt_backward(
    grad_y: Tensor,  # [*, O]
    grad_kl: Tensor | None,  # scalar
    x: Tensor,  # [*, I]
    mu: Tensor,  # [O, I]
    log_sigma2: Tensor | None,
    log_alpha: Tensor | None,
    std: Tensor,  # [*, O]
    seed: Tensor,
    prior: str,
    clip: float,
    needs_x: bool,
    needs_weight: bool,
    needs_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, mu, the noise parameter and bias; those not needed are empty.

    With g_v = dy e / (2 std): dx = dy mean + 2 x (g_v sigma^2), dmu = dy^T x where log_alpha < clip, else 0,
    dlog = (g_v^T x^2) sigma^2, and for log_alpha also dmu += 2 (g_v^T x^2) alpha mu.
    """
    dtype = std.dtype
    rows, out = x.shape[:-1].numel(), mu.shape[0]
    dy = grad_y.reshape(rows, out).to(dtype)
    x2d, m = x.reshape(rows, mu.shape[1]).to(dtype), mu.to(dtype)
    g_v = dy * philox_normal(seed, rows, out, dtype) / (2 * std.reshape(rows, out))
    sigma2 = sigma2_of(m, log_sigma2, log_alpha)
    noise = log_sigma2 if log_sigma2 is not None else log_alpha
    assert noise is not None
    dx, dmu, dlog, dbias = (t.new_empty(0) for t in (x, mu, noise, std))
    if needs_x:
        dx = (
            (dy @ clipped(m, m, log_sigma2, log_alpha, clip) + 2 * x2d * (g_v @ sigma2))
            .reshape(x.shape)
            .to(x.dtype)
        )
    if needs_weight:
        dv = g_v.T @ x2d**2  # [O, I]
        dmu, dlog = clipped(dy.T @ x2d, m, log_sigma2, log_alpha, clip), dv * sigma2
        if log_alpha is not None:
            dmu = dmu + 2 * dv * log_alpha.to(dtype).exp() * m
            dlog = dlog.sum_to_size(log_alpha.shape)
        if prior != "none" and grad_kl is not None:
            _, kl_dmu, kl_dlog = kl_reference.kl_grad(
                grad_kl.to(dtype),
                None if log_alpha is not None else m,
                None if log_sigma2 is None else log_sigma2.to(dtype),
                None if log_alpha is None else log_alpha.to(dtype),
                prior,
            )
            dmu = dmu + kl_dmu if log_alpha is None else dmu
            dlog = dlog + kl_dlog
        dmu, dlog = dmu.to(mu.dtype), dlog.to(noise.dtype)
    if needs_bias:
        dbias = dy.sum(0)
    return dx, dmu, dlog, dbias
