"""`gate` in Triton: the gates are drawn into a small matrix, x is read once and the result written once.

A truncated log-normal's quantile cancels in float32: its words are drawn here, its formula is the reference's
in float64, over one element a gate.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._launch import launch_on, refuse_double
from .._triton import NAN_STAYS, exp, log_odds, normals_of_groups, weave, words_of_groups
from ..philox_normal.triton import NoiseGrid, noise_tile, philox_bits
from .reference import like, log_normal_gates, view

TILE = 2048  # elements of x a step
SPAN = 1024  # of them in one channel, at most


@triton.jit
def _sigmoids(x):
    """1 / (1 + e^-x) and 1 / (1 + e^x), each exact where it is small."""
    e = exp(-tl.abs(x), True)
    large = 1.0 / (1.0 + e)
    small = e * large
    return tl.where(x > 0, large, small), tl.where(x > 0, small, large)


@triton.jit
def channels_of(tile, groups, GROUPS: tl.constexpr):
    """The channels, int64, of a tile's 4 GROUPS lanes; there may be more than 2^31."""
    return (tile % tl.cdiv(groups, GROUPS)).to(tl.int64) * (4 * GROUPS) + tl.arange(0, 4 * GROUPS)


@triton.jit
def shared_gates(first, channels, WIDE: tl.constexpr, LINES: tl.constexpr):
    """The gates, int64, of LINES lines from `first` on, which is int64, where all samples share them.

    WIDE: channels may be 2^31 or more.
    """
    lane, place = tl.arange(0, LINES), first % channels
    if WIDE:
        gate = (place + lane) % channels
    else:  # in words of 32 bits, whose division is fast
        gate = ((place.to(tl.uint32) + lane.to(tl.uint32)) % tl.cast(channels, tl.uint32)).to(tl.int64)
    return gate


