"""``kl``: KL divergence of a factorised Gaussian posterior, value and both gradients in one pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..._backend import use_reference
from .._register import register
from . import reference
from .reference import EPS, PRIORS

__all__ = ["EPS", "PRIORS", "kl", "kl_grad"]

KL_SCHEMA = "kl(Tensor? mu, Tensor? log_sigma2, Tensor? log_alpha, str prior) -> Tensor"
KL_GRAD_SCHEMA = (
    "kl_grad(Tensor grad, Tensor? mu, Tensor? log_sigma2, Tensor? log_alpha, str prior)"
    " -> (Tensor, Tensor, Tensor)"
)


def _value_like(t: Tensor) -> Tensor:
    return t.new_empty((), dtype=torch.float64 if t.dtype == torch.float64 else torch.float32)


def _kl_fake(mu: Tensor | None, log_sigma2: Tensor | None, log_alpha: Tensor | None, prior: str) -> Tensor:
    given = log_alpha if log_alpha is not None else log_sigma2
    assert given is not None
    return _value_like(given)


def _kl_grad_fake(
    grad: Tensor, mu: Tensor | None, log_sigma2: Tensor | None, log_alpha: Tensor | None, prior: str
) -> tuple[Tensor, Tensor, Tensor]:
    if log_alpha is not None:
        return _value_like(log_alpha), log_alpha.new_empty(0), log_alpha.new_empty(log_alpha.shape)
    assert mu is not None and log_sigma2 is not None
    return _value_like(mu), mu.new_empty(mu.shape), log_sigma2.new_empty(log_sigma2.shape)


_kl_op = register(KL_SCHEMA, reference.kl, _kl_fake)
_kl_grad_op = register(KL_GRAD_SCHEMA, reference.kl_grad, _kl_grad_fake)


def kl_grad(
    grad: Tensor, mu: Tensor | None, log_sigma2: Tensor | None, log_alpha: Tensor | None, prior: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Value and scaled gradients in one pass over the parameters; see `reference.kl_grad`."""
    if use_reference("kl", grad):
        return reference.kl_grad(grad, mu, log_sigma2, log_alpha, prior)
    return _kl_grad_op(grad, mu, log_sigma2, log_alpha, prior)


class _KL(torch.autograd.Function):
    """Nothing but the parameters is saved: the backward pass reads them once more, as it would gradients."""

    @staticmethod
    def forward(
        ctx: Any, mu: Tensor | None, log_sigma2: Tensor | None, log_alpha: Tensor | None, prior: str
    ) -> Tensor:
        ctx.save_for_backward(mu, log_sigma2, log_alpha)
        ctx.prior = prior
        given = log_alpha if log_alpha is not None else log_sigma2
        assert given is not None
        if use_reference("kl", given):
            return reference.kl(mu, log_sigma2, log_alpha, prior)
        return _kl_op(mu, log_sigma2, log_alpha, prior)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        mu, log_sigma2, log_alpha = ctx.saved_tensors
        _, dmu, dlog = kl_grad(grad, mu, log_sigma2, log_alpha, ctx.prior)
        if log_alpha is not None:
            return None, None, dlog, None
        return dmu, dlog, None, None


def kl(mu: Tensor | None, log_sigma2: Tensor | None, log_alpha: Tensor | None, prior: str) -> Tensor:
    """Scalar KL, differentiable in mu and log_sigma2, or in log_alpha where that is given instead."""
    return _KL.apply(mu, log_sigma2, log_alpha, prior)
