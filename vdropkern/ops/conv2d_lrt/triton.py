"""`conv2d_lrt` and its backward in Triton: what is allocated, which tiles, which launches.

Forward: one product; the KL's value is a pass of its own. Backward: dy e / std once, elementwise, then a
product for x and one for the weights, whose depth, all pixels of all images, is cut into parts that are added
in a fixed order.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from ..._precision import resolve
from .._bands import band_of
from .._launch import device_of, launch_on, refuse_double
from ..kl import triton as kl_triton
from ..kl.triton_terms import prior_constant
from ..linear_lrt import triton_kernels as linear
from . import triton_kernels as kernels
from .reference import memory_format_of, weight_format_of
from .tiles import COLUMNS, grid, rows_of

WARPS, STAGES = 8, 3  # of a tile
MAX_PARTS = 64
FINISH = (32, 64)


class _Problem(NamedTuple):
    """Sizes of one call; channels and out_channels are those of a group."""

    images: int
    channels: int
    height: int
    width: int
    out_channels: int
    out_height: int
    out_width: int
    groups: int
    kernel_width: int
    kernel_size: int
    steps: tuple[int, ...]  # stride, padding, dilation, each down and across

    @classmethod
    def of(cls, x: Tensor, mu: Tensor, y: tuple[int, ...], geometry: tuple[int, ...]) -> _Problem:
        groups = geometry[6]
        sizes = (x.shape[0], mu.shape[1], x.shape[2], x.shape[3], mu.shape[0] // groups, y[2], y[3])
        if max(x.shape[0] * y[2] * y[3], x.shape[2] * x.shape[3]) > 2**31 - 1:
            raise ValueError("conv2d_lrt: more than 2^31 - 1 pixels; split the batch")
        return cls(*sizes, groups, mu.shape[3], mu.shape[2] * mu.shape[3], geometry[:6])

    @property
    def pixels(self) -> int:
        return self.out_height * self.out_width

    def launch(self, product: str, x: Tensor, g2: int = 0) -> tuple[int, int]:
        """(tiles of a group, rows of them in a band); `g2`: bytes of an element of the noise's gradient."""
        sizes = ((self.channels, self.out_channels), (self.height * self.width, self.pixels))
        down, across, *operands = grid(product, self.images, *sizes, self.kernel_size, x.element_size(), g2)
        return down * across, band_of(down, across, device_of(x).processors, *operands)


class _Weights(NamedTuple):
    mu: Tensor  # [O, C / groups, kh, kw], dense
    log: Tensor  # the same shape
    options: dict[str, Any]
    exp_clip: float

    @classmethod
    def of(
        cls, mu: Tensor, log_sigma2: Tensor | None, log_alpha: Tensor | None, dtype: torch.dtype, clip: float
    ) -> _Weights:
        log = log_sigma2 if log_sigma2 is not None else log_alpha
        assert log is not None
        form = linear.SIGMA2 if log_sigma2 is not None else linear.ALPHA
        options = {"FORM": form.value, "CLIP": clip < math.inf}
        dense = log.expand(mu.shape).contiguous()
        return cls(mu.to(dtype).contiguous(), dense, options, math.exp(min(clip, 88.0)))


def _strides(t: Tensor, by_pixel: bool) -> tuple[int, ...]:
    """(image, channel, pixel) or (image, channel, row, column) of a dense tensor of either format."""
    n, c, h, w = t.stride()
    return (n, c, w) if by_pixel else (n, c, h, w)


def launch_options(rows: int, dtype: torch.dtype, kernel: tuple[int, int], major: int) -> dict[str, Any]:
    """Compile-time arguments of the products with weights; `kernel`: its width and size.

    Few rows, as of a depthwise convolution, get a flat tile.
    """
    mean, variance = resolve(dtype)
    depth = 32 if dtype.itemsize == 2 else 16
    return {
        "MEAN": mean, "VARIANCE": variance, "KW": kernel[0], "KK": kernel[1], "BLOCK_M": rows_of(rows),
        "BLOCK_N": COLUMNS, "BLOCK_K": depth, "ONCE": major in (8, 12), "num_warps": WARPS,
        "num_stages": 2 if mean == "ieee" else STAGES,  # a third one makes it spill
    }  # fmt: skip


def _in_format(t: Tensor, layout: torch.memory_format, dtype: torch.dtype) -> Tensor:
    return t.to(dtype).contiguous(memory_format=layout)


