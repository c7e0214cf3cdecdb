"""Rung 6 in numbers: bytes that kernels load and store, over the least they could.

Of every kernel the tests count what it asks of memory while it is emulated or interpreted, and how much of
that was distinct. Products must load operands more than once: theirs is what the tiles that run at one time
load, each operand once, in the order that the kernels take them, over the same for the best rectangle of as
many tiles. Tests of the products hold their requests to the byte.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections import defaultdict
from pathlib import Path

from vdropkern.ops._bands import band_of, waves
from vdropkern.ops.conv2d_lrt import tiles as convolution
from vdropkern.ops.linear_lrt.tiles import Tile
from vdropkern.ops.multi_sample_head import tiles as head

LIMIT = 1.15  # of the least
PROBLEM = 4096  # batch, inputs and outputs of the C++ products
CONVOLUTION = (
    64,
    512,
    196,
    9,
)  # images, channels in and out, pixels, places of the kernel of those of patches
# A100, RTX 3090 and A40, RTX 4090, H100, B200, RTX 5090
PROCESSORS = {"sm_80": 108, "sm_86": 84, "sm_89": 128, "sm_90": 132, "sm_100": 148, "sm_120": 170}
PRODUCTS = ("forward", "input_gradient", "weight_gradient")  # csrc's Pass
HEAD = (512, 8192, 8192, 8)  # rows, features, classes and samples of the C++ head
_COLUMNS = 64  # kBlockN in csrc/linear_lrt, kTileSlots in csrc/multi_sample_head
_ENUMERATORS = {
    "Pass": ("kForward", "kInput", "kWeights"),
    "Prior": ("kLogUniform", "kKingma", "kExact", "kArd", "kNormal"),
    "Noise": ("kBernoulli", "kGaussian"),
    "HeadPass": ("kLogits", "kInput", "kWeight"),
}


def _over_least(
    down: int, across: int, band: int, programs: int, sizes: tuple[int, int, int], sharing: int = 1,
    beside: int = 1,
) -> float:  # fmt: skip
    """`sizes`: bytes of a tile's row of operands, its column, its results; the last two: see `waves`."""
    row, column, result = sizes
    programs = min(programs, down * across)
    least = min(
        row * max(h / sharing, 1) + column * max(programs / h / beside, 1)
        for h in range(1, down + 1)
        if programs / h <= across
    )
    loaded = waves(down, across, band, programs, row, column, sharing, beside)
    written = result * down * across
    return (loaded + written) / (least * down * across / programs + written)


def _tile_bytes(
    product: int, rows: int, columns: int, depth: int, x: int, variance: int
) -> tuple[int, int, int]:
    """What `_over_least` wants; bytes an element: `x` of x, mu, dy, `variance` of the noise's gradient."""
    row = rows * depth * (x if product == 0 else x + variance)
    column = columns * depth * (x if product == 2 else x + 4)
    return row, column, rows * columns * (x + 4, 2 * x, 2 * (x + 4))[product]


@functools.cache
def of_tile(
    architecture: str, product: str, arithmetic: str, tile: Tile, shape: tuple[int, int, int]
) -> float:
    """A Triton product [rows, columns, depth] with a tile, one program a multiprocessor."""
    rows, columns, depth = shape
    x = 2 if arithmetic == "half" else 4
    sizes = _tile_bytes(PRODUCTS.index(product), tile.m, tile.n, depth, x, x)
    down, across = math.ceil(rows / tile.m), math.ceil(columns / tile.n)
    return _over_least(down, across, tile.group, PROCESSORS[architecture], sizes)


