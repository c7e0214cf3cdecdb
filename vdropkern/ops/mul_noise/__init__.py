"""``mul_noise``: x times noise of mean 1, which is drawn and never stored.

``mul_noise`` has Bernoulli or Gaussian noise of a fixed strength, ``mul_noise_learned`` Gaussian noise whose
log_alpha is a parameter, and adds a bias first where the noise is that of a layer's output.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._backend import choose
from .._register import differentiable, register, run_backward
from . import reference
from .reference import NOISES

__all__ = ["NOISES", "mul_noise", "mul_noise_learned"]

SCHEMA = "mul_noise(Tensor x, Tensor seed, str noise, float strength) -> Tensor"
LEARNED_SCHEMA = "mul_noise_learned(Tensor x, Tensor log_alpha, Tensor? bias, Tensor seed) -> Tensor"
LEARNED_BACKWARD_SCHEMA = (
    "mul_noise_learned_backward(Tensor grad_y, Tensor x, Tensor log_alpha, Tensor? bias, Tensor seed)"
    " -> (Tensor, Tensor, Tensor)"
)


def _like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=reference.layout_of(x))


def _fake(x: Tensor, seed: Tensor, noise: str, strength: float) -> Tensor:
    return _like(x)


def _learned_fake(x: Tensor, log_alpha: Tensor, bias: Tensor | None, seed: Tensor) -> Tensor:
    return _like(x)


def _learned_backward_fake(
    grad_y: Tensor, x: Tensor, log_alpha: Tensor, bias: Tensor | None, seed: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    dbias = log_alpha.new_empty(0) if bias is None else bias.new_empty(bias.shape)
    return _like(x), log_alpha.new_empty(log_alpha.shape), dbias


_op = register(SCHEMA, reference.mul_noise, _fake, triton=f"{__name__}.triton")
_learned_op = register(
    LEARNED_SCHEMA, reference.mul_noise_learned, _learned_fake, triton=f"{__name__}.triton_learned"
)
_learned_backward_op = register(
    LEARNED_BACKWARD_SCHEMA,
    reference.mul_noise_learned_backward,
    _learned_backward_fake,
    of="mul_noise_learned",
    triton=f"{__name__}.triton_learned",
)


def _multiply(x: Tensor, seed: Tensor, noise: str, strength: float) -> Tensor:
    y: Tensor = choose(_op, x)(x, seed, noise, strength)
    return y


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])
    ctx.noise, ctx.strength = inputs[2:]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    # y is linear in x: its gradient is the same product, and may be differentiated again
    (seed,) = ctx.saved_tensors
    return mul_noise(grad, seed, ctx.noise, ctx.strength), None, None, None


_apply = differentiable("mul_noise", _multiply, _save, _backward)


def mul_noise(x: Tensor, seed: Tensor, noise: str, strength: float) -> Tensor:
    """x [*, C], seed: int64 scalar tensor -> x's shape and dtype, differentiable in x.

    `noise` is one of `NOISES`, `strength` the probability of dropping (0 <= p < 1) or the variance (>= 0).
    """
    y: Tensor = _apply(x, seed, noise, strength)
    return y


def _learned_forward(x: Tensor, log_alpha: Tensor, bias: Tensor | None, seed: Tensor) -> Tensor:
    y: Tensor = choose(_learned_op, x, (log_alpha, bias))(x, log_alpha, bias, seed)
    return y


def _save_learned(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _learned_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, log_alpha, bias, seed = ctx.saved_tensors
    impl = choose(_learned_backward_op, x, (log_alpha, bias))
    dx, dlog_alpha, dbias = run_backward("mul_noise", impl, grad, x, log_alpha, bias, seed)
    return dx, dlog_alpha, None if bias is None else dbias, None


_apply_learned = differentiable("mul_noise_learned", _learned_forward, _save_learned, _learned_backward)


def _covering(shape: torch.Size, over: torch.Size) -> list[int]:
    """`shape`, broadcastable to `over`, without a 1 between two of its dimensions where `over` has more."""
    padded = [1] * (len(over) - len(shape)) + list(shape)
    own = [i for i, n in enumerate(padded) if n != 1]
    return [over[i] if own and own[0] < i < own[-1] else n for i, n in enumerate(padded)]


def mul_noise_learned(
    x: Tensor,
    log_alpha: Tensor,  # broadcastable to x
    bias: Tensor | None,  # broadcastable to x
    seed: Tensor,  # int64 scalar
) -> Tensor:
    """(x + bias) * (1 + sqrt(alpha) e) of x's shape and dtype; differentiable once in all but the seed.

    Kernels want parameters that follow one another in x's memory, and bias and log_alpha (unless that is one
    value) of one shape: whatever else broadcasts is expanded to that.
    """
    shape = log_alpha.shape if bias is None else torch.broadcast_shapes(log_alpha.shape, bias.shape)
    common = torch.Size(_covering(shape, x.shape))
    dtype = reference.compute_dtype(x, log_alpha, bias)  # so that the sums of an expanded one round once
    if log_alpha.numel() != 1 and log_alpha.numel() != common.numel():
        log_alpha = log_alpha.to(dtype).expand(common)
    if bias is not None and bias.numel() != common.numel():
        bias = bias.to(dtype).expand(common)
    y: Tensor = _apply_learned(x, log_alpha, bias, seed)
    return y
