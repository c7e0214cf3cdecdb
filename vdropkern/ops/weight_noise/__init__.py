"""``weight_noise``: weights with Gaussian noise, drawn once a call and again in backward, never stored."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..._backend import choose
from .._register import differentiable, register, run_backward
from . import reference

__all__ = ["weight_noise"]

SCHEMA = "weight_noise(Tensor mu, Tensor? log_sigma2, Tensor? log_alpha, Tensor seed) -> Tensor"
GRAD_SCHEMA = (
    "weight_noise_grad(Tensor grad, Tensor? mu, Tensor? log_sigma2, Tensor? log_alpha, Tensor seed)"
    " -> (Tensor, Tensor)"
)


def _fake(mu: Tensor, log_sigma2: Tensor | None, log_alpha: Tensor | None, seed: Tensor) -> Tensor:
    return mu.new_empty(mu.shape)


def _grad_fake(
    grad: Tensor, mu: Tensor | None, log_sigma2: Tensor | None, log_alpha: Tensor | None, seed: Tensor
) -> tuple[Tensor, Tensor]:
    if log_sigma2 is not None:
        return grad.new_empty(0), log_sigma2.new_empty(log_sigma2.shape)
    assert mu is not None and log_alpha is not None
    return mu.new_empty(mu.shape), log_alpha.new_empty(log_alpha.shape)


_op = register(SCHEMA, reference.weight_noise, _fake, triton=f"{__name__}.triton")
_grad_op = register(
    GRAD_SCHEMA, reference.weight_noise_grad, _grad_fake, of="weight_noise", triton=f"{__name__}.triton"
)


def _forward(mu: Tensor, log_sigma2: Tensor | None, log_alpha: Tensor | None, seed: Tensor) -> Tensor:
    noisy: Tensor = choose(_op, mu, (log_sigma2, log_alpha))(mu, log_sigma2, log_alpha, seed)
    return noisy


def _gradients(
    grad: Tensor, mu: Tensor | None, log_sigma2: Tensor | None, log_alpha: Tensor | None, seed: Tensor
) -> tuple[Tensor, Tensor]:
    result: tuple[Tensor, Tensor] = choose(_grad_op, grad, (mu, log_sigma2, log_alpha))(
        grad, mu, log_sigma2, log_alpha, seed
    )
    return result


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    mu, log_sigma2, log_alpha, seed = inputs
    ctx.save_for_backward(mu if log_alpha is not None else None, log_sigma2, log_alpha, seed)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    mu, log_sigma2, log_alpha, seed = ctx.saved_tensors
    if log_sigma2 is not None and not ctx.needs_input_grad[1]:
        return grad, None, None, None
    d_mu, d_log = run_backward("weight_noise", _gradients, grad, mu, log_sigma2, log_alpha, seed)
    return (grad, d_log, None, None) if log_sigma2 is not None else (d_mu, None, d_log, None)


# saved: the seed and the noise's parameter, and mu where the noise is proportional to it
_apply = differentiable("weight_noise", _forward, _save, _backward)


def weight_noise(
    mu: Tensor,  # [O, I]
    log_sigma2: Tensor | None,  # [O, I]
    log_alpha: Tensor | None,  # [1 or O, 1 or I], instead of log_sigma2
    seed: Tensor,  # int64 scalar
) -> Tensor:
    """mu with noise, in mu's shape and dtype; differentiable in all but the seed."""
    noisy: Tensor = _apply(mu, log_sigma2, log_alpha, seed)
    return noisy