@functools.cache
def of_product(architecture: str, kernel: str, blocks: int) -> float:
    """A C++ product by its name, of which a multiprocessor holds `blocks` at once."""
    if kernel.startswith("xnor_product"):
        return _of_signs(architecture, kernel, blocks)
    if kernel.startswith("head_"):
        return _of_masked(architecture, kernel, blocks)
    match = re.match(r"lrt_product<(Conv)?Product<(\w+)(?:<(.*)>)?,Pass (\d),(\d+)>>", kernel)
    assert match is not None, kernel
    math_, terms, product, rows = match[2], match[3], int(match[4]), int(match[5])
    x = 2 if math_ == "HalfMath" else 4
    sizes = _tile_bytes(product, rows, _COLUMNS, PROBLEM, x, x)
    down, across = PROBLEM // rows, PROBLEM // _COLUMNS
    if match[1]:
        down, across, sizes = _of_patches(product, rows, x)
    # tiles of 64 rows are for products with few tiles; without tensor cores there are no others
    down = 2 if rows == 64 and math_ != "IeeeMath" else down
    # `blocks_reckoned` of csrc/linear_lrt/plan.cuh
    reckoned = 3 if (math_, product) == ("IeeeMath", 2) else 1 if terms and terms[0] == "3" else 2
    band = _band(down, reckoned * PROCESSORS[architecture], sizes[0], sizes[1])
    return _over_least(down, across, band, PROCESSORS[architecture] * max(blocks, 1), sizes)


