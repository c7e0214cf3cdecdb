"""``multi_sample_head``: M dropout masks, one linear head, the mean of M cross-entropies, in one op.

The loss is a scalar whose gradients are known as soon as the logits are, so the forward pass computes them
while masks and logits are at hand, and the backward pass only scales them: no mask is drawn twice, and
neither masks nor logits are kept. With reduction ``none`` the gradient of each loss is known in the backward
pass alone, which then draws the masks again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._backend import choose
from .._register import functorch_active, one_by_one, register, run_backward
from . import reference
from .reference import REDUCTIONS, keep_masks

__all__ = ["REDUCTIONS", "keep_masks", "multi_sample_head"]

_INPUTS = (
    "Tensor h, Tensor weight, Tensor? bias, Tensor target, Tensor? class_weight, Tensor seed,"
    " int samples, float p"
)
_OPTIONS = "int ignore_index, float label_smoothing, bool needs_h, bool needs_weight"
SCHEMA = f"multi_sample_head({_INPUTS}, str reduction, {_OPTIONS}) -> (Tensor, Tensor, Tensor, Tensor)"
BACKWARD_SCHEMA = (
    f"multi_sample_head_backward(Tensor grad, {_INPUTS}, {_OPTIONS}) -> (Tensor, Tensor, Tensor)"
)


def _gradients_like(
    h: Tensor, weight: Tensor, bias: Tensor | None, needs_h: bool, needs_weight: bool
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = reference.compute_dtype(h, weight)
    dbias = weight.shape[0] if bias is not None and needs_weight else 0
    return (
        h.new_empty(h.shape if needs_h else 0, dtype=dtype),
        weight.new_empty(weight.shape if needs_weight else 0, dtype=dtype),
        weight.new_empty(dbias, dtype=dtype),
    )


def _fake(
    h: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    class_weight: Tensor | None,
    seed: Tensor,
    samples: int,
    p: float,
    reduction: str,
    ignore_index: int,
    label_smoothing: float,
    needs_h: bool,
    needs_weight: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    none = reduction == "none"
    loss = h.new_empty(h.shape[:1] if none else (), dtype=reference.compute_dtype(h, weight))
    return loss, *_gradients_like(h, weight, bias, needs_h and not none, needs_weight and not none)


def _backward_fake(
    grad: Tensor,
    h: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    class_weight: Tensor | None,
    seed: Tensor,
    samples: int,
    p: float,
    ignore_index: int,
    label_smoothing: float,
    needs_h: bool,
    needs_weight: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return _gradients_like(h, weight, bias, needs_h, needs_weight)


_op = register(SCHEMA, reference.multi_sample_head, _fake, triton=f"{__name__}.triton")
_backward_op = register(
    BACKWARD_SCHEMA,
    reference.multi_sample_head_backward,
    _backward_fake,
    of="multi_sample_head",
    triton=f"{__name__}.triton",
)


def _forward(inputs: tuple[Any, ...], needs_h: bool, needs_weight: bool) -> tuple[Tensor, ...]:
    result: tuple[Tensor, ...] = choose(_op, inputs[0], inputs)(*inputs, needs_h, needs_weight)
    return result


def _save(ctx: Any, inputs: tuple[Any, ...], gradients: tuple[Tensor, ...]) -> None:
    h, weight, bias, target, class_weight, seed, *options = inputs
    ctx.dtypes = (h.dtype, weight.dtype, None if bias is None else bias.dtype)
    ctx.options = options
    if options[2] == "none":
        ctx.save_for_backward(h, weight, bias, target, class_weight, seed)
    else:
        ctx.save_for_backward(*gradients, h, weight, bias)


def _scale(grad: Tensor, dh: Tensor, dweight: Tensor, dbias: Tensor, *_: Tensor | None) -> tuple[Tensor, ...]:
    """The inputs come along so that autograd knows what a second derivative would depend on, and refuses."""
    return dh * grad, dweight * grad, dbias * grad


def _backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    needs_h, needs_weight, needs_bias = ctx.needs_input_grad[:3]
    samples, p, reduction, ignore_index, label_smoothing = ctx.options
    if reduction == "none":
        saved = ctx.saved_tensors
        found = run_backward(
            "multi_sample_head", choose(_backward_op, saved[0], saved), grad, *saved,
            samples, p, ignore_index, label_smoothing, needs_h, needs_weight or needs_bias,
        )  # fmt: skip
    else:
        found = run_backward("multi_sample_head", _scale, grad, *ctx.saved_tensors)
    wanted = zip(found, ctx.needs_input_grad[:3], ctx.dtypes, strict=True)
    return *(t.to(dtype) if need else None for t, need, dtype in wanted), *(None for _ in range(8))


class _MultiSampleHead(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        needs_h, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        loss, *gradients = _forward(inputs, needs_h, needs_weight or needs_bias)
        _save(ctx, inputs, tuple(gradients))
        return loss

    backward = staticmethod(_backward)


class _MultiSampleHeadFunctorch(torch.autograd.Function):
    """The same for torch.func transforms, which demand setup_context; gradients are outputs then."""

    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, ...]:
        return _forward(inputs, True, True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        _save(ctx, inputs, output[1:])

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        return one_by_one(_MultiSampleHeadFunctorch.apply, info.batch_size, in_dims, inputs)

    backward = staticmethod(_backward)


def multi_sample_head(
    h: Tensor,  # [B, D]
    weight: Tensor,  # [K, D]
    bias: Tensor | None,  # [K]
    target: Tensor,  # int64 [B]
    class_weight: Tensor | None,  # [K]
    seed: Tensor,  # int64 scalar
    samples: int,
    p: float,
    reduction: str,
    ignore_index: int,
    label_smoothing: float,
) -> Tensor:
    """Loss, scalar or [B]; differentiable once in h, weight and bias."""
    inputs = (
        h,
        weight,
        bias,
        target,
        class_weight,
        seed,
        samples,
        p,
        reduction,
        ignore_index,
        label_smoothing,
    )
    if functorch_active():
        loss: Tensor = _MultiSampleHeadFunctorch.apply(*inputs)[0]
        return loss
    if not torch.is_grad_enabled():
        return _forward(inputs, False, False)[0]
    return _MultiSampleHead.apply(*inputs)
