"""`philox_normal` and `philox_bits` in Triton: one Philox call for four elements, each written once."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._launch import launch_on, refuse_double
from .._triton import normals_of_groups, weave, words_of_groups

GROUPS = 512  # groups of four a program


@triton.jit
def noise_tile(rows, cols, groups, ROWS: tl.constexpr, GROUPS: tl.constexpr):
    """`tile_of` this program."""
    return tile_of(tl.program_id(0), rows, cols, groups, ROWS, GROUPS)


@triton.jit
def tile_of(tile, rows, cols, groups, ROWS: tl.constexpr, GROUPS: tl.constexpr):
    """(counters, offsets, mask) of a tile of ROWS x 4 GROUPS elements of [rows, cols].

    A row's last group may reach beyond its end. A row may have more than 2^31 elements: lanes, in 32 bits,
    count from the tile's first.
    """
    across = tl.cdiv(groups, GROUPS)
    row = (tile // across).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    first = (tile % across).to(tl.int64) * GROUPS
    lane = tl.arange(0, 4 * GROUPS)
    left = tl.minimum(cols - 4 * first, 4 * GROUPS).to(tl.int32)
    counter = (row * groups + first)[:, None] + tl.arange(0, GROUPS)[None, :]
    at = (row * cols + 4 * first)[:, None] + lane[None, :]
    return counter, at, (row[:, None] < rows) & (lane[None, :] < left)


@triton.jit
def noise_kernel(seed, out, rows, cols, groups, BITS: tl.constexpr, ROWS: tl.constexpr, GROUPS: tl.constexpr):
    counter, at, inside = noise_tile(rows, cols, groups, ROWS, GROUPS)
    if BITS:
        w0, w1, w2, w3 = words_of_groups(seed, counter)
        z = weave(w0, w1, w2, w3).to(tl.int64)
    else:
        z = normals_of_groups(seed, counter)
    tl.store(out + at, z.to(out.dtype.element_ty), inside)


class NoiseGrid(NamedTuple):
    """How programs share the noise of a [rows, cols] tensor."""

    sizes: tuple[int, int, int]  # rows, cols, groups
    tile: dict[str, int]
    programs: int

    @classmethod
    def of(cls, rows: int, cols: int, by_rows: bool = False) -> NoiseGrid:
        """`by_rows`: tiles do not reach from a row into the next, as where columns have parameters."""
        if cols % 4 == 0 and not by_rows:  # no padding: groups run on from row to row
            rows, cols = 1, rows * cols
        groups = (cols + 3) // 4
        wide = min(GROUPS, max(4, triton.next_power_of_2(groups)))
        tall = GROUPS // wide
        programs = triton.cdiv(rows, tall) * triton.cdiv(groups, wide)
        return cls((rows, cols, groups), {"ROWS": tall, "GROUPS": wide, "num_warps": 4}, programs)


def _fill(out: Tensor, seed: Tensor, bits: bool) -> Tensor:
    if out.numel():
        grid = NoiseGrid.of(*out.shape)
        with launch_on(out):
            noise_kernel[(grid.programs,)](seed, out, *grid.sizes, BITS=bits, **grid.tile)
    return out


def philox_bits(seed: Tensor, rows: int, cols: int) -> Tensor:
    """int64 [rows, cols], each in [0, 2^32)."""
    return _fill(torch.empty((rows, cols), dtype=torch.int64, device=seed.device), seed, True)


def philox_normal(seed: Tensor, rows: int, cols: int, dtype: torch.dtype) -> Tensor:
    """`dtype` [rows, cols]."""
    out = torch.empty((rows, cols), dtype=dtype, device=seed.device)
    refuse_double("philox_normal", out)
    return _fill(out, seed, False)
