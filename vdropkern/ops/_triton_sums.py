"""The second stage of the Triton kernels' sums: what their programs wrote, added in a fixed order."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

TILE = 1024  # partial sums a step
COLS = 64  # sums a program, where there are as many


@triton.jit
def sum_kernel(partial, out, parts, n, PARTS: tl.constexpr, COLS: tl.constexpr):
    """partial [parts, n] -> out [n]: lanes first, then a tree."""
    i = tl.program_id(0).to(tl.int64) * COLS + tl.arange(0, COLS)
    total = tl.zeros((PARTS, COLS), tl.float32)
    for start in range(0, parts, PARTS):
        part = start + tl.arange(0, PARTS).to(tl.int64)
        inside = (part < parts)[:, None] & (i < n)[None, :]
        total += tl.load(partial + part[:, None] * n + i[None, :], inside, 0.0)
    tl.store(out + i, tl.sum(total, 0).to(out.dtype.element_ty), i < n)


def sum_parts(partial: Tensor, out: Tensor) -> None:
    """Write the sum of float32 `partial` [parts, n] over its parts to `out`, of n elements, rounded once."""
    parts, n = partial.shape
    cols = min(COLS, triton.next_power_of_2(n))
    sum_kernel[(triton.cdiv(n, cols),)](partial, out, parts, n, PARTS=TILE // cols, COLS=cols, num_warps=4)
