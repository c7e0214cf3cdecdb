"""Which tiles the Triton kernels of `linear_lrt` run with: files of them, and the choice.

A file ``configs/sm_90.json`` holds, for each product and arithmetic, the tiles meant for some shapes. A
problem takes those of the nearest shape, made to fit the device's shared memory. Nothing is measured at run
time; `vdropkern tune` measures and writes such a file, `use_tiles` takes it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from .._launch import Device

PRODUCTS = ("forward", "input_gradient", "weight_gradient")
ARITHMETIC = ("ieee", "tf32x3", "tf32", "half")  # of the dearer path; cheapest last
FORMAT = 1
SHIPPED = Path(__file__).with_name("configs")
MAX_SPLIT = 16


class ConfigError(ValueError):
    """A file of tiles is not what it should be; the message names file, place and what is accepted."""


@dataclass(frozen=True)
class Tile:
    """One configuration.

    Args:
        m, n, k: rows, columns and depth of a tile, powers of two from 16.
        warps: 1 to 16, a power of two.
        stages: tiles of operands in flight.
        group: rows of tiles whose programs run together, to share operands in L2.
    """

    m: int
    n: int
    k: int
    warps: int
    stages: int
    group: int = 8

    def check(self, where: str) -> None:
        """Raise `ConfigError` for values that no kernel can run with."""
        for name, low, high in (("m", 16, 256), ("n", 32, 256), ("k", 16, 256), ("warps", 1, 16)):
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high or value & (value - 1):
                raise ConfigError(f"{where}: {name} must be a power of two in [{low}, {high}], got {value!r}")
        for name, high in (("stages", 8), ("group", 64)):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= high:
                raise ConfigError(f"{where}: {name} must be an int in [1, {high}], got {value!r}")


@dataclass(frozen=True)
class Entry:
    """A tile and the problem [rows, columns, depth] it is meant for."""

    shape: tuple[int, int, int]
    tile: Tile


Table = Mapping[str, Mapping[str, tuple[Entry, ...]]]  # [product][arithmetic]


def arithmetic_of(mean: str, variance: str) -> str:
    """The key of `ARITHMETIC` for a pair of precisions: the dearer of the two."""
    names = ["half" if name in ("native", "bf16") else name for name in (mean, variance)]
    return min(names, key=ARITHMETIC.index)


def shared_bytes(product: str, tile: Tile, sizes: Mapping[str, int]) -> int:
    """Shared memory of a tile, from above; tests hold it against what the compiler takes.

    What is loaded is there once a stage, but the last stage only where tensor cores read it as it lies (half
    operands); operands made on the way pass through buffers of their own.

    Args:
        sizes: bytes of an element of ``x`` (and mu, dy), ``log`` and ``g2``.
    """
    m, n, k = tile.m, tile.n, tile.k
    x, log, g2 = sizes["x"], sizes["log"], sizes["g2"]
    staged = {
        "forward": m * k * x + n * k * (x + log),
        "input_gradient": m * k * (x + g2) + n * k * (x + log),
        "weight_gradient": m * k * (x + g2) + n * k * x,
    }[product]
    direct = m * k * sum(size for size in ((x,) if product == "forward" else (x, g2)) if size == 2)
    made = n * k * (4 if x == g2 == 2 else 16)
    return max((tile.stages - 1) * staged + direct + made, m * n * 4)


def fit(product: str, tile: Tile, sizes: Mapping[str, int], limit: int) -> Tile:
    """The tile, with fewer stages and then smaller until its shared memory is within `limit`."""
    while shared_bytes(product, tile, sizes) > limit:
        if tile.stages > 2:
            tile = replace(tile, stages=tile.stages - 1)
        elif tile.k > 16:
            tile = replace(tile, k=tile.k // 2)
        elif tile.m > 16:
            tile = replace(tile, m=tile.m // 2)
        else:
            break
    return tile


def split_of(shape: tuple[int, int, int], tile: Tile, processors: int) -> int:
    """Into how many parts to cut the depth: as many as fill the processors, four blocks each at least."""
    rows, columns, depth = shape
    tiles = math.ceil(rows / tile.m) * math.ceil(columns / tile.n)
    blocks = math.ceil(depth / tile.k)
    split = max(1, min(processors // max(tiles, 1), blocks // 4, MAX_SPLIT))
    return 1 << (split.bit_length() - 1)  # few values, as each is a kernel of its own


def _distance(a: tuple[int, int, int], b: tuple[int, int, int]) -> float:
    return sum(abs(math.log2(max(i, 1)) - math.log2(max(j, 1))) for i, j in zip(a, b, strict=True))


@functools.lru_cache(maxsize=4096)
def choose(
    product: str, arithmetic: str, shape: tuple[int, int, int], sizes: tuple[int, int, int], device: Device
) -> tuple[Tile, int]:
    """(tile, split) for a problem: a function of its arguments and the configurations alone.

    Args:
        shape: rows, columns, depth of the product.
        sizes: bytes of an element of x, log, g2.
    """
    if (forced := _forced.get(product)) is not None:
        return forced, split_of(shape, forced, device.processors)
    entries = table(device.architecture)[product][arithmetic]
    tile = min(entries, key=lambda entry: _distance(entry.shape, shape)).tile
    tile = fit(product, tile, dict(zip(("x", "log", "g2"), sizes, strict=True)), device.shared)
    return tile, split_of(shape, tile, device.processors)


_forced: dict[str, Tile] = {}


@contextlib.contextmanager
def force_tile(product: str, tile: Tile) -> Iterator[None]:
    """Run `product` with one tile inside the block, whatever fits: for tuning and tests."""
    _forced[product] = tile
    choose.cache_clear()
    try:
        yield
    finally:
        del _forced[product]
        choose.cache_clear()


def default_table() -> Table:
    """For architectures without a file: middling tiles that any GPU since sm_80 runs, after `fit`."""
    small, large = (64, 1024, 1024), (2048, 4096, 4096)
    tiles = {
        "ieee": (Tile(32, 32, 16, 4, 3), Tile(64, 64, 16, 8, 3)),
        "tf32x3": (Tile(32, 32, 32, 4, 3), Tile(128, 64, 16, 8, 3)),
        "tf32": (Tile(32, 32, 32, 4, 3), Tile(128, 64, 32, 8, 3)),
        "half": (Tile(32, 32, 64, 4, 3), Tile(128, 64, 64, 8, 3)),
    }
    entries = {a: (Entry(small, low), Entry(large, high)) for a, (low, high) in tiles.items()}
    return dict.fromkeys(PRODUCTS, entries)


_loaded: dict[str, Table] = {}


def use_tiles(path: str | Path) -> str:
    """Take the tiles of a file that `vdropkern tune` wrote, for the GPUs it was measured on, in this process.

    Args:
        path: the file; its name is the architecture's, as ``sm_90.json``.

    Returns:
        the architecture.

    Raises:
        ConfigError: the file is not readable or not what it should be; nothing is changed.
    """
    path = Path(path)
    _loaded[path.stem] = read(path)
    choose.cache_clear()
    return path.stem


@functools.cache
def _shipped(architecture: str) -> Table:
    path = SHIPPED / f"{architecture}.json"
    return read(path) if path.exists() else default_table()


def table(architecture: str) -> Table:
    """The configurations of an architecture: those of `use_tiles`, the shipped ones, or `default_table`."""
    return _loaded.get(architecture) or _shipped(architecture)


def read(path: Path) -> Table:
    """Parse a file of configurations.

    Raises:
        ConfigError: it is no JSON, of another format or architecture, incomplete, or holds impossible tiles.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise ConfigError(f"{path}: not readable as JSON ({err})") from err
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ConfigError(f"{path}: 'format' must be {FORMAT}; write the file anew with `vdropkern tune`")
    if content.get("architecture") != path.stem:
        raise ConfigError(
            f"{path}: 'architecture' must be the file's name, {path.stem!r}, "
            f"got {content.get('architecture')!r}"
        )
    products = content.get("products")
    if not isinstance(products, dict):
        raise ConfigError(f"{path}: 'products' must be an object with {', '.join(PRODUCTS)}")
    return {p: {a: _entries(products, p, a, path) for a in ARITHMETIC} for p in PRODUCTS}