def conv2d_lrt(
    x: Tensor, mu: Tensor, log_sigma2: Tensor | None, log_alpha: Tensor | None, bias: Tensor | None,
    seed: Tensor, *rest: Any,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """(y [N, O, Ho, Wo] of x's dtype, r of y's shape in float32, KL scalar float32)."""
    refuse_double("conv2d_lrt", x, mu, log_sigma2, log_alpha, bias)
    *geometry, prior, eps, clip = rest
    from . import _fake

    y, r, kl = _fake(x, mu, log_sigma2, log_alpha, bias, seed, *rest)
    kl.zero_()
    if prior != "none":
        kl = kl_triton.kl(mu if log_alpha is None else None, log_sigma2, log_alpha, prior)
    if y.numel() == 0:
        return y, r, kl
    p = _Problem.of(x, mu, tuple(y.shape), tuple(geometry))
    dtype = torch.promote_types(x.dtype, mu.dtype)
    w = _Weights.of(mu, log_sigma2, log_alpha, dtype, clip)
    image = _in_format(x, memory_format_of(x, mu), dtype)
    options = launch_options(
        p.out_channels, dtype, (p.kernel_width, p.kernel_size), device_of(x).capability[0]
    )
    tiles, band = p.launch("forward", image)
    with launch_on(x):
        kernels.conv_forward_kernel[(tiles, p.groups)](
            image, w.mu, w.log, r if bias is None else bias.contiguous(), seed, y, r, p.images, band,
            p.channels, p.height, p.width, p.out_channels, p.out_width, p.pixels, *_strides(image, False),
            *_strides(y, True), *p.steps, eps, w.exp_clip, BIAS=bias is not None, **w.options, **options,
        )  # fmt: skip
    return y, r, kl


def _input_gradient(dx: Tensor, dy: Tensor, g2: Tensor, x: Tensor, w: _Weights, p: _Problem) -> None:
    options = launch_options(
        p.channels, dy.dtype, (p.kernel_width, p.kernel_size), device_of(x).capability[0]
    )
    pixels = p.height * p.width
    tiles, band = p.launch("input_gradient", x, g2.element_size())
    kernels.conv_input_gradient_kernel[(tiles, p.groups)](
        dy, g2, x, w.mu, w.log, dx, p.images, band, p.channels, p.width, p.out_channels, p.out_height,
        p.out_width, pixels, *_strides(x, True), *_strides(dy, False), *p.steps, w.exp_clip, **w.options,
        **options,
    )  # fmt: skip


def _weight_gradient(
    dmu: Tensor, dlog: Tensor, dy: Tensor, g2: Tensor, x: Tensor, w: _Weights, p: _Problem,
    grad_kl: Tensor | None, prior: str,
) -> None:  # fmt: skip
    depth = p.channels * p.kernel_size
    options = launch_options(p.out_channels, dy.dtype, (p.kernel_width, p.kernel_size), 0)
    del options["ONCE"]
    tiles, band = p.launch("weight_gradient", x, g2.element_size())
    steps = triton.cdiv(p.images * p.pixels, options["BLOCK_K"])
    # to fill the processors twice, eight steps each at least
    parts = max(1, min(2 * device_of(x).processors // max(tiles * p.groups, 1), steps // 8, MAX_PARTS))
    parts = 1 << (parts.bit_length() - 1)
    outputs = p.groups * p.out_channels
    partial = dlog.new_empty((parts, 2, outputs, depth), dtype=torch.float32)
    kernels.conv_weight_gradient_kernel[(tiles, p.groups, parts)](
        dy, g2, x, partial, p.images, band, p.channels, p.height, p.width, p.out_channels, p.out_width,
        p.pixels, *_strides(x, False), *_strides(dy, True), *p.steps, SPLIT=parts, **options,
    )  # fmt: skip
    grid = (triton.cdiv(outputs, FINISH[0]) * triton.cdiv(depth, FINISH[1]),)
    linear.finish_weight_kernel[grid](
        partial, w.mu, w.log, dy if grad_kl is None else grad_kl, dmu, dlog, outputs, depth, depth, 1,
        w.exp_clip, PRIOR=prior_constant(prior),
        SPLIT=parts, BLOCK_M=FINISH[0], BLOCK_N=FINISH[1], num_warps=4, **w.options,
    )  # fmt: skip


def conv2d_lrt_backward(
    grad_y: Tensor, grad_kl: Tensor | None, x: Tensor, mu: Tensor, log_sigma2: Tensor | None,
    log_alpha: Tensor | None, r: Tensor, *rest: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x, mu, the noise parameter and bias; those not needed are empty."""
    refuse_double("conv2d_lrt", x, mu, log_sigma2, log_alpha, r)
    *geometry, prior, clip, needs_x, needs_weight, needs_bias = rest
    from . import _backward_fake

    dx, dmu, dlog, dbias = _backward_fake(grad_y, grad_kl, x, mu, log_sigma2, log_alpha, r, *rest)
    # row-major as the kernels write them, and at the end as the weights lie
    dmu, dlog = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (dmu, dlog))
    if needs_bias:
        dbias = grad_y.float().sum((0, 2, 3))
    if not needs_x and not needs_weight:
        return dx, dmu, dlog, dbias
    prior = prior if grad_kl is not None else "none"
    dtype = torch.promote_types(x.dtype, mu.dtype)
    narrow = resolve(dtype).variance == "bf16"
    p = _Problem.of(x, mu, tuple(r.shape), tuple(geometry))
    w = _Weights.of(mu, log_sigma2, log_alpha, dtype, clip)
    layout = memory_format_of(x, mu)
    image, dy = _in_format(x, layout, dtype), _in_format(grad_y, layout, dtype)
    g2 = _in_format(2 * r * dy, layout, torch.bfloat16 if narrow else torch.float32)  # dy e / std
    with launch_on(x):
        if dx.numel():
            _input_gradient(dx, dy, g2, image, w, p)
        if dmu.numel():
            shared = log_alpha is not None and log_alpha.shape != mu.shape
            full = torch.empty_like(w.log, dtype=torch.float32) if shared else dlog
            _weight_gradient(dmu, full, dy, g2, image, w, p, grad_kl, "none" if shared else prior)
            if shared:
                assert log_alpha is not None
                total = full.sum_to_size(log_alpha.shape)
                if prior != "none" and grad_kl is not None:
                    total = total + kl_triton.kl_grad(grad_kl, None, None, log_alpha.float(), prior)[2]
                dlog.copy_(total)
            noise = log_sigma2 if log_alpha is None else log_alpha
            assert noise is not None
            dmu = dmu.contiguous(memory_format=weight_format_of(mu))
            dlog = dlog.contiguous(memory_format=weight_format_of(noise))
    return dx, dmu, dlog, dbias
