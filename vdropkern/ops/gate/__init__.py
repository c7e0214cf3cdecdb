"""``gate``: x times one random factor a channel, drawn for each sample or once, and never stored."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..._backend import choose
from .._register import differentiable, register, run_backward
from . import reference
from .reference import KINDS, like

__all__ = ["KINDS", "gate", "gate_backward"]

_OPTIONS = "str kind, int channel_dim, bool per_sample, float temperature, float low, float high"
SCHEMA = f"gate(Tensor x, Tensor location, Tensor? log_sigma2, Tensor seed, {_OPTIONS}) -> Tensor"
BACKWARD_SCHEMA = (
    f"gate_backward(Tensor grad, Tensor x, Tensor location, Tensor? log_sigma2, Tensor seed, {_OPTIONS},"
    " bool needs_x, bool needs_parameters) -> (Tensor, Tensor, Tensor)"
)


def _fake(x: Tensor, location: Tensor, log_sigma2: Tensor | None, seed: Tensor, *options: Any) -> Tensor:
    return like(x, options[1])


def _backward_fake(
    grad: Tensor, x: Tensor, location: Tensor, log_sigma2: Tensor | None, seed: Tensor, *options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    needs_x, needs_parameters = options[-2:]
    d_location, d_log = location.new_empty(0), location.new_empty(0)
    if needs_parameters:
        d_location = location.new_empty(location.shape)
        if log_sigma2 is not None:
            d_log = log_sigma2.new_empty(log_sigma2.shape)
    return like(x, options[1]) if needs_x else x.new_empty(0), d_location, d_log


_op = register(SCHEMA, reference.gate, _fake, triton=f"{__name__}.triton")
_backward_op = register(
    BACKWARD_SCHEMA, reference.gate_backward, _backward_fake, of="gate", triton=f"{__name__}.triton"
)


def gate_backward(grad: Tensor, x: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    """(dx, dlocation, dlog_sigma2); see `reference.gate_backward`."""
    result: tuple[Tensor, Tensor, Tensor] = choose(_backward_op, x, rest[:2])(grad, x, *rest)
    return result


def _forward(x: Tensor, *rest: Any) -> Tensor:
    y: Tensor = choose(_op, x, rest[:2])(x, *rest)
    return y


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.options = inputs[4:]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, location, log_sigma2, seed = ctx.saved_tensors
    needs_x, needs_parameters = ctx.needs_input_grad[0], any(ctx.needs_input_grad[1:3])
    dx, d_location, d_log = run_backward(
        "gate", gate_backward, grad, x, location, log_sigma2, seed, *ctx.options, needs_x, needs_parameters
    )
    d_log = d_log if needs_parameters and log_sigma2 is not None else None
    return dx if needs_x else None, d_location if needs_parameters else None, d_log, *(None,) * 7


# x, the parameters and the seed are saved; the gates are drawn again
_apply = differentiable("gate", _forward, _save, _backward)


def gate(
    x: Tensor,
    location: Tensor,  # [C]
    log_sigma2: Tensor | None,  # [C]
    seed: Tensor,
    kind: str,
    channel_dim: int,
    per_sample: bool,
    temperature: float,
    low: float,
    high: float,
) -> Tensor:
    """x * theta, of x's shape and dtype, differentiable once in x and both parameters.

    The public function `vdropkern.functional.gate` says what the arguments mean.
    """
    y: Tensor = _apply(x, location, log_sigma2, seed, kind, channel_dim, per_sample, temperature, low, high)
    return y
