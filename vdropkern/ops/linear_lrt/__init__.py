"""``linear_lrt``: a linear layer with Gaussian weights, sampled by local reparameterisation.

Two products (mean and variance), the noise, the bias and, on request, the weights' KL in one op; its
backward draws the noise again from the seed, so only x and the standard deviation are kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._backend import choose
from .._register import differentiable, register, run_backward
from . import reference

SCHEMA = (
    "linear_lrt(Tensor x, Tensor mu, Tensor? log_sigma2, Tensor? log_alpha, Tensor? bias, Tensor seed,"
    " str prior, float eps, float clip) -> (Tensor, Tensor, Tensor)"
)
BACKWARD_SCHEMA = (
    "linear_lrt_backward(Tensor grad_y, Tensor? grad_kl, Tensor x, Tensor mu, Tensor? log_sigma2,"
    " Tensor? log_alpha, Tensor std, Tensor seed, str prior, float clip, bool needs_x, bool needs_weight,"
    " bool needs_bias) -> (Tensor, Tensor, Tensor, Tensor)"
)

TRITON = f"{__name__}.triton"


def _fake(
    x: Tensor,
    mu: Tensor,
    log_sigma2: Tensor | None,
    log_alpha: Tensor | None,
    bias: Tensor | None,
    seed: Tensor,
    prior: str,
    eps: float,
    clip: float,
) -> tuple[Tensor, Tensor, Tensor]:
    y = x.new_empty((*x.shape[:-1], mu.shape[0]))
    any_double = any(t is not None and t.dtype == torch.float64 for t in (x, mu, log_sigma2, log_alpha))
    std = torch.empty_like(y, dtype=torch.float64 if any_double else torch.float32)
    return y, std, std.new_empty(())


def _backward_fake(
    grad_y: Tensor,
    grad_kl: Tensor | None,
    x: Tensor,
    mu: Tensor,
    log_sigma2: Tensor | None,
    log_alpha: Tensor | None,
    std: Tensor,
    seed: Tensor,
    prior: str,
    clip: float,
    needs_x: bool,
    needs_weight: bool,
    needs_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    noise = log_sigma2 if log_sigma2 is not None else log_alpha
    assert noise is not None
    return (
        x.new_empty(x.shape if needs_x else 0),
        mu.new_empty(mu.shape if needs_weight else 0),
        noise.new_empty(noise.shape if needs_weight else 0),
        std.new_empty(mu.shape[0] if needs_bias else 0),
    )


_op = register(SCHEMA, reference.linear_lrt, _fake, triton=TRITON)
_backward_op = register(
    BACKWARD_SCHEMA, reference.linear_lrt_backward, _backward_fake, of="linear_lrt", triton=TRITON
)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    std = output[1]
    x, mu, log_sigma2, log_alpha, bias, seed, prior, _, clip = inputs
    ctx.mark_non_differentiable(std)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, mu, log_sigma2, log_alpha, std, seed)
    ctx.prior, ctx.clip = prior, clip
    ctx.bias_dtype = None if bias is None else bias.dtype


def _backward(ctx: Any, grad_y: Tensor | None, _: Any, grad_kl: Tensor | None) -> tuple[Tensor | None, ...]:
    x, mu, log_sigma2, log_alpha, std, seed = ctx.saved_tensors
    needs_x, needs_mu, needs_sigma2, needs_alpha, needs_bias = ctx.needs_input_grad[:5]
    if grad_y is None:  # only the KL was used
        if grad_kl is None:
            return (None,) * 9
        grad_y = torch.zeros_like(std)
    prior = ctx.prior if grad_kl is not None else "none"
    impl = choose(_backward_op, x, (std,))
    dx, dmu, dlog, dbias = run_backward(
        "linear_lrt", impl, grad_y, grad_kl, x, mu, log_sigma2, log_alpha, std, seed,
        prior, ctx.clip, needs_x, needs_mu or needs_sigma2 or needs_alpha, needs_bias,
    )  # fmt: skip
    return (
        dx if needs_x else None,
        dmu if needs_mu else None,
        dlog if needs_sigma2 else None,
        dlog if needs_alpha else None,
        dbias.to(ctx.bias_dtype) if needs_bias else None,
        None,
        None,
        None,
        None,
    )


def _run(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    result: tuple[Tensor, Tensor, Tensor] = choose(_op, inputs[0], inputs)(*inputs)
    return result


_apply = differentiable("linear_lrt", _run, _save, _backward)


def linear_lrt(
    x: Tensor,  # [*, I]
    mu: Tensor,  # [O, I]
    log_sigma2: Tensor | None,  # [O, I]
    log_alpha: Tensor | None,  # [1|O, 1|I]
    bias: Tensor | None,  # [O]
    seed: Tensor,  # int64 scalar
    prior: str,
    eps: float,
    clip: float,
) -> tuple[Tensor, Tensor]:
    """(y [*, O], kl scalar); differentiable in everything but the seed."""
    y, _, kl = _apply(x, mu, log_sigma2, log_alpha, bias, seed, prior, eps, clip)
    return y, kl
