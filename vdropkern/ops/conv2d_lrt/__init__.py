"""``conv2d_lrt``: a convolution with Gaussian weights, sampled by local reparameterisation.

Two convolutions (mean and variance), the noise, the bias and, on request, the weights' KL in one op. Beside x
and the weights it keeps r = e / (2 sqrt(v + eps)), which holds all that its backward needs of the noise and
the variance, so nothing is drawn twice.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._backend import choose
from .._register import differentiable, register, run_backward
from . import reference

_GEOMETRY = (
    "int stride_h, int stride_w, int padding_h, int padding_w, int dilation_h, int dilation_w, int groups"
)
SCHEMA = (
    "conv2d_lrt(Tensor x, Tensor mu, Tensor? log_sigma2, Tensor? log_alpha, Tensor? bias, Tensor seed,"
    f" {_GEOMETRY}, str prior, float eps, float clip) -> (Tensor, Tensor, Tensor)"
)
BACKWARD_SCHEMA = (
    "conv2d_lrt_backward(Tensor grad_y, Tensor? grad_kl, Tensor x, Tensor mu, Tensor? log_sigma2,"
    f" Tensor? log_alpha, Tensor r, {_GEOMETRY}, str prior, float clip, bool needs_x, bool needs_weight,"
    " bool needs_bias) -> (Tensor, Tensor, Tensor, Tensor)"
)

Geometry = tuple[int, int, int, int, int, int, int]  # in the schema's order


def out_size(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Height or width of the result."""
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def _fake(
    x: Tensor,
    mu: Tensor,
    log_sigma2: Tensor | None,
    log_alpha: Tensor | None,
    bias: Tensor | None,
    seed: Tensor,
    stride_h: int,
    stride_w: int,
    padding_h: int,
    padding_w: int,
    dilation_h: int,
    dilation_w: int,
    groups: int,
    prior: str,
    eps: float,
    clip: float,
) -> tuple[Tensor, Tensor, Tensor]:
    height = out_size(x.shape[2], mu.shape[2], stride_h, padding_h, dilation_h)
    width = out_size(x.shape[3], mu.shape[3], stride_w, padding_w, dilation_w)
    layout = reference.memory_format_of(x, mu)
    y = torch.empty(
        (x.shape[0], mu.shape[0], height, width), dtype=x.dtype, device=x.device, memory_format=layout
    )
    any_double = any(t is not None and t.dtype == torch.float64 for t in (x, mu, log_sigma2, log_alpha))
    r = torch.empty_like(y, dtype=torch.float64 if any_double else torch.float32, memory_format=layout)
    return y, r, r.new_empty(())


def _backward_fake(
    grad_y: Tensor,
    grad_kl: Tensor | None,
    x: Tensor,
    mu: Tensor,
    log_sigma2: Tensor | None,
    log_alpha: Tensor | None,
    r: Tensor,
    stride_h: int,
    stride_w: int,
    padding_h: int,
    padding_w: int,
    dilation_h: int,
    dilation_w: int,
    groups: int,
    prior: str,
    clip: float,
    needs_x: bool,
    needs_weight: bool,
    needs_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    noise = log_sigma2 if log_sigma2 is not None else log_alpha
    assert noise is not None
    dx = torch.empty_like(x, memory_format=reference.memory_format_of(x, mu)) if needs_x else x.new_empty(0)
    dmu, dlog = (
        torch.empty_like(t, memory_format=reference.weight_format_of(t)) if needs_weight else t.new_empty(0)
        for t in (mu, noise)
    )
    return dx, dmu, dlog, r.new_empty(mu.shape[0] if needs_bias else 0)


_TRITON = f"{__name__}.triton"
_op = register(SCHEMA, reference.conv2d_lrt, _fake, triton=_TRITON)
_backward_op = register(
    BACKWARD_SCHEMA, reference.conv2d_lrt_backward, _backward_fake, of="conv2d_lrt", triton=_TRITON
)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    r = output[1]
    x, mu, log_sigma2, log_alpha, bias, _, *geometry, prior, _, clip = inputs
    ctx.mark_non_differentiable(r)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, mu, log_sigma2, log_alpha, r)
    ctx.geometry, ctx.prior, ctx.clip = geometry, prior, clip
    ctx.bias_dtype = None if bias is None else bias.dtype


def _backward(ctx: Any, grad_y: Tensor | None, _: Any, grad_kl: Tensor | None) -> tuple[Tensor | None, ...]:
    x, mu, log_sigma2, log_alpha, r = ctx.saved_tensors
    needs_x, needs_mu, needs_sigma2, needs_alpha, needs_bias = ctx.needs_input_grad[:5]
    if grad_y is None:  # only the KL was used
        if grad_kl is None:
            return (None,) * 16
        grad_y = torch.zeros_like(r)
    prior = ctx.prior if grad_kl is not None else "none"
    impl = choose(_backward_op, x, (r,))
    dx, dmu, dlog, dbias = run_backward(
        "conv2d_lrt", impl, grad_y, grad_kl, x, mu, log_sigma2, log_alpha, r, *ctx.geometry,
        prior, ctx.clip, needs_x, needs_mu or needs_sigma2 or needs_alpha, needs_bias,
    )  # fmt: skip
    return (
        dx if needs_x else None,
        dmu if needs_mu else None,
        dlog if needs_sigma2 else None,
        dlog if needs_alpha else None,
        dbias.to(ctx.bias_dtype) if needs_bias else None,
        *(None,) * 11,
    )


def _run(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    result: tuple[Tensor, Tensor, Tensor] = choose(_op, inputs[0], inputs)(*inputs)
    return result


_apply = differentiable("conv2d_lrt", _run, _save, _backward)


def conv2d_lrt(
    x: Tensor,  # [N, C, H, W]
    mu: Tensor,  # [O, C / groups, kh, kw]
    log_sigma2: Tensor | None,  # as mu
    log_alpha: Tensor | None,  # of mu's sizes or 1 in each dimension
    bias: Tensor | None,  # [O]
    seed: Tensor,  # int64 scalar
    geometry: Geometry,
    prior: str,
    eps: float,
    clip: float,
) -> tuple[Tensor, Tensor]:
    """(y [N, O, Ho, Wo], kl scalar); differentiable in everything but the seed."""
    y, _, kl = _apply(x, mu, log_sigma2, log_alpha, bias, seed, *geometry, prior, eps, clip)
    return y, kl
