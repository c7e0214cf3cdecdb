"""Search for the tiles of `linear_lrt` on the GPU at hand. `candidates` and `search` know nothing of a GPU.

Every candidate is timed alone, as a median, on every problem given; the fastest becomes that problem's entry.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch

from .._launch import Device, device_of
from . import tiles
from .tiles import ARITHMETIC, PRODUCTS, Entry, Table, Tile

ACCUMULATORS = (8, 128)  # registers a thread that the two accumulators of a tile may take
DTYPES = {"ieee": torch.float32, "tf32x3": torch.float32, "tf32": torch.float32, "half": torch.bfloat16}


class Problem(NamedTuple):
    """A layer's sizes."""

    batch: int
    inputs: int
    outputs: int

    def shape(self, product: str) -> tuple[int, int, int]:
        """(rows, columns, depth) of one of its products."""
        batch, inputs, outputs = self
        return {
            "forward": (batch, outputs, inputs),
            "input_gradient": (batch, inputs, outputs),
            "weight_gradient": (outputs, inputs, batch),
        }[product]

    @classmethod
    def parse(cls, text: str) -> Problem:
        """Read ``512x4096x1024`` (batch, inputs, outputs); ValueError for anything else."""
        parts = text.lower().split("x")
        if len(parts) != 3 or not all(p.isdigit() and int(p) > 0 for p in parts):
            raise ValueError(f"{text!r} given, BATCHxINPUTSxOUTPUTS accepted, as 512x4096x1024")
        return cls(*map(int, parts))


# seconds a call takes with a tile, or None where it does not run
Measure = Callable[[str, str, Problem, Tile], "float | None"]


def candidates(product: str, arithmetic: str, device: Device) -> Iterator[Tile]:
    """Tiles worth timing: registers and shared memory suffice, and every warp has work."""
    half = arithmetic == "half"
    sizes = {"x": 2 if half else 4, "log": 4, "g2": 2 if half else 4}
    depths = {"ieee": (16,), "tf32x3": (16, 32), "tf32": (32, 64), "half": (32, 64, 128)}[arithmetic]
    for m, n, k, warps, stages in itertools.product((32, 64, 128), (32, 64, 128), depths, (4, 8), (2, 3, 4)):
        tile = Tile(m, n, k, warps, stages)
        registers = 2 * m * n // (32 * warps)
        fits = tiles.shared_bytes(product, tile, sizes) <= device.shared
        if fits and ACCUMULATORS[0] <= registers <= ACCUMULATORS[1]:
            yield tile


def search(
    problems: Sequence[Problem],
    arithmetics: Sequence[str],
    device: Device,
    measure: Measure,
    tell: Callable[[str], None] = lambda _: None,
) -> Table:
    """The device's table with an entry for each problem: the fastest candidate.

    Entries of other shapes, and those of arithmetics not asked for, stay.

    Raises:
        RuntimeError: no candidate ran on a problem.
    """
    before = tiles.table(device.architecture)
    found: dict[str, dict[str, tuple[Entry, ...]]] = {p: dict(before[p]) for p in PRODUCTS}
    for product, arithmetic, problem in itertools.product(PRODUCTS, arithmetics, problems):
        timed = _times(product, arithmetic, problem, device, measure)
        if not timed:
            raise RuntimeError(f"{product}, {arithmetic}: no tile ran on {problem}")
        tile, seconds = min(timed.items(), key=lambda item: item[1])
        shape = problem.shape(product)
        tell(f"{product} {arithmetic} {shape}: {seconds * 1e6:.1f} us with {tile} of {len(timed)}")
        others = (entry for entry in found[product][arithmetic] if entry.shape != shape)
        found[product][arithmetic] = tuple(sorted((*others, Entry(shape, tile)), key=lambda e: e.shape))
    return found


def _times(
    product: str, arithmetic: str, problem: Problem, device: Device, measure: Measure
) -> Mapping[Tile, float]:
    timed = {}
    for tile in candidates(product, arithmetic, device):
        seconds = measure(product, arithmetic, problem, tile)
        if seconds is not None:
            timed[tile] = seconds
    return timed


def check_arithmetics(names: Iterable[str]) -> tuple[str, ...]:
    """The names, or a ValueError for one that is none of `ARITHMETIC`."""
    names = tuple(names)
    for name in names:
        if name not in ARITHMETIC:
            raise ValueError(f"{name!r} given, accepted: {', '.join(ARITHMETIC)}")
    return names


def measure_on_gpu(product: str, arithmetic: str, problem: Problem, tile: Tile) -> float | None:
    """Median seconds of the op that contains `product`, with the L2 cache emptied between calls."""
    import triton
    from triton.testing import do_bench

    from ..._precision import use_precision
    from . import triton as kernels

    dtype, device = DTYPES[arithmetic], torch.device("cuda")
    batch, inputs, outputs = problem
    x = torch.randn(batch, inputs, dtype=dtype, device=device)
    mu = torch.randn(outputs, inputs, dtype=dtype, device=device)
    log_sigma2 = torch.full((outputs, inputs), -8.0, device=device)
    seed = torch.zeros((), dtype=torch.int64, device=device)
    dy, std = (
        torch.ones(batch, outputs, dtype=dtype, device=device),
        torch.ones(batch, outputs, device=device),
    )

    def run() -> None:
        if product == "forward":
            kernels.linear_lrt(x, mu, log_sigma2, None, None, seed, "none", 1e-8)
        else:
            needs_x = product == "input_gradient"
            kernels.linear_lrt_backward(
                dy,
                None,
                x,
                mu,
                log_sigma2,
                None,
                std,
                seed,
                "none",
                float("inf"),
                needs_x,
                not needs_x,
                False,
            )

    with tiles.force_tile(product, tile), use_precision(mean="torch" if arithmetic == "half" else arithmetic):
        try:
            return float(do_bench(run, warmup=20, rep=60, return_mode="median")) / 1e3
        except triton.runtime.errors.OutOfResources:
            return None


def current_device() -> Device:
    """The GPU that would be measured.

    Raises:
        RuntimeError: there is none, or no Triton.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("tuning measures on a GPU, and torch sees none")
    try:
        import triton  # noqa: F401
    except ImportError:
        raise RuntimeError("tuning needs Triton: pip install triton") from None
    return device_of(torch.empty(0, device="cuda"))
