"""One image in the lanes of vectors: its outputs stand in a grid of cells, one a lane.

The kernel (``csrc/sparse_conv2d/cpu_cells.cpp``) reads the first input of every cell as one vector, the
second as the next. Neighbours are neighbouring vectors, so that every load is aligned: one that is not costs
twice as much. Cells that are neighbours read some inputs twice: the smaller they are, the more.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch

from ..spmm.pack import Cells
from .plane import ConvGeometry, band_of, plane_of, reach_of

__all__ = ["Grid", "band_terms", "best_grid", "cells_of", "cells_terms", "grid_of"]

_INDICES = 1 << 16
_STAGED = 14 << 10  # vectors of all channels, which share L2 with the weights
_NEAR = 768  # vectors that a tile should read of a piece, which shares L1 with the sums
_NOT_SQUARE = 1.05
_PER_PIECE = 8  # weights that a row should have in a piece: fewer, and loading and storing its sum weighs in


class Grid(NamedTuple):
    """Cells one above the other and side by side, and the outputs of each."""

    high: int
    wide: int
    rows: int
    cols: int


class _Cycles(NamedTuple):
    """What a vector costs, `python -m bench.cells` on a Zen 4 held to the instruction set.

    Args:
        widest, sums: vectors of a tile side by side, and in all.
        cells: an input's, an output's for each weight, a tile's for each weight, an output's beyond that, and
            this once more where cells reach beyond the image: factors of `cells_terms`.
        band: the same without cells, of `band_terms`.
    """

    widest: int
    sums: int
    cells: tuple[float, ...]
    band: tuple[float, ...]


_BY_LANES = {
    8: _Cycles(4, 8, (5.6, 0.57, 1.5, 7.6, 23), (8.3, 1.01, 5.2)),
    16: _Cycles(8, 16, (8.9, 1.32, 1.1, 13.5, 30), (18.2, 1.94, 7.8)),
}


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)


def _floor_power(n: int) -> int:
    return 1 << (n.bit_length() - 1)


def _tile(grid: Grid) -> tuple[int, int]:
    """Rows and columns of a tile; what is left of a cell is cut into smaller ones."""
    most = _BY_LANES[grid.high * grid.wide]
    wide = min(most.widest, _floor_power(grid.cols))
    return min(4, most.sums // wide, _floor_power(grid.rows)), wide


def _inputs(g: ConvGeometry, grid: Grid) -> tuple[int, int, int]:
    """Phases, and rows and columns that a cell reads of each."""
    reach = reach_of(g)
    return g.stride[0] * g.stride[1], grid.rows + reach[0], grid.cols + reach[1]


def _plane(g: ConvGeometry, grid: Grid) -> int:
    phases, rows, cols = _inputs(g, grid)
    return phases * rows * cols


def cells_terms(g: ConvGeometry, grid: Grid, weights: int, out: int) -> tuple[float, ...]:
    """Vectors of an image, as `_Cycles` takes them, with `weights` in all of `out` rows."""
    height, width = g.out_size
    down, across = _cdiv(height, grid.high * grid.rows), _cdiv(width, grid.wide * grid.cols)
    whole = height == down * grid.high * grid.rows and width == across * grid.wide * grid.cols
    phases, in_rows, in_cols = _inputs(g, grid)
    tile = _tile(grid)
    tiles = _cdiv(grid.rows, tile[0]) * _cdiv(grid.cols, tile[1])
    staged = g.in_channels * phases * in_rows * _cdiv(in_cols, 4) * 4  # columns are turned by fours
    outputs = out * grid.rows * _cdiv(grid.cols, 4) * 4
    terms = (staged, weights * grid.rows * grid.cols, weights * tiles, outputs, 0 if whole else outputs)
    return tuple(float(down * across * term) for term in terms)


def band_terms(g: ConvGeometry, weights: int, out: int, lanes: int) -> tuple[float, ...]:
    """The same of the kernel without cells, whose vectors are eight neighbours."""
    height, width = g.out_size
    vectors = height * _cdiv(width, 8) * 8 / lanes
    staged = _cdiv(height, band_of(g)) * g.in_channels * plane_of(g, band_of(g)) / lanes
    return staged, weights * vectors, out * vectors


def _cost(factors: tuple[float, ...], terms: tuple[float, ...]) -> float:
    return sum(factor * term for factor, term in zip(factors, terms, strict=True))


def best_grid(g: ConvGeometry, weights: int, out: int, lanes: int) -> tuple[float, Grid]:
    """(cycles, grid) of the grid that should be fastest for that many weights in `out` rows.

    What its cells read of all channels stays in L2, unless they have but one output.
    """
    height, width = g.out_size
    found = []
    for across in (1 << i for i in range(lanes.bit_length())):
        grid = Grid(lanes // across, across, _cdiv(height, lanes // across), _cdiv(width, across))
        while g.in_channels * _plane(g, grid) > _STAGED and grid.rows * grid.cols > 1:
            if grid.rows > grid.cols:
                grid = grid._replace(rows=_cdiv(grid.rows, 2))
            else:
                grid = grid._replace(cols=_cdiv(grid.cols, 2))
        # rows of a grid that has four cells below each other need fewer addresses and shuffles
        factor = 1 if grid.high == 4 else _NOT_SQUARE
        found.append((factor * _cost(_BY_LANES[lanes].cells, cells_terms(g, grid, weights, out)), grid))
    return min(found)


@functools.lru_cache(maxsize=1024)
def grid_of(g: ConvGeometry, weights: int, out: int, lanes: int) -> Grid | None:
    """`best_grid`; None where cells would not be faster."""
    # a kernel of one pixel reads rows as they are
    if lanes not in _BY_LANES or band_of(g) == 0 or g.in_channels == 0 or g.kernel_size == (1, 1):
        return None
    cycles, grid = best_grid(g, weights, out, lanes)
    return grid if cycles < _cost(_BY_LANES[lanes].band, band_terms(g, weights, out, lanes)) else None


def cells_of(g: ConvGeometry, grid: Grid, begins: torch.Tensor, per_row: float) -> Cells | None:
    """The places of every weight's inputs; None if 16 bits are too few.

    Args:
        begins: of `Columns`, the channels with which blocks begin.
        per_row: weights of a row, of which a piece of a block should have some.
    """
    plane, blocks, per_block = _plane(g, grid), len(begins) - 1, int(begins.diff().max())
    if per_block * plane > _INDICES or max(grid) > _INDICES:
        return None
    _, in_rows, in_cols = _inputs(g, grid)
    near = g.in_channels * _plane(g, Grid(grid.high, grid.wide, *_tile(grid)))
    pieces = min(_cdiv(near, _NEAR * blocks), int(per_row / blocks / _PER_PIECE), per_block)
    each = _cdiv(per_block, max(pieces, 1))
    channel = torch.arange(g.in_channels)[:, None, None] % per_block
    index = channel * plane + g.places(in_rows, in_cols)
    piece = (channel // each).expand(index.shape)
    return Cells(grid, index.flatten(), plane, piece.flatten(), _cdiv(per_block, each))
