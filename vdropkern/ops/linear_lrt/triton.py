"""`linear_lrt` and its backward in Triton: what is allocated, which tiles, which launches.

Forward: one product (and the sum of its parts, where it was split); the KL's value is a pass of its own, as
the product would read every weight once a tile of rows and sum it in a loop whose registers are all taken.
Backward: one pass over dy draws the noise, then a product for x and one for the weights.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from ..._precision import Precision, resolve
from .._launch import device_of, launch_on, refuse_double
from ..kl import triton as kl_triton
from ..kl.triton_terms import prior_constant
from . import triton_kernels as kernels
from .tiles import Tile, arithmetic_of, choose

FINISH = (32, 64)  # rows and columns a program sums of a split product
OUTPUT_GRADIENT = (64, 64)


class Weights(NamedTuple):
    """The weights as the kernels want them; `form` is one of those in triton_kernels."""

    mu: Tensor  # [O, I]
    log: Tensor
    form: int
    strides: tuple[int, int]  # of log, by output and by input
    clip: bool
    exp_clip: float

    @classmethod
    def of(cls, mu: Tensor, log_sigma2: Tensor | None, log_alpha: Tensor | None, clip: float) -> Weights:
        log = log_sigma2 if log_sigma2 is not None else log_alpha
        assert log is not None
        strides = (0 if log.shape[0] == 1 else log.shape[1], 0 if log.shape[1] == 1 else 1)
        if log_sigma2 is not None:
            form = kernels.SIGMA2.value
        elif log.shape == mu.shape:
            form = kernels.ALPHA.value
        else:
            form = (kernels.ALPHA_OF_OUTPUT if log.shape[1] == 1 else kernels.ALPHA_OF_INPUT).value
        exp_clip = math.exp(min(clip, 88.0))
        return cls(mu.contiguous(), log.contiguous(), form, strides, clip < math.inf, exp_clip)


def _alignment(*sizes: int) -> int:
    """The largest power of two up to 16 that divides every row's length: what loads may count on."""
    return math.gcd(16, *sizes)


class Plan:
    """One product: its tiles, its split and the buffer for the parts."""

    def __init__(
        self,
        product: str,
        shape: tuple[int, int, int],
        x: Tensor,
        log: Tensor,
        precision: Precision,
        align: int,
    ) -> None:
        g2_bytes = 2 if precision.variance == "bf16" else 4
        sizes = (x.element_size(), log.element_size(), g2_bytes)
        device = device_of(x)
        tile, self.split = choose(product, arithmetic_of(*precision), shape, sizes, device)
        rows, columns, _ = shape
        self.grid = (triton.cdiv(rows, tile.m) * triton.cdiv(columns, tile.n), self.split)
        self.finish_grid = (triton.cdiv(rows, FINISH[0]) * triton.cdiv(columns, FINISH[1]),)
        # tiles of epilogues down and across; a product's takes its tile in two halves
        if self.split > 1:
            self.ends = (triton.cdiv(rows, FINISH[0]), triton.cdiv(columns, FINISH[1]))
        else:
            self.ends = (triton.cdiv(rows, tile.m), 2 * triton.cdiv(columns, tile.n))
        self.partial = x.new_empty(
            (self.split, 2, rows, columns) if self.split > 1 else 1, dtype=torch.float32
        )
        self.options = launch_options(product, tile, self.split, precision, align, device.capability)


def launch_options(
    product: str, tile: Tile, split: int, precision: Precision, align: int, capability: tuple[int, int]
) -> dict[str, Any]:
    """Compile-time arguments of a product."""
    options = {
        "MEAN": precision.mean, "VARIANCE": precision.variance, "ALIGN": align, "SPLIT": split,
        "BLOCK_M": tile.m, "BLOCK_N": tile.n, "BLOCK_K": tile.k, "GROUP": tile.group,
        "num_warps": tile.warps, "num_stages": tile.stages,
    }  # fmt: skip
    if product != "weight_gradient":  # tensor cores of sm_90 and sm_100 read the weights from shared memory
        options["ONCE"] = capability[0] in (8, 12)
    return options


