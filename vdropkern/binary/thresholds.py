"""Batch norm and sign folded into a comparison, exact to the last bit.

x -> sign(x a + b), each operation rounded, rises or falls with x, so there is one float at which it changes:
it is found by bisection over the floats themselves, with the arithmetic that the layer uses.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def _float_of(order: Tensor) -> Tensor:
    """The float32 at each place of their order, -0 and +0 being one."""
    magnitude = order.abs().to(torch.int32).view(torch.float32)
    return torch.where(order < 0, -magnitude, magnitude)


_INFINITY = 0x7F800000  # its place; that of -inf is the negative


def _first(holds: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """The smallest integer of [low, high) for which `holds`, which once true stays so; else high."""
    while bool((low < high).any()):
        middle = torch.div(low + high, 2, rounding_mode="floor")
        yes = holds(middle)
        high = torch.where(yes & (low < high), middle, high)
        low = torch.where(~yes & (low < high), middle + 1, low)
    return high


def float_threshold(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """(t, flip) [C] with: x a + b is negative where (x < t) ^ flip, in float32, each operation rounded."""
    falls = a < 0

    def holds(order: Tensor) -> Tensor:
        y = _float_of(order) * a
        y = torch.where(a == 0, b, y + b)  # 0 times infinity is none
        return torch.where(falls, y < 0, y >= 0)

    edge = torch.full(a.shape, _INFINITY, dtype=torch.int64)
    place = _first(holds, -edge, edge + 1)
    never = place > _INFINITY  # nothing is below NaN: (x < NaN) ^ flip is flip
    t = torch.where(never, torch.nan, _float_of(place.clamp(max=_INFINITY)))
    # where the edge is never reached: rising, always negative; falling, never
    return t, torch.where(never, ~falls, falls)


def integer_threshold(
    t: Tensor, flip: Tensor, alpha: Tensor, bias: Tensor | None, most: int
) -> tuple[Tensor, Tensor]:
    """(T int32, flip) [O] with (z < T) ^ flip = (alpha z + bias < t) ^ flip for integers |z| <= most.

    alpha >= 0, so the left side changes once.
    """

    def holds(z: Tensor) -> Tensor:
        y = z.float() * alpha
        return ~((y if bias is None else y + bias) < t)

    edge = torch.full(alpha.shape, most, dtype=torch.int64)
    return _first(holds, -edge, edge + 1).to(torch.int32), flip
