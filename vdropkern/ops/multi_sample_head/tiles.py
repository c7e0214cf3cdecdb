"""Tiles of the Triton products of `multi_sample_head`: which one, and how they lie beside each other.

Imports no Triton.
"""

from __future__ import annotations

from typing import Any, NamedTuple

PRODUCTS = ("logits", "input_gradient", "weight_gradient")


class Tile(NamedTuple):
    """Rows, columns, and the depth of a step; slots, samples of a row of h, count as rows of it."""

    rows: int
    cols: int
    depth: int
    warps: int
    stages: int


# By product and arithmetic: the largest that spill on no architecture (gpu/budgets).
TILES = {
    "logits": {
        "ieee": Tile(64, 64, 16, 8, 2),
        "tf32x3": Tile(64, 64, 16, 8, 2),
        "tf32": Tile(64, 128, 32, 8, 3),
        "native": Tile(64, 128, 64, 8, 3),
    },
    "input_gradient": {
        "ieee": Tile(64, 64, 16, 8, 2),
        "tf32x3": Tile(64, 64, 16, 8, 2),
        "tf32": Tile(64, 64, 32, 8, 3),
        "native": Tile(64, 64, 32, 8, 2),
    },
    "weight_gradient": {
        "ieee": Tile(64, 64, 16, 8, 2),
        "tf32x3": Tile(64, 64, 16, 8, 2),
        "tf32": Tile(64, 64, 32, 8, 2),
        "native": Tile(64, 128, 64, 8, 2),
    },
}


def _power_of_two(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()


def shared_by(samples: int) -> int:
    """How many samples of a word a program takes: no more than a quarter over what there are."""
    return next(n for n in (4, 2, 1) if -samples % n <= samples // 4)


def launch_options(product: str, precision: str, samples: int, classes: int, features: int) -> dict[str, Any]:
    """Compile-time arguments; tiles shrink to a power of two around short dimensions."""
    tile, shared = TILES[product][precision], shared_by(samples)

    def at_most(size: int, there: int) -> int:
        return min(size, max(16, _power_of_two(there)))

    options: dict[str, Any] = {"SHARED": shared, "num_warps": tile.warps, "num_stages": tile.stages}
    if product == "logits":
        sizes = (tile.rows // shared, at_most(tile.cols, classes), at_most(tile.depth, features))
        options["WHOLE"] = classes <= sizes[1]
    elif product == "input_gradient":
        sizes = (tile.rows // shared, at_most(tile.cols, features), at_most(tile.depth, classes))
    else:
        sizes = (at_most(tile.rows, classes), at_most(tile.cols, features), tile.depth // shared)
        if sizes[0] < 64:  # too few classes for tensor cores of sm_90, and too little work for eight warps
            options["num_warps"] = 4
    # tf32 holds half types exactly, and gradients of logits need the range of float32
    exact = "tf32" if precision == "native" and product != "logits" else precision
    return {"PRECISION": exact, **options, **dict(zip(("ROWS", "COLS", "DEPTH"), sizes, strict=True))}


def grid(
    product: str, tile: tuple[int, int, int], shape: tuple[int, int, int, int], x: int
) -> tuple[int, int, int, int, int]:
    """Tiles down and across, bytes of operands of a row of tiles and of a column, rows of tiles that share.

    Args:
        product: one of `PRODUCTS`.
        tile: rows, columns, samples that share random words.
        shape: rows of h, features, classes, samples.
        x: bytes of an element of h and of the weights; gradients are float32.

    Returns:
        as `_bands.waves` takes them: a row of tiles of logits is of some samples, all of which load the same
        rows of h.
    """
    rows, columns, shared = tile
    batch, features, classes, samples = shape
    if product == "logits":
        quads = -(-samples // shared)
        down, across = -(-batch // rows) * quads, -(-classes // columns)
        return down, across, rows * features * x, columns * features * x, quads
    across = -(-features // columns)
    if product == "input_gradient":
        return -(-batch // rows), across, rows * samples * classes * 4, columns * classes * x, 1
    return -(-classes // rows), across, rows * batch * samples * 4, columns * batch * x, 1
