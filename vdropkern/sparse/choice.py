"""Whether a layer should be sparse: by a table of where sparse kernels begin to win, or by timing it."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Sequence
from importlib import resources
from statistics import median

import torch
from torch import Tensor

from .. import _backend

__all__ = ["densest", "faster", "kinds"]

_ROUNDS, _TURN_S = 15, 0.002
kinds = ("linear", "conv2d")


@functools.cache
def _table(isa: str) -> dict[str, list[tuple[int, float]]]:
    """For each kind of layer (weights, density): layers of so many weights or more win up to that density."""
    text = resources.files(__package__).joinpath(f"crossover/{isa}.json").read_text()
    return {
        kind: [(int(weights), float(density)) for weights, density in json.loads(text)[kind]]
        for kind in kinds
    }


def densest(kind: str, weights: int) -> float:
    """Up to which density a sparse layer is faster than the dense one at every batch; 0: it never is.

    From ``crossover/<instruction set>.json``, which ``python -m bench.crossover`` measures. Without compiled
    kernels nothing is known, and nothing becomes sparse.

    Args:
        kind: one of `kinds`.
        weights: how many weights the dense layer has.
    """
    isa = _backend.cpu_isa()
    if isa is None:
        return 0.0
    below = [density for least, density in _table(isa)[kind] if least <= weights]
    return below[-1] if below else 0.0


def _turn(run: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


@torch.inference_mode()
def faster(sparse: torch.nn.Module, dense: torch.nn.Module, inputs: Sequence[Tensor]) -> float:
    """Time of the dense layer over the sparse one's on these inputs: the median of turns in one process.

    The smallest ratio of all inputs.
    """
    ratios = []
    for x in inputs:
        runs: list[Callable[[], object]] = [functools.partial(m, x) for m in (sparse, dense)]
        for run in runs:
            run()
        calls = [max(1, int(_TURN_S / max(_turn(run, 1), 1e-6))) for run in runs]
        turns = [[_turn(run, n) for run, n in zip(runs, calls, strict=True)] for _ in range(_ROUNDS)]
        ratios.append(median(d / s for s, d in turns))
    return min(ratios)
