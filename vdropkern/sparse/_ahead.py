"""Calls in eval mode with gradients on: run on packed forms, and once more if gradients are asked for.

Most such calls only lack a no_grad around them. What was differentiated once runs as in training from then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["Owner", "run_ahead"]


class Owner(Protocol):
    """A layer, or several as one."""

    differentiated: bool


class _Ahead(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Callable[[Tensor], Tensor], owners: Any, x: Tensor, *given: Tensor) -> Tensor:
        ctx.call, ctx.owners = call, owners
        ctx.save_for_backward(x, *given)
        return call(x)  # no gradients in here

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        for owner in ctx.owners:
            owner.differentiated = True
        needs = ctx.needs_input_grad[2:]
        saved_x, *parameters = ctx.saved_tensors
        x = saved_x.detach().requires_grad_(needs[0])
        with torch.enable_grad():
            y = ctx.call(x)
        wanted = [t for t, need in zip((x, *parameters), needs, strict=True) if need]
        grads = iter(torch.autograd.grad(y, wanted, grad_y))
        return None, None, *(next(grads) if need else None for need in needs)


def run_ahead(
    call: Callable[[Tensor], Tensor], owners: Sequence[Owner], x: Tensor, parameters: Sequence[Tensor]
) -> Tensor:
    """`call(x)`, which for gradients in x and the parameters is called again with `differentiated` set."""
    once = dict.fromkeys(parameters)  # each would get the whole gradient of one that is shared
    y: Tensor = _Ahead.apply(call, owners, x, *once)
    return y
