"""``weight_mask``: weights without a random part of the smallest ones, found by selection."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._backend import choose
from .._register import differentiable, one_by_one, register
from . import reference
from .reference import GRANULARITIES

__all__ = ["GRANULARITIES", "weight_mask"]

SCHEMA = "weight_mask(Tensor w, Tensor gamma, Tensor alpha, Tensor seed, str granularity) -> (Tensor, Tensor)"
GRAD_SCHEMA = (
    "weight_mask_grad(Tensor grad, Tensor w, Tensor threshold, Tensor alpha, Tensor seed, str granularity)"
    " -> Tensor"
)


def _fake(w: Tensor, gamma: Tensor, alpha: Tensor, seed: Tensor, granularity: str) -> tuple[Tensor, Tensor]:
    return w.new_empty(w.shape), w.new_empty(w.shape[0], dtype=reference.compute_dtype(w))


def _grad_fake(
    grad: Tensor, w: Tensor, threshold: Tensor, alpha: Tensor, seed: Tensor, granularity: str
) -> Tensor:
    return grad.new_empty(grad.shape)


_op = register(SCHEMA, reference.weight_mask, _fake, triton=f"{__name__}.triton")
_grad_op = register(
    GRAD_SCHEMA, reference.weight_mask_grad, _grad_fake, of="weight_mask", triton=f"{__name__}.triton"
)


def _forward(
    w: Tensor, gamma: Tensor, alpha: Tensor, seed: Tensor, granularity: str
) -> tuple[Tensor, Tensor]:
    result: tuple[Tensor, Tensor] = choose(_op, w)(w, gamma, alpha, seed, granularity)
    return result


class _Masked(torch.autograd.Function):
    """A tensor with the mask of w: linear in it, so its gradient is the same, any number of times."""

    @staticmethod
    def forward(
        grad: Tensor, w: Tensor, threshold: Tensor, alpha: Tensor, seed: Tensor, granularity: str
    ) -> Tensor:
        masked: Tensor = choose(_grad_op, w)(grad, w, threshold, alpha, seed, granularity)
        return masked

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:5])
        ctx.granularity = inputs[5]

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        return one_by_one(_Masked.apply, info.batch_size, in_dims, inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _Masked.apply(grad, *ctx.saved_tensors, ctx.granularity), None, None, None, None, None


def _backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    args = (grad, *ctx.saved_tensors, ctx.granularity)
    masked = _Masked.apply(*args) if torch.is_grad_enabled() else _Masked.forward(*args)
    return masked, None, None, None, None


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    w, _, alpha, seed, ctx.granularity = inputs
    ctx.save_for_backward(w, output[1], alpha, seed)
    ctx.mark_non_differentiable(output[1])


# beside w itself, a threshold a row and the seed are saved; the mask is drawn again
_apply = differentiable("weight_mask", _forward, _save, _backward)


def weight_mask(
    w: Tensor,  # [O, I]
    gamma: Tensor,  # scalar
    alpha: Tensor,  # scalar
    seed: Tensor,  # int64 scalar
    granularity: str,
) -> tuple[Tensor, Tensor]:
    """(w with a random alpha of its smallest gamma at 0, thresholds [O]); differentiable in w.

    `granularity` is one of `GRANULARITIES`: see `reference.thresholds`.
    """
    result: tuple[Tensor, Tensor] = _apply(w, gamma, alpha, seed, granularity)
    return result
