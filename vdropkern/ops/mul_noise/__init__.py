"""``mul_noise``: x times Bernoulli or Gaussian noise of mean 1, which is drawn and never stored."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._backend import choose
from .._register import functorch_active, register
from . import reference
from .reference import NOISES

__all__ = ["NOISES", "mul_noise"]

SCHEMA = "mul_noise(Tensor x, Tensor seed, str noise, float strength) -> Tensor"


def _fake(x: Tensor, seed: Tensor, noise: str, strength: float) -> Tensor:
    return x.new_empty(x.shape)


_op = register(SCHEMA, reference.mul_noise, _fake, triton=f"{__name__}.triton")


def _multiply(x: Tensor, seed: Tensor, noise: str, strength: float) -> Tensor:
    y: Tensor = choose(_op, x)(x, seed, noise, strength)
    return y


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    # y is linear in x: its gradient is the same product, and may be differentiated again
    (seed,) = ctx.saved_tensors
    return mul_noise(grad, seed, ctx.noise, ctx.strength), None, None, None


class _MulNoise(torch.autograd.Function):
    """Nothing but the seed is saved."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, seed: Tensor, noise: str, strength: float) -> Tensor:
        ctx.save_for_backward(seed)
        ctx.noise, ctx.strength = noise, strength
        return _multiply(x, seed, noise, strength)

    backward = staticmethod(_backward)


class _MulNoiseFunctorch(torch.autograd.Function):
    """The same for torch.func transforms."""

    @staticmethod
    def forward(x: Tensor, seed: Tensor, noise: str, strength: float) -> Tensor:
        return _multiply(x, seed, noise, strength)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])
        ctx.noise, ctx.strength = inputs[2:]

    backward = staticmethod(_backward)


def mul_noise(x: Tensor, seed: Tensor, noise: str, strength: float) -> Tensor:
    """x [*, C], seed: int64 scalar tensor -> x's shape and dtype, differentiable in x.

    `noise` is one of `NOISES`, `strength` the probability of dropping (0 <= p < 1) or the variance (>= 0).
    """
    y: Tensor = (_MulNoiseFunctorch if functorch_active() else _MulNoise).apply(x, seed, noise, strength)
    return y
