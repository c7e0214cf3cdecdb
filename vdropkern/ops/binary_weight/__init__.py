"""``binary_weight``: a filter's weights as its mean magnitude times their signs."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..._backend import choose
from .._register import differentiable, register, run_backward
from . import reference
from .reference import GRADIENTS

__all__ = ["GRADIENTS", "binary_weight"]

SCHEMA = "binary_weight(Tensor w) -> (Tensor, Tensor)"
BACKWARD_SCHEMA = "binary_weight_backward(Tensor grad, Tensor w, str gradient) -> Tensor"


def _fake(w: Tensor) -> tuple[Tensor, Tensor]:
    return w.new_empty(w.shape), w.new_empty(w.shape[:1])


def _backward_fake(grad: Tensor, w: Tensor, gradient: str) -> Tensor:
    return w.new_empty(w.shape)


_op = register(SCHEMA, reference.binary_weight, _fake)
_backward_op = register(BACKWARD_SCHEMA, reference.binary_weight_backward, _backward_fake, of="binary_weight")


def _forward(w: Tensor, gradient: str) -> tuple[Tensor, Tensor]:
    result: tuple[Tensor, Tensor] = choose(_op, w)(w)
    return result


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    w, ctx.gradient = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(w)


def _backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    (w,) = ctx.saved_tensors
    return run_backward("binary_weight", choose(_backward_op, w, (grad,)), grad, w, ctx.gradient), None


_apply = differentiable("binary_weight", _forward, _save, _backward)


def binary_weight(
    w: Tensor,  # [O, n]
    gradient: str,
) -> tuple[Tensor, Tensor]:
    """(alpha_o sign(w), alpha [O]); the first is differentiable once, the second not at all."""
    result: tuple[Tensor, Tensor] = _apply(w, gradient)
    return result
