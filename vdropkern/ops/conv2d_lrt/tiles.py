"""How the tiles of the Triton products of `conv2d_lrt` lie beside each other, and what they load.

Imports no Triton.
"""

from __future__ import annotations

COLUMNS = 64  # of a tile, and its rows where there are as many
PRODUCTS = ("forward", "input_gradient", "weight_gradient")


def rows_of(rows: int) -> int:
    """Rows of a tile: few, as of a depthwise convolution, get a flat one."""
    return min(64, max(16, 1 << max(rows - 1, 0).bit_length()))


def grid(
    product: str,
    images: int,
    channels: tuple[int, int],
    pixels: tuple[int, int],
    kernel: int,
    x: int,
    g2: int,
) -> tuple[int, int, int, int]:
    """Tiles down and across, bytes of operands of a row of tiles and of a column, each element once.

    Patches overlap: what columns share with others at their edges is left out.

    Args:
        product: one of `PRODUCTS`.
        images: in the batch, or of a part of it.
        channels: of a group, inputs and outputs.
        pixels: of an image, of x and of y.
        kernel: height times width.
        x: bytes of an element of x, mu and dy; log is float32.
        g2: bytes of an element of the noise's gradient.
    """
    inputs, outputs = channels
    if product == "weight_gradient":
        columns = inputs * kernel
        down, across = -(-outputs // rows_of(outputs)), -(-columns // COLUMNS)
        # a column of tiles is of places of the kernel in a few channels, whose pixels they share
        of_column = max(1, images * pixels[0] * COLUMNS * x // kernel)
        return down, across, rows_of(outputs) * images * pixels[1] * (x + g2), of_column
    rows, depth, place = (outputs, inputs, 1) if product == "forward" else (inputs, outputs, 0)
    down, across = -(-rows // rows_of(rows)), images * -(-pixels[place] // COLUMNS)
    gathered = depth * pixels[1 - place] * COLUMNS // max(pixels[place], 1)
    weights = rows_of(rows) * depth * kernel * (x + 4)
    return down, across, weights, max(1, gathered * (x if product == "forward" else x + g2))
