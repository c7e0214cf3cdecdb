"""`mul_noise_learned` in Triton: x, and dy, read once, the result written once, sums in two fixed stages.

x is [outer, channels, span] in memory, span being whole rows of the noise. A parameter belongs to a channel,
or, where there is one channel, to an element of its span: one rule for noise per layer, unit, channel or
element. The noise of a row that is no multiple of 4 long is padded to one, so programs take tiles of
padded spans.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._launch import launch_on, refuse_double
from .._triton import exp, normals_of_groups
from .._triton_sums import sum_parts
from .reference import layout_of, rows_and_cols

GROUPS = 512  # groups of four a tile
GROUPS_ACROSS = 64  # of them side by side, where every element of a span has sums of its own
STEPS = 4  # tiles a program, one below the other, summed lane by lane


@triton.jit
def _places(first, width, cols, span, padded_span, PADDED: tl.constexpr, COLS: tl.constexpr):
    """(offsets, mask) within a span of `COLS` places of the padded one, from `first` on."""
    lane = tl.arange(0, COLS)
    if PADDED == 0:
        return first + lane, first + lane < span
    # unsigned words, of 32 bits where a row's places fit into them: 64-bit divisions are slow
    if PADDED == 32:
        place = (first % width).to(tl.uint32) + lane.to(tl.uint32)
        row = (place // width.to(tl.uint32)).to(tl.int64)
    else:
        row = (first % width + lane) // width
    col = first % width + lane - row * width
    return (first // width + row) * cols + col, (first + lane < padded_span) & (col < cols)


@triton.jit
def learned_kernel(
    x, dy, log_alpha, bias, seed, out, dlog, dbias,
    outer, channels, span, cols, width, padded_span, blocks, steps,
    GRAD: tl.constexpr, BIAS: tl.constexpr, ONE_ALPHA: tl.constexpr, EACH: tl.constexpr,
    PADDED: tl.constexpr, ROWS: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """EACH: every element of a span has parameters of its own. ONE_ALPHA: log_alpha is one value.

    PADDED: 0, or the width of the words that a row's places are counted in.
    """
    program = tl.program_id(0)
    block = program % blocks
    channel = program // blocks % channels
    part = program // blocks // channels
    first = block.to(tl.int64) * (4 * GROUPS)
    offset, inside = _places(first, width, cols, span, padded_span, PADDED, 4 * GROUPS)
    group = first // 4 + tl.arange(0, GROUPS)
    one = tl.zeros((1,), tl.int64)
    if EACH:
        own = offset
        owned = inside
    else:
        own = one + channel
        owned = one == 0
    if ONE_ALPHA:
        log = tl.load(log_alpha + one)
    else:
        log = tl.load(log_alpha + own, owned, 0.0)
    std = exp(log.to(tl.float32) * 0.5, True)
    if BIAS:
        shift = tl.load(bias + own, owned, 0.0).to(tl.float32)
    by_std = tl.zeros((ROWS, 4 * GROUPS), tl.float32)
    by_bias = tl.zeros((ROWS, 4 * GROUPS), tl.float32)
    for step in range(steps):
        o = (part * steps + step).to(tl.int64) * ROWS + tl.arange(0, ROWS)
        line = o * channels + channel
        e = normals_of_groups(seed, line[:, None] * (padded_span // 4) + group[None, :])
        at = line[:, None] * span + offset[None, :]
        valid = (o < outer)[:, None] & inside[None, :]
        z = tl.load(x + at, valid, 0.0).to(tl.float32)
        if BIAS:
            z += shift[None, :]
        xi = 1.0 + std[None, :] * e
        if GRAD:
            g = tl.load(dy + at, valid, 0.0).to(tl.float32)
            tl.store(out + at, (g * xi).to(out.dtype.element_ty), valid)
            by_std += g * z * e
            if BIAS:
                by_bias += g * xi
        else:
            tl.store(out + at, (z * xi).to(out.dtype.element_ty), valid)
    if GRAD:
        if EACH:
            where = part.to(tl.int64) * span + offset
        else:
            where = (part * blocks + block).to(tl.int64) * channels + own
        if ONE_ALPHA:
            total = tl.sum(tl.sum(by_std, 1), 0) * std * 0.5
            tl.store(dlog + program + one, total.to(dlog.dtype.element_ty))
        elif EACH:
            tl.store(dlog + where, (tl.sum(by_std, 0) * std * 0.5).to(dlog.dtype.element_ty), owned)
        else:
            total = tl.sum(tl.sum(by_std, 1), 0) * std * 0.5
            tl.store(dlog + where, total.to(dlog.dtype.element_ty))
        if BIAS:
            if EACH:
                tl.store(dbias + where, tl.sum(by_bias, 0).to(dbias.dtype.element_ty), owned)
            else:
                total = tl.sum(tl.sum(by_bias, 1), 0) + tl.zeros((1,), tl.float32)
                tl.store(dbias + where, total.to(dbias.dtype.element_ty))


class Spans(NamedTuple):
    """x, contiguous, as [outer, channels, rows of the noise, cols]; `each`: see the kernel."""

    outer: int
    channels: int
    rows: int
    cols: int
    each: bool

    @classmethod
    def of(cls, x: Tensor, parameter: Tensor) -> Spans:
        """`parameter` broadcasts to x, and those of its dimensions that x has follow one another in x."""
        _, cols = rows_and_cols(x)
        padded = (1,) * (x.ndim - parameter.ndim) + tuple(parameter.shape)
        outer = channels = inner = 1
        for size, own in zip(x.shape, padded, strict=True):
            if size == 1:
                continue
            if own != 1:
                if inner != 1:
                    raise ValueError("mul_noise: log_alpha's dimensions must follow one another in x")
                channels *= size
            elif channels == 1:
                outer *= size
            else:
                inner *= size
        if channels == 1:  # one value for all: one span
            outer, inner = 1, outer
        each = inner == 1 and channels > 1
        rows = channels // cols if each else inner // cols
        if cols % 4 == 0:  # nothing is padded: the noise runs on from row to row
            rows, cols = 1, rows * cols
        return cls(outer, 1 if each else channels, rows, cols, each)

    def launch(self) -> tuple[tuple[int, ...], dict[str, Any], int, int]:
        """(sizes, constants, blocks, parts) of the kernel."""
        width = (self.cols + 3) // 4 * 4
        padded_span = self.rows * width
        across = min(GROUPS_ACROSS if self.each else GROUPS, triton.next_power_of_2(padded_span // 4))
        tall = min(GROUPS // across, triton.next_power_of_2(self.outer))
        blocks, tiles = triton.cdiv(padded_span, 4 * across), triton.cdiv(self.outer, tall)
        steps = min(STEPS, tiles)
        span = self.rows * self.cols
        padded = 0 if span == padded_span else 32 if width < 2**31 else 64
        sizes = (self.outer, self.channels, span, self.cols, width, padded_span, blocks, steps)
        constants = {"EACH": self.each, "PADDED": padded, "ROWS": tall, "GROUPS": across, "num_warps": 4}
        return sizes, constants, blocks, triton.cdiv(tiles, steps)


def _partial(like: Tensor, parts: int, n: int) -> Tensor:
    """Where programs write `parts` sums for each of n elements: the result itself if there is one."""
    return like if parts == 1 else torch.empty((parts, n), dtype=torch.float32, device=like.device)


def _run(
    dy: Tensor | None, x: Tensor, log_alpha: Tensor, bias: Tensor | None, seed: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(y, empty, empty), or with dy the gradients."""
    refuse_double("mul_noise", x, log_alpha, bias)
    grad, one_alpha = dy is not None, log_alpha.numel() == 1
    x_c, log_c, bias_c = x.contiguous(), log_alpha.contiguous(), None if bias is None else bias.contiguous()
    dy_c = x_c if dy is None else dy.contiguous()
    out = torch.empty_like(x_c)
    dlog = torch.empty_like(log_c) if grad else log_c.new_empty(0)
    dbias = torch.empty_like(bias_c) if grad and bias_c is not None else log_c.new_empty(0)
    if out.numel() == 0:
        return out.contiguous(memory_format=layout_of(x)), dlog.zero_(), dbias.zero_()
    spans = Spans.of(x, log_c if bias_c is None or not one_alpha else bias_c)
    sizes, constants, blocks, parts = spans.launch()
    programs = blocks * spans.channels * parts
    owned = parts if spans.each else blocks * parts
    n = spans.rows * spans.cols if spans.each else spans.channels
    dlog_parts = _partial(dlog, *((programs, 1) if one_alpha else (owned, n))) if grad else dlog
    dbias_parts = _partial(dbias, owned, n) if dbias.numel() else dbias
    with launch_on(x):
        learned_kernel[(programs,)](
            x_c, dy_c, log_c, log_c if bias_c is None else bias_c, seed, out, dlog_parts, dbias_parts, *sizes,
            GRAD=grad, BIAS=bias is not None, ONE_ALPHA=one_alpha, **constants,
        )  # fmt: skip
        for found, partial in ((dlog, dlog_parts), (dbias, dbias_parts)):
            if partial is not found:
                sum_parts(partial, found)
    return out.contiguous(memory_format=layout_of(x)), dlog, dbias


def mul_noise_learned(x: Tensor, log_alpha: Tensor, bias: Tensor | None, seed: Tensor) -> Tensor:
    """(x + bias) (1 + sqrt(alpha) e), of x's shape, dtype and format."""
    return _run(None, x, log_alpha, bias, seed)[0]


def mul_noise_learned_backward(
    grad_y: Tensor, x: Tensor, log_alpha: Tensor, bias: Tensor | None, seed: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(dx, dlog_alpha, dbias), the last empty without a bias; the noise drawn again."""
    return _run(grad_y, x, log_alpha, bias, seed)