FINISH_OPTIONS = {"BLOCK_M": FINISH[0], "BLOCK_N": FINISH[1], "num_warps": 4}


def linear_lrt(
    x: Tensor, mu: Tensor, log_sigma2: Tensor | None, log_alpha: Tensor | None, bias: Tensor | None,
    seed: Tensor, prior: str, eps: float, clip: float = math.inf,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """(y [*, O] of x's dtype, std [*, O] float32, KL scalar float32)."""
    refuse_double("linear_lrt", x, mu, log_sigma2, log_alpha, bias)
    w = Weights.of(mu, log_sigma2, log_alpha, clip)
    out, inp = mu.shape
    rows = x.shape[:-1].numel()
    y = x.new_empty((*x.shape[:-1], out))
    std = torch.empty_like(y, dtype=torch.float32)
    kl = std.new_zeros(())
    if prior != "none":
        kl = kl_triton.kl(mu if log_alpha is None else None, log_sigma2, log_alpha, prior)
    if y.numel() == 0:
        return y, std, kl
    dtype = torch.promote_types(x.dtype, mu.dtype)
    xc, m = x.reshape(rows, inp).to(dtype).contiguous(), w.mu.to(dtype)
    plan = Plan("forward", (rows, out, inp), xc, w.log, resolve(dtype), _alignment(inp))
    ends = (w.log, std if bias is None else bias.contiguous(), seed, y, std)
    epilogue = {"FORM": w.form, "BIAS": bias is not None}
    with launch_on(x):
        kernels.forward_kernel[plan.grid](
            xc, m, *ends, plan.partial, rows, out, inp, *w.strides, eps, w.exp_clip,
            CLIP=w.clip, **epilogue, **plan.options,
        )  # fmt: skip
        if plan.split > 1:
            kernels.finish_forward_kernel[plan.finish_grid](
                plan.partial,
                *ends,
                rows,
                out,
                w.strides[0],
                eps,
                SPLIT=plan.split,
                **epilogue,
                **FINISH_OPTIONS,
            )
    return y, std, kl


def _output_gradients(
    dy: Tensor, std: Tensor, seed: Tensor, dtype: torch.dtype, noise: bool, bias: bool
) -> tuple[Tensor, Tensor]:
    """(g2 = dy e / std [B, O] of `dtype`, dbias [O]), each only if asked for."""
    rows, out = dy.shape
    g2 = dy.new_empty((rows, out) if noise else 0, dtype=dtype)
    tiles = (triton.cdiv(rows, OUTPUT_GRADIENT[0]), triton.cdiv(out, OUTPUT_GRADIENT[1]))
    part = std.new_empty((tiles[0], out) if bias else 0)
    if dy.numel() and (noise or bias):
        kernels.output_gradient_kernel[(tiles[0] * tiles[1],)](
            dy, std, seed, g2, part, rows, out, NOISE=noise, BIAS=bias,
            BLOCK_M=OUTPUT_GRADIENT[0], BLOCK_N=OUTPUT_GRADIENT[1], num_warps=4,
        )  # fmt: skip
    return g2, part.sum(0) if bias else part


def _input_gradient(
    dx: Tensor, dy: Tensor, g2: Tensor, x: Tensor, m: Tensor, w: Weights, precision: Precision
) -> None:
    rows, inp = x.shape
    out = dy.shape[1]
    plan = Plan("input_gradient", (rows, inp, out), x, w.log, precision, _alignment(inp, out))
    kernels.input_gradient_kernel[plan.grid](
        dy, g2, x, m, w.log, dx, plan.partial, rows, inp, out, *w.strides, w.exp_clip,
        FORM=w.form, CLIP=w.clip, **plan.options,
    )  # fmt: skip
    if plan.split > 1:
        kernels.finish_input_kernel[plan.finish_grid](
            plan.partial, w.log, x, dx, rows, inp, w.strides[1],
            FORM=w.form, SPLIT=plan.split, **FINISH_OPTIONS,
        )  # fmt: skip


def _weight_gradient(
    dmu: Tensor, dlog: Tensor, dy: Tensor, g2: Tensor, x: Tensor, m: Tensor, w: Weights,
    grad_kl: Tensor | None, prior: str, precision: Precision,
) -> None:  # fmt: skip
    rows, inp = x.shape
    out = dy.shape[1]
    plan = Plan("weight_gradient", (out, inp, rows), x, w.log, precision, _alignment(inp, out))
    by_output = w.form == kernels.ALPHA_OF_OUTPUT.value
    shared = by_output or w.form == kernels.ALPHA_OF_INPUT.value
    d = dlog
    if shared:
        parts = (plan.ends[1], out) if by_output else (plan.ends[0], inp)
        d = dlog.new_empty(parts, dtype=torch.float32)
    inside = "none" if shared else prior
    tensors = (m, w.log, x if grad_kl is None else grad_kl, dmu, d)
    epilogue = {"FORM": w.form, "CLIP": w.clip, "PRIOR": prior_constant(inside)}
    kernels.weight_gradient_kernel[plan.grid](
        dy, g2, x, *tensors, plan.partial, out, inp, rows, *w.strides, w.exp_clip, **epilogue, **plan.options
    )
    if plan.split > 1:
        kernels.finish_weight_kernel[plan.finish_grid](
            plan.partial, *tensors, out, inp, *w.strides, w.exp_clip,
            SPLIT=plan.split, **epilogue, **FINISH_OPTIONS,
        )  # fmt: skip
    if shared:
        total = d.sum(0)
        total = total[:, None] if by_output else total[None, :]
        total = total.sum_to_size(dlog.shape)
        if prior != "none" and grad_kl is not None:
            total = total + kl_triton.kl_grad(grad_kl, None, None, w.log.float(), prior)[2]
        dlog.copy_(total)


def linear_lrt_backward(
    grad_y: Tensor, grad_kl: Tensor | None, x: Tensor, mu: Tensor, log_sigma2: Tensor | None,
    log_alpha: Tensor | None, std: Tensor, seed: Tensor, prior: str, clip: float,
    needs_x: bool, needs_weight: bool, needs_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x, mu, the noise parameter and bias; those not needed are empty."""
    refuse_double("linear_lrt", x, mu, log_sigma2, log_alpha, std)
    w = Weights.of(mu, log_sigma2, log_alpha, clip)
    out, inp = mu.shape
    rows = x.shape[:-1].numel()
    dx = x.new_empty(x.shape if needs_x else 0)
    dmu = mu.new_empty(mu.shape if needs_weight else 0)
    dlog = w.log.new_empty(w.log.shape if needs_weight else 0)
    dtype = torch.promote_types(x.dtype, mu.dtype)
    precision = resolve(dtype)
    dy = grad_y.reshape(rows, out).to(dtype).contiguous()
    xc, m = x.reshape(rows, inp).to(dtype).contiguous(), w.mu.to(dtype)
    g2_dtype = torch.bfloat16 if precision.variance == "bf16" else torch.float32
    with launch_on(x):
        g2, dbias = _output_gradients(
            dy, std.reshape(rows, out).contiguous(), seed, g2_dtype, needs_x or needs_weight, needs_bias
        )
        if dx.numel():
            _input_gradient(dx, dy, g2, xc, m, w, precision)
        if dmu.numel():
            _weight_gradient(
                dmu, dlog, dy, g2, xc, m, w, grad_kl, prior if grad_kl is not None else "none", precision
            )
        elif needs_weight:
            dlog.zero_()
    return dx, dmu, dlog, dbias
