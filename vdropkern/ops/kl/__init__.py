"""``kl``: KL divergence of a factorised Gaussian posterior, value and both gradients in one pass."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..._backend import choose
from .._register import differentiable, register, run_backward
from . import reference
from .reference import EPS, LOG_ALPHA_PRIORS, PRIORS, parse_prior

__all__ = ["EPS", "LOG_ALPHA_PRIORS", "PRIORS", "kl", "kl_grad", "parse_prior"]

KL_SCHEMA = "kl(Tensor? mu, Tensor? log_sigma2, Tensor? log_alpha, str prior) -> Tensor"
KL_GRAD_SCHEMA = (
    "kl_grad(Tensor grad, Tensor? mu, Tensor? log_sigma2, Tensor? log_alpha, str prior)"
    " -> (Tensor, Tensor, Tensor)"
)

TRITON = f"{__name__}.triton"


def _value_like(given: Tensor, *others: Tensor | None) -> Tensor:
    return given.new_empty((), dtype=reference.compute_dtype(given, *others))


def _kl_fake(mu: Tensor | None, log_sigma2: Tensor | None, log_alpha: Tensor | None, prior: str) -> Tensor:
    given = log_alpha if log_alpha is not None else log_sigma2
    assert given is not None
    return _value_like(given, mu)


def _kl_grad_fake(
    grad: Tensor, mu: Tensor | None, log_sigma2: Tensor | None, log_alpha: Tensor | None, prior: str
) -> tuple[Tensor, Tensor, Tensor]:
    if log_alpha is not None:
        return _value_like(log_alpha), log_alpha.new_empty(0), log_alpha.new_empty(log_alpha.shape)
    assert mu is not None and log_sigma2 is not None
    return _value_like(mu, log_sigma2), mu.new_empty(mu.shape), log_sigma2.new_empty(log_sigma2.shape)


_kl_op = register(KL_SCHEMA, reference.kl, _kl_fake, triton=TRITON)
_kl_grad_op = register(KL_GRAD_SCHEMA, reference.kl_grad, _kl_grad_fake, of="kl", triton=TRITON)


def kl_grad(
    grad: Tensor, mu: Tensor | None, log_sigma2: Tensor | None, log_alpha: Tensor | None, prior: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Value and scaled gradients in one pass over the parameters; see `reference.kl_grad`."""
    given = log_alpha if log_alpha is not None else log_sigma2
    assert given is not None
    result: tuple[Tensor, Tensor, Tensor] = choose(_kl_grad_op, given, (mu,))(
        grad, mu, log_sigma2, log_alpha, prior
    )
    return result


def _forward(mu: Tensor | None, log_sigma2: Tensor | None, log_alpha: Tensor | None, prior: str) -> Tensor:
    given = log_alpha if log_alpha is not None else log_sigma2
    assert given is not None
    value: Tensor = choose(_kl_op, given, (mu,))(mu, log_sigma2, log_alpha, prior)
    return value


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.prior = inputs[3]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    mu, log_sigma2, log_alpha = ctx.saved_tensors
    _, dmu, dlog = run_backward("kl", kl_grad, grad, mu, log_sigma2, log_alpha, ctx.prior)
    if log_alpha is not None:
        return None, None, dlog, None
    return dmu, dlog, None, None


# nothing but the parameters is saved: the backward pass reads them once more, as it would gradients
_apply = differentiable("kl", _forward, _save, _backward)


def kl(mu: Tensor | None, log_sigma2: Tensor | None, log_alpha: Tensor | None, prior: str) -> Tensor:
    """Scalar KL, differentiable in mu and log_sigma2, or in log_alpha where that is given instead."""
    value: Tensor = _apply(mu, log_sigma2, log_alpha, prior)
    return value
