"""Where the kernel of `sparse_conv2d` finds the inputs of a weight; `csrc/sparse_conv2d` reads the same.

Outputs are computed in bands of rows. For a band, a channel's plane holds what it reads of the padded image,
one phase of the stride after the other. In a phase, outputs that are neighbours read neighbours, so a
weight's place in the window is one offset, and a run of outputs needs a run of inputs.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch

from ..spmm.pack import Columns

__all__ = ["ConvGeometry", "Pair", "band_of", "conv_columns", "plane_of", "reach_of"]

Pair = tuple[int, int]
_PLANE = 4096  # floats a plane should have at most where channels need several blocks anyway
_LEAST_BAND = 2  # rows of outputs for one of inputs that the next band reads again
_INDICES = 1 << 16
_STAGED = 5 << 13  # floats of a band, which shares L2 with the weights, the image and the outputs
_TILE = 6 << 10  # floats that a tile of outputs reads of one block, which shares L1 with the weights and sums
_PER_ROW = 40  # weights that a row should have in a block: fewer, and loading and storing its sums weighs in
_LANES, _WIDE, _HIGH = 8, 4, (0, 8, 4, 2, 2)  # a tile in vectors: at most so wide, and by its width so high


class ConvGeometry(NamedTuple):
    """A convolution of images of one size."""

    in_channels: int
    kernel_size: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    image: Pair  # height, width

    @property
    def out_size(self) -> Pair:
        """Height and width of the outputs; not positive where the window is larger than the padded image."""
        h, w = (
            (size + 2 * p - d * (k - 1) - 1) // s + 1
            for size, k, s, p, d in zip(
                self.image, self.kernel_size, self.stride, self.padding, self.dilation, strict=True
            )
        )
        return h, w

    @property
    def window(self) -> tuple[int, ...]:
        """All but the channels and the image, one after the other, as the op takes it."""
        return self.kernel_size + self.stride + self.padding + self.dilation

    def places(self, rows: int, cols: int) -> torch.Tensor:
        """Where each of the window's inputs stands, [kh, kw], in phases of `rows` x `cols`."""
        row = torch.arange(self.kernel_size[0])[:, None] * self.dilation[0]
        col = torch.arange(self.kernel_size[1]) * self.dilation[1]
        phase = row % self.stride[0] * self.stride[1] + col % self.stride[1]
        return (phase * rows + row // self.stride[0]) * cols + col // self.stride[1]


def reach_of(g: ConvGeometry) -> Pair:
    """How many rows and columns of a phase outputs read beyond their own."""
    h, w = ((k - 1) * d // s for k, d, s in zip(g.kernel_size, g.dilation, g.stride, strict=True))
    return h, w


def _phase(g: ConvGeometry, band: int) -> Pair:
    """Rows and columns of one phase of a band's plane."""
    reach = reach_of(g)
    return band + reach[0], g.out_size[1] + reach[1]


def plane_of(g: ConvGeometry, band: int) -> int:
    """Floats of a band's plane, of one channel."""
    rows, cols = _phase(g, band)
    return g.stride[0] * g.stride[1] * rows * cols


@functools.lru_cache(maxsize=1024)  # a microsecond in place of ten, at every call
def band_of(g: ConvGeometry) -> int:
    """Rows of outputs in a band; 0 where there are none, or not even one can be indexed.

    As many as keep all channels in one block and in L2, unless that means to read most rows twice.
    """
    one, height = plane_of(g, 1), g.out_size[0]
    if height < 1 or g.out_size[1] < 1 or 2 * one > _INDICES:  # a channel and the zero behind it
        return 0
    row = plane_of(g, 2) - one
    whole, part = (1 + (most - one) // row for most in (_STAGED // (g.in_channels + 1), _PLANE))
    return min(height, whole if whole >= _LEAST_BAND * (one // row) else max(part, 1))


def blocks_of(g: ConvGeometry, per_row: float) -> int:
    """Blocks of channels for a weight with `per_row` nonzeros a row.

    What a tile reads of one should stay in L1 while the rows of the weight go over it, but a row's sums are
    loaded and stored once a block.
    """
    high = min(_HIGH[min(-(-g.out_size[1] // _LANES), _WIDE)], band_of(g))
    rows, cols = _phase(g, high)
    cols -= max(g.out_size[1] - _WIDE * _LANES, 0)
    tile = g.in_channels * g.stride[0] * g.stride[1] * rows * cols
    return max(min(-(-tile // _TILE), int(per_row / _PER_ROW), g.in_channels), 1)


def conv_columns(g: ConvGeometry, blocks: int = 1) -> Columns:
    """Places of the inputs of every weight (channel, row, column of the window), in at least `blocks`."""
    band = band_of(g)
    plane, (rows, cols) = plane_of(g, band), _phase(g, band)
    blocks = max(blocks, -(-g.in_channels // (_INDICES // plane - 1)))
    per_block = -(-g.in_channels // max(blocks, 1))
    blocks = max(-(-g.in_channels // max(per_block, 1)), 1)
    channel = torch.arange(g.in_channels)[:, None, None]
    shape = (g.in_channels, *g.kernel_size)
    begins = (torch.arange(blocks + 1) * per_block).clamp(max=g.in_channels)
    return Columns(
        (channel // max(per_block, 1)).expand(shape).flatten(),
        (channel % max(per_block, 1) * plane + g.places(rows, cols)).flatten(),
        begins,
        begins.diff() * plane,
        plane,
    )