@triton.jit
def draw_kernel(
    location, log_sigma2, seed, theta, by_location, by_log_sigma2, rows, cols, groups, temperature, low, high,
    KIND: tl.constexpr, GRAD: tl.constexpr, ROWS: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """Gates [rows, cols], cols being channels, and their derivatives by the kind's parameters."""
    counter, at, inside = noise_tile(rows, cols, groups, ROWS, GROUPS)
    col = channels_of(tl.program_id(0), groups, GROUPS)
    a = tl.load(location + col, col < cols, 0.0).to(tl.float32)[None, :]
    if KIND == "normal":
        b = tl.load(log_sigma2 + col, col < cols, 0.0).to(tl.float32)[None, :]
        noise = exp(b * 0.5, True) * normals_of_groups(seed, counter)
        tl.store(theta + at, a + noise, inside)
        if GRAD:
            tl.store(by_log_sigma2 + at, noise * 0.5, inside)
    else:
        w0, w1, w2, w3 = words_of_groups(seed, counter)
        s, rest = _sigmoids((log_odds(weave(w0, w1, w2, w3)) + a) / temperature)
        if KIND == "hard-concrete":
            stretched = s * (high - low) + low
            drawn = tl.minimum(
                tl.maximum(stretched, 0.0, propagate_nan=NAN_STAYS), 1.0, propagate_nan=NAN_STAYS
            )
            slope = s * rest * ((high - low) / temperature)
            slope = tl.where((stretched <= 0.0) | (stretched >= 1.0), 0.0, slope)
        else:
            p, _ = _sigmoids(a)
            drawn = rest * (1.0 + exp(a, True))
            slope = drawn * (p - s / temperature)
        tl.store(theta + at, drawn, inside)
        if GRAD:
            tl.store(by_location + at, slope, inside)


@triton.jit
def scale_kernel(
    given, x, theta, out, by_theta, lines, channels, spatial,
    SHARED: tl.constexpr, OUT: tl.constexpr, SUMS: tl.constexpr, WIDE: tl.constexpr, LINES: tl.constexpr,
    SPAN: tl.constexpr,
):  # fmt: skip
    """given [lines, spatial] times a gate a line, which lines of one channel share where SHARED.

    OUT: store that. SUMS: the sum of given x over each line.
    """
    first = tl.program_id(0).to(tl.int64) * LINES
    line = first + tl.arange(0, LINES)
    if OUT:
        gate = shared_gates(first, channels, WIDE, LINES) if SHARED else line
        scale = tl.load(theta + gate, line < lines, 0.0)
    total = tl.zeros((LINES, SPAN), tl.float32)
    for start in range(0, spatial, SPAN):
        i = start + tl.arange(0, SPAN).to(tl.int64)
        at = line[:, None] * spatial + i[None, :]
        inside = (line < lines)[:, None] & (i < spatial)[None, :]
        g = tl.load(given + at, inside, 0.0).to(tl.float32)
        if OUT:
            tl.store(out + at, (g * scale[:, None]).to(out.dtype.element_ty), inside)
        if SUMS:
            total += g * tl.load(x + at, inside, 0.0).to(tl.float32)
    if SUMS:
        tl.store(by_theta + line, tl.sum(total, 1), line < lines)


class _Drawn(NamedTuple):
    """float32 [rows, C], rows 1 where all samples share the gates; derivatives that are 1 are None."""

    theta: Tensor
    by_location: Tensor | None
    by_log_sigma2: Tensor | None


def _draw(
    rows: int, location: Tensor, log_sigma2: Tensor | None, seed: Tensor, kind: str,
    numbers: tuple[float, float, float], grad: bool,
) -> _Drawn:  # fmt: skip
    cols = location.numel()
    if kind == "switch":
        return _Drawn(location.float().reshape(1, cols), None, None)
    if kind == "log-normal":
        assert log_sigma2 is not None
        bits = philox_bits(seed, rows, cols)
        found = log_normal_gates(bits, location.double(), log_sigma2.double(), *numbers[1:])
        return _Drawn(*(t.float() for t in found))
    theta, by_location, by_log_sigma2 = torch.empty((3, rows, cols), device=location.device).unbind()
    location = location.contiguous()
    log_c = location if log_sigma2 is None else log_sigma2.contiguous()
    if theta.numel():
        grid = NoiseGrid.of(rows, cols, by_rows=True)
        draw_kernel[(grid.programs,)](
            location, log_c, seed, theta, by_location, by_log_sigma2, *grid.sizes, *numbers,
            KIND=kind, GRAD=grad, **grid.tile,
        )  # fmt: skip
    return _Drawn(theta, *((None, by_log_sigma2) if kind == "normal" else (by_location, None)))


def _scale(
    given: Tensor, x: Tensor, theta: Tensor, channel_dim: int, out: bool, sums: bool
) -> tuple[Tensor, Tensor]:
    """(given theta in x's shape, dtype, format; sums of given x [rows, C]), empty if not asked for."""
    given_v, x_v = view(given.contiguous(), channel_dim), view(x.contiguous(), channel_dim)
    rows, channels, spatial = x_v.shape
    y = torch.empty_like(x_v) if out else x.new_empty(0)
    by_theta = torch.zeros((rows, channels) if sums else 0, dtype=torch.float32, device=x.device)
    if x.numel():
        span = min(SPAN, triton.next_power_of_2(spatial))
        tall = min(TILE // span, triton.next_power_of_2(rows * channels))
        scale_kernel[(triton.cdiv(rows * channels, tall),)](
            given_v, x_v, theta, y, by_theta, rows * channels, channels, spatial,
            SHARED=theta.shape[0] != rows, OUT=out, SUMS=sums, WIDE=channels >= 2**31, LINES=tall, SPAN=span,
            num_warps=4,
        )  # fmt: skip
    if not out:
        return y, by_theta
    y, formatted = y.reshape(x.shape), like(x, channel_dim)
    return (y if formatted.stride() == y.stride() else formatted.copy_(y)), by_theta


def gate(
    x: Tensor, location: Tensor, log_sigma2: Tensor | None, seed: Tensor, kind: str, channel_dim: int,
    per_sample: bool, temperature: float, low: float, high: float,
) -> Tensor:  # fmt: skip
    """x theta, in x's shape, dtype and format."""
    refuse_double("gate", x, location, log_sigma2)
    rows = view(x, channel_dim).shape[0] if per_sample else 1
    with launch_on(x):
        drawn = _draw(rows, location, log_sigma2, seed, kind, (temperature, low, high), grad=False)
        return _scale(x, x, drawn.theta, channel_dim, out=True, sums=False)[0]


def gate_backward(
    grad: Tensor, x: Tensor, location: Tensor, log_sigma2: Tensor | None, seed: Tensor, kind: str,
    channel_dim: int, per_sample: bool, temperature: float, low: float, high: float,
    needs_x: bool, needs_parameters: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """(dx, dlocation, dlog_sigma2), the gates drawn again; what is not needed is empty."""
    refuse_double("gate", x, location, log_sigma2)
    rows = view(x, channel_dim).shape[0] if per_sample else 1
    with launch_on(x):
        drawn = _draw(rows, location, log_sigma2, seed, kind, (temperature, low, high), grad=True)
        dx, by_theta = _scale(grad, x, drawn.theta, channel_dim, needs_x, needs_parameters)
    d_location, d_log = location.new_empty(0), location.new_empty(0)
    if needs_parameters:
        if drawn.theta.shape[0] != by_theta.shape[0]:
            by_theta = by_theta.sum(0, keepdim=True)
        by_location = by_theta if drawn.by_location is None else by_theta * drawn.by_location
        d_location = by_location.sum(0).to(location.dtype)
        if log_sigma2 is not None:
            assert drawn.by_log_sigma2 is not None
            d_log = (by_theta * drawn.by_log_sigma2).sum(0).to(log_sigma2.dtype)
    return dx, d_location, d_log
