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

__all__ = ["Grid", "cells_of", "grid_of"]

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
    """What a vector costs. Fits to 115 layers on a Zen 4, by instruction set, which are right within a tenth.

    Args:
        widest: vectors of a tile side by side.
        sums: vectors of a tile.
        stage: an input's, of cells.
        product: an output's, a weight.
        tile: a tile, a weight.
        output: an output's, beyond products.
        partial: the same more, where cells reach beyond the image.
        band_stage, band_product, band_output: without cells.
    """

    widest: int
    sums: int
    stage: float
    product: float
    tile: float
    output: float
    partial: float
    band_stage: float
    band_product: float
    band_output: float


_BY_LANES = {
    8: _Cycles(4, 8, 5.6, 0.57, 1.5, 7.6, 23, 8.3, 1.01, 5.2),
    16: _Cycles(8, 16, 8.9, 1.32, 1.1, 13.5, 30, 18.2, 1.94, 7.8),
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


def _cells_cost(g: ConvGeometry, grid: Grid, weights: int, out: int) -> float:
    """Cycles of an image, about, with `weights` in all of `out` rows."""
    (height, width), per = g.out_size, _BY_LANES[grid.high * grid.wide]
    down, across = _cdiv(height, grid.high * grid.rows), _cdiv(width, grid.wide * grid.cols)
    whole = height == down * grid.high * grid.rows and width == across * grid.wide * grid.cols
    phases, in_rows, in_cols = _inputs(g, grid)
    tile = _tile(grid)
    tiles = _cdiv(grid.rows, tile[0]) * _cdiv(grid.cols, tile[1])
    staged = g.in_channels * phases * in_rows * _cdiv(in_cols, 4) * 4  # columns are turned by fours
    outputs = out * grid.rows * _cdiv(grid.cols, 4) * 4
    products = weights * (per.product * grid.rows * grid.cols + per.tile * tiles)
    return (
        down * across * (per.stage * staged + products + (per.output + per.partial * (not whole)) * outputs)
    )


def _band_cost(g: ConvGeometry, weights: int, out: int, lanes: int) -> float:
    """The same of the kernel without cells, whose vectors are eight neighbours."""
    (height, width), per = g.out_size, _BY_LANES[lanes]
    staged = _cdiv(height, band_of(g)) * g.in_channels * plane_of(g, band_of(g)) / lanes
    vectors = height * _cdiv(width, 8) * 8 / lanes
    return per.band_stage * staged + (per.band_product * weights + per.band_output * out) * vectors


@functools.lru_cache(maxsize=1024)
def grid_of(g: ConvGeometry, weights: int, out: int, lanes: int) -> Grid | None:
    """The grid that should be fastest for that many weights in `out` rows; None where none would be faster.

    What its cells read of all channels stays in L2, unless they have but one output.
    """
    height, width = g.out_size
    # a kernel of one pixel reads rows as they are
    if lanes not in _BY_LANES or band_of(g) == 0 or g.in_channels == 0 or g.kernel_size == (1, 1):
        return None
    best, least = None, _band_cost(g, weights, out, lanes)
    for across in (1 << i for i in range(lanes.bit_length())):
        grid = Grid(lanes // across, across, _cdiv(height, lanes // across), _cdiv(width, across))
        while g.in_channels * _plane(g, grid) > _STAGED and grid.rows * grid.cols > 1:
            if grid.rows > grid.cols:
                grid = grid._replace(rows=_cdiv(grid.rows, 2))
            else:
                grid = grid._replace(cols=_cdiv(grid.cols, 2))
        cost = _cells_cost(g, grid, weights, out)
        if cost < least:
            best, least = grid, cost
    return best


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
