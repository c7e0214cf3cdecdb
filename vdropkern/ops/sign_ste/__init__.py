"""``sign_ste``: binarised activations, with a surrogate for the derivative that sign has not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._backend import choose
from .._register import differentiable, register, run_backward
from ..mul_noise.reference import layout_of
from . import reference
from .reference import BOXES, ESTIMATORS, SMOOTH, WORD

__all__ = ["BOXES", "ESTIMATORS", "SMOOTH", "sign_ste"]

SCHEMA = (
    "sign_ste(Tensor x, Tensor? seed, str estimator, float strength, bool needs_gate) -> (Tensor, Tensor)"
)
BACKWARD_SCHEMA = (
    "sign_ste_backward(Tensor grad, Tensor? x, Tensor? gate, str estimator, float strength,"
    " bool channels_last) -> Tensor"
)


def _fake(
    x: Tensor, seed: Tensor | None, estimator: str, strength: float, needs_gate: bool
) -> tuple[Tensor, Tensor]:
    words = (x.numel() + WORD - 1) // WORD if needs_gate and estimator in BOXES else 0
    y = torch.empty_like(x, memory_format=layout_of(x))
    return y, x.new_empty(words, dtype=torch.int64)


def _backward_fake(
    grad: Tensor, x: Tensor | None, gate: Tensor | None, estimator: str, strength: float, channels_last: bool
) -> Tensor:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty_like(grad, memory_format=layout)


_op = register(SCHEMA, reference.sign_ste, _fake)
_backward_op = register(BACKWARD_SCHEMA, reference.sign_ste_backward, _backward_fake, of="sign_ste")


def _forward(
    x: Tensor, seed: Tensor | None, estimator: str, strength: float, needs_gate: bool
) -> tuple[Tensor, Tensor]:
    result: tuple[Tensor, Tensor] = choose(_op, x)(x, seed, estimator, strength, needs_gate)
    return result


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, _, ctx.estimator, ctx.strength, _ = inputs
    y, gate = output
    ctx.mark_non_differentiable(gate)
    ctx.channels_last = layout_of(y) == torch.channels_last
    # nothing, or x, which its producer holds anyway, or a bit an element
    smooth, box = ctx.estimator in SMOOTH, ctx.estimator in BOXES
    ctx.save_for_backward(x if smooth else None, gate if box else None)


def _backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    if ctx.estimator == "identity":
        return grad, None, None, None, None
    x, gate = ctx.saved_tensors
    run = choose(_backward_op, grad, (x,))
    dx = run_backward("sign_ste", run, grad, x, gate, ctx.estimator, ctx.strength, ctx.channels_last)
    return dx, None, None, None, None


_apply = differentiable("sign_ste", _forward, _save, _backward)


def sign_ste(x: Tensor, seed: Tensor | None, estimator: str, strength: float) -> Tensor:
    """x binarised, of its shape and dtype; differentiable once (any number of times for ``identity``).

    `estimator` is one of `ESTIMATORS`, `strength` the slope of ``steep`` or the beta of ``swish``; a seed,
    int64 scalar, is for ``stochastic``. The public function says what they mean.
    """
    y: Tensor = _apply(x, seed, estimator, strength, torch.is_grad_enabled())[0]
    return y
