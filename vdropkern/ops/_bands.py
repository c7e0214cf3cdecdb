"""The order in which programs take tiles (`tile_of` of linear_lrt/triton_kernels.py), and what it loads.

Imports no Triton: the checks of docs/gpu.md reckon with it too.
"""

from __future__ import annotations

import functools

_WAVES = 16  # that a choice of bands looks at


def waves(
    down: int, across: int, band: int, programs: int, row: int, column: int, sharing: int = 1, beside: int = 1
) -> int:
    """Bytes of operands that waves of `programs` tiles load, each once a wave: `row` and `column` a tile's.

    The kernels' order: bands of `band` rows of tiles, to and fro, column by column; `sharing` rows of tiles,
    one below the other, load the same, and `beside` columns, one beside the other.
    """
    return _bytes(down, across, band, programs, row, column, sharing, down * across, beside)


def _bytes(
    down: int, across: int, band: int, programs: int, row: int, column: int, sharing: int, tiles: int,
    beside: int = 1,
) -> int:  # fmt: skip
    total = 0
    for start in range(0, tiles, programs):
        rows, columns = set(), set()
        for tile in range(start, min(start + programs, tiles)):
            turn, within = divmod(tile, band * across)
            height = min(down - turn * band, band)
            rows.add((turn * band + within % height) // sharing)
            columns.add((across - 1 - within // height if turn % 2 else within // height) // beside)
        total += row * len(rows) + column * len(columns)
    return total


@functools.cache
def band_of(
    down: int, across: int, programs: int, row: int, column: int, sharing: int = 1, beside: int = 1
) -> int:
    """Rows of tiles in a band, so that programs at work together load least: see `waves`.

    Around the height of the rectangle that would load least, and one row, which is best where a row of tiles
    is about a wave.
    """
    if across == 1 or down == 1:
        return down
    best = (programs * column * sharing / (row * beside)) ** 0.5
    low, high = max(1, int(best * 0.6)), int(best * 1.5) + 2
    heights = {1, min(down, high), *range(min(low, down), min(high, down) + 1)}
    tiles = min(down * across, _WAVES * programs)

    def loaded(height: int) -> int:
        return _bytes(down, across, height, programs, row, column, sharing, tiles, beside)

    return min(sorted(heights), key=loaded)