def _of_patches(product: int, rows: int, x: int) -> tuple[int, int, tuple[int, int, int]]:
    """Tiles down and across of a C++ product of `conv2d_lrt`, and what `_over_least` wants.

    As for Triton's products a pixel counts once a tile, in however many patches it is.
    """
    images, channels, pixels, places = CONVOLUTION
    depth = channels * places
    if product == 2:
        sizes = (rows * images * pixels * 2 * x, images * pixels * _COLUMNS * x // places)
        return channels // rows, depth // _COLUMNS, (*sizes, rows * _COLUMNS * 2 * (x + 4))
    gathered = rows * channels * (x if product == 0 else 2 * x)
    sizes = (gathered, _COLUMNS * depth * (x + 4))
    result = rows * _COLUMNS * (x + 4 if product == 0 else 2 * x)
    return images * pixels // rows, channels // _COLUMNS, (*sizes, result)


def _band(down: int, at_once: int, row: int, column: int) -> int:
    """`band_height` of csrc/cuda/bands.cuh."""
    height = max(1, round((at_once * column / row) ** 0.5))
    return math.ceil(down / math.ceil(down / height))


def _of_signs(architecture: str, kernel: str, blocks: int) -> float:
    """A C++ product of packed signs."""
    rows = 128 if kernel.endswith("<128>>") else 64
    # tiles of 64 rows by tensor cores are for products with few of them
    down = 2 if "Mma" in kernel and rows == 64 else PROBLEM // rows
    # `launch` of csrc/xnor/cuda.cu
    reckoned = 2 if "Mma" in kernel else 3
    band = _band(down, reckoned * PROCESSORS[architecture], rows, _COLUMNS)
    return _of_packed(architecture, (down, rows, _COLUMNS), band, blocks)


def _of_masked(architecture: str, kernel: str, blocks: int) -> float:
    """A C++ product of `multi_sample_head`."""
    match = re.match(r"head_\w+<HeadProduct<(\w+)(?:<.*?>)?,(\w+),HeadPass (\d),(\d+)>>", kernel)
    assert match is not None, kernel
    rows, features, classes, samples = HEAD
    ieee, x, product, tile = match[1] == "IeeeMath", 4 if match[2] == "float" else 2, match[3], int(match[4])
    # tiles of 64 classes are for heads that have no more, or few tiles; of 64 slots, for four samples, but
    # without tensor cores, where dh is read and written again for the next four: nothing beside the operands
    few, beside = tile == 64 and not ieee, 1
    if product == "0":  # columns of tiles are slots, and those of one row's samples lie side by side
        down, across, beside = (1 if few else classes // tile), rows * samples // _COLUMNS, samples // 4
        sizes = (tile * features * x, _COLUMNS // 4 * features * x, tile * _COLUMNS * 4)
    elif product == "1":
        slots = _COLUMNS if few else _COLUMNS * samples // 4
        down, across = rows * 4 // _COLUMNS, features // _COLUMNS
        sizes = (slots * classes * 4, _COLUMNS * classes * x, _COLUMNS // 4 * _COLUMNS * 4)
    else:
        down, across = (1 if few else classes // tile), features // _COLUMNS
        sizes = (tile * rows * samples * 4, _COLUMNS * rows * x, tile * _COLUMNS * 4)
    # `at_once` of csrc/multi_sample_head/cuda.cu: what shared memory and the launch bounds leave
    programs = PROCESSORS[architecture] * max(blocks, 1)
    reckoned = PROCESSORS[architecture] * min(
        max(blocks, 1), (2, 3, 4)[int(product)] if ieee else 256 // tile
    )
    band = band_of(down, across, reckoned, *sizes[:2], beside=beside)
    return _over_least(down, across, band, programs, sizes, beside=beside)


def _of_packed(architecture: str, tiles: tuple[int, int, int], band: int, blocks: int) -> float:
    """Operands of a bit, results of float32; `tiles`: rows of them, and the rows and columns of one."""
    down, rows, columns = tiles
    sizes = (rows * PROBLEM // 8, columns * PROBLEM // 8, rows * columns * 4)
    return _over_least(down, PROBLEM // columns, band, PROCESSORS[architecture] * max(blocks, 1), sizes)


def of_signs_tile(architecture: str, rows: int, columns: int, band: int) -> float:
    """The Triton product of packed signs, one program a multiprocessor."""
    return _of_packed(architecture, (PROBLEM // rows, rows, columns), band, 1)


@functools.cache
def of_head(
    architecture: str, product: str, tile: tuple[int, int, int], shape: tuple[int, int, int, int], x: int
) -> float:
    """A Triton product of `multi_sample_head`, one program a multiprocessor.

    Args:
        product: ``logits``, ``input_gradient`` or ``weight_gradient``.
        tile: rows, columns, samples that share random words.
        shape: rows of h, features, classes, samples.
        x: bytes of an element of h and of the weights; gradients are float32.
    """
    down, across, row, column, sharing = head.grid(product, tile, shape, x)
    programs = PROCESSORS[architecture]
    band = band_of(down, across, programs, row, column, sharing)
    result = tile[0] * tile[1] * 4 * (tile[2] if product == "logits" else 1)
    return _over_least(down, across, band, programs, (row, column, result), sharing)


@functools.cache
def of_convolution(architecture: str, product: str, shape: tuple[int, int, int, int], x: int) -> float:
    """A Triton product of `conv2d_lrt`, one program a multiprocessor.

    Args:
        product: ``forward``, ``input_gradient`` or ``weight_gradient``.
        shape: images, channels in and out, pixels of an image in and out, places of the kernel.
        x: bytes of an element of x, mu, dy and the noise's gradient.
    """
    images, channels, pixels, kernel = shape
    sizes = (images, (channels, channels), (pixels, pixels), kernel, x, x)
    down, across, row, column = convolution.grid(product, *sizes)
    programs = PROCESSORS[architecture]
    # y or dx, and what else lies where they do: r, or x; of weights two parts of sums
    result = convolution.rows_of(channels) * convolution.COLUMNS * (8 if "weight" in product else 2 * x)
    if product == "forward":
        result += convolution.rows_of(channels) * convolution.COLUMNS * (4 - x)
    band = band_of(down, across, programs, row, column)
    return _over_least(down, across, band, programs, (row, column, result))


def counted(path: Path) -> dict[tuple[str, str], float]:
    """By compiler and kernel, what tests/traffic_report.py noted of all launches."""
    sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        row = json.loads(line)
        both = sums[row["compiler"], _instance(row["kernel"])]
        both[0] += row["moved"]
        both[1] += row["least"]
    return {key: moved / max(least, 1) for key, (moved, least) in sums.items()}


def _instance(kernel: str) -> str:
    """A kernel as `sass.short` spells it: enumerators by number."""

    def number(match: re.Match[str]) -> str:
        return f"{match[1]} {_ENUMERATORS[match[1]].index(match[2])}"

    short = re.sub(r"(\w+)::(k\w+)", number, kernel).replace(" >", ">").replace(", ", ",")
    return short.replace("long int", "long")  # as the C++ compiler's names have it