def _entries(products: dict[str, Any], product: str, arithmetic: str, path: Path) -> tuple[Entry, ...]:
    where = f"{path}: {product}.{arithmetic}"
    listed = (products.get(product) or {}).get(arithmetic)
    if not isinstance(listed, list) or not listed:
        raise ConfigError(f"{where}: must be a list of at least one entry, got {listed!r}")
    return tuple(_entry(item, f"{where}[{i}]") for i, item in enumerate(listed))


def _entry(item: Any, where: str) -> Entry:
    try:
        shape, tile = tuple(item["shape"]), Tile(**item["tile"])
    except (TypeError, KeyError) as err:
        raise ConfigError(
            f"{where}: must have 'shape' and 'tile' with m, n, k, warps, stages, group ({err})"
        ) from err
    if len(shape) != 3 or not all(type(n) is int and n > 0 for n in shape):
        raise ConfigError(
            f"{where}: 'shape' must be three positive ints [rows, columns, depth], got {list(shape)}"
        )
    tile.check(where)
    return Entry(shape, tile)


def dump(architecture: str, found: Table, measured: Mapping[str, Any] | None) -> bytes:
    """The content of a file, an entry a line; `measured` tells device and versions, or is None."""
    lines = [
        "{",
        f' "format": {FORMAT},',
        f' "architecture": {json.dumps(architecture)},',
        f' "measured": {json.dumps(measured)},',
        ' "products": {',
    ]
    for i, product in enumerate(PRODUCTS):
        lines.append(f'  "{product}": {{')
        for j, arithmetic in enumerate(ARITHMETIC):
            entries = [json.dumps(asdict(entry)) for entry in found[product][arithmetic]]
            lines.append(f'   "{arithmetic}": [')
            lines += [f"    {entry}," for entry in entries[:-1]] + [f"    {entries[-1]}"]
            lines.append("   ]" + "," * (j + 1 < len(ARITHMETIC)))
        lines.append("  }" + "," * (i + 1 < len(PRODUCTS)))
    return ("\n".join([*lines, " }", "}"]) + "\n").encode()
