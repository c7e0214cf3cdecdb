"""Measure when single images are convolved faster in cells, and fit what decides it.

    python -m bench.cells --isa avx2

On one thread, batch 1: each layer in cells, whatever that costs, and without, in turns. Least squares of the
relative error give the numbers of `_BY_LANES` in vdropkern/ops/sparse_conv2d/cells.py, in cycles of `--ghz`;
only their proportions matter. Then: how much time the choice that the package makes now loses against the
better of the two, and what cells gain where it takes them.
"""

from __future__ import annotations

import argparse
from functools import partial
from statistics import geometric_mean, median
from unittest import mock

import torch
from torch import Tensor

from vdropkern import _backend
from vdropkern.ops.sparse_conv2d import cells
from vdropkern.ops.sparse_conv2d.plane import ConvGeometry
from vdropkern.sparse import SparseConv2d, conv

from .timing import interleave

# channels in and out, kernel, stride, padding, image
SHAPES = (
    (1, 20, 5, 1, 0, 28), (20, 50, 5, 1, 0, 12), (3, 64, 3, 1, 1, 32), (16, 16, 3, 1, 1, 32),
    (64, 64, 3, 1, 1, 32), (32, 32, 3, 1, 1, 16), (64, 128, 3, 1, 1, 16), (128, 128, 3, 1, 1, 16),
    (256, 256, 3, 1, 1, 8), (512, 512, 3, 1, 1, 4), (512, 512, 3, 1, 1, 2), (64, 64, 3, 1, 1, 56),
    (128, 128, 3, 1, 1, 28), (256, 256, 3, 1, 1, 14), (512, 512, 3, 1, 1, 7), (64, 128, 3, 2, 1, 56),
    (256, 256, 3, 2, 1, 14), (3, 64, 7, 2, 3, 224), (8, 8, 3, 1, 1, 128), (96, 256, 5, 1, 2, 27),
    (32, 32, 5, 1, 2, 10), (256, 64, 3, 1, 1, 12),
)  # fmt: skip
ZEROS = (0.5, 0.8, 0.9, 0.95, 0.98)
ROUNDS = 9


def _layer(shape: tuple[int, ...], zeros: float, in_cells: bool) -> tuple[SparseConv2d, ConvGeometry, Tensor]:
    """Packed with cells or without, whatever would be faster."""
    inp, out, kernel, stride, padding, size = shape
    torch.manual_seed(0)
    dense = torch.nn.Conv2d(inp, out, kernel, stride, padding)
    dense.weight.mul_(torch.rand_like(dense.weight) >= zeros)
    layer, x = SparseConv2d.from_dense(dense, activation="relu").eval(), torch.randn(1, inp, size, size)
    geometry = layer._geometry(x)
    grid = cells.best_grid(geometry, layer.nnz, out, _backend.cpu_lanes())[1] if in_cells else None
    with mock.patch.object(conv, "grid_of", return_value=grid):
        layer(x)
    return layer, geometry, x


def _fit(terms: list[tuple[float, ...]], cycles: list[float]) -> Tensor:
    """Factors of the terms, and of a call beside them, at the least relative errors."""
    a, y = torch.tensor(terms, dtype=torch.float64), torch.tensor(cycles, dtype=torch.float64)
    a = torch.cat([torch.ones(len(a), 1), a], 1) / y[:, None]
    factors = torch.linalg.lstsq(a, torch.ones(len(a), 1, dtype=torch.float64)).solution
    print(f"  relative error {float((a @ factors - 1).abs().mean()):.3f}; a call {float(factors[0]):.0f}")
    return factors[1:, 0]


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.cells", description=__doc__.splitlines()[0])
    isas = [isa for isa in _backend.cpu_isas() if isa != "portable"]
    parser.add_argument("--isa", choices=isas, default=_backend.cpu_isa())
    parser.add_argument("--ghz", type=float, default=3.6, help="the clock (default: 3.6)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with _backend.use_cpu_isa(arguments.isa):
        lanes = _backend.cpu_lanes()
        terms: tuple[list[tuple[float, ...]], list[tuple[float, ...]]] = ([], [])
        cycles: tuple[list[float], list[float]] = ([], [])
        losses, gains = [], []
        for shape in SHAPES:
            for zeros in ZEROS:
                (ours, g, x), (band, _, _) = (_layer(shape, zeros, in_cells) for in_cells in (True, False))
                runs = {"cells": partial(ours, x), "band": partial(band, x)}
                samples = interleave(runs, set(runs), 0.1, ROUNDS)
                times = [1e-3 * median(samples[name].ms.values()) for name in runs]
                grid = cells.best_grid(g, ours.nnz, shape[1], lanes)[1]
                taken = cells.grid_of(g, ours.nnz, shape[1], lanes) is not None
                terms[0].append(cells.cells_terms(g, grid, ours.nnz, shape[1]))
                terms[1].append(cells.band_terms(g, ours.nnz, shape[1], lanes))
                for seconds, found in zip(times, cycles, strict=True):
                    found.append(seconds * arguments.ghz * 1e9)
                losses.append(times[0 if taken else 1] / min(times))
                if taken and zeros > 0.5:  # what is denser stays dense
                    gains.append(times[1] / times[0])
                word = "taken" if taken else "left"
                print(f"{shape} {zeros:.2f} {tuple(grid)}: {1e6 * times[0]:.0f} us in cells, "
                      f"{1e6 * times[1]:.0f} without: {word}", flush=True)  # fmt: skip
    for name, each, found in zip(("cells", "band"), terms, cycles, strict=True):
        print(f"{name}:")
        print("  factors", [round(float(factor), 2) for factor in _fit(each, found)])
    print(f"the choice takes {median(losses):.3f} of the better one's time in the median, "
          f"{geometric_mean(losses):.3f} in the mean, {max(losses):.2f} at most")  # fmt: skip
    print(f"where cells are taken, at 80 % zeros and more: {geometric_mean(gains):.2f} times as fast, "
          f"{min(gains):.2f} to {max(gains):.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
