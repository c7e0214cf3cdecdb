"""Whether a layer should be sparse: by a table of where sparse kernels begin to win, or by timing it."""

from __future__ import annotations

import bisect
import functools
import itertools
import json
import math
import operator
import time
from collections.abc import Callable, Sequence
from importlib import resources
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _backend

__all__ = ["AXES", "ConvShape", "conv_shape", "densest_conv2d", "densest_linear", "faster"]

_ROUNDS, _TURN_S = 15, 0.002
Near = list[tuple[int, float]]
_BETWEEN, _SPARSE_AROUND = 0.9, 0.05  # of what is interpolated, and where all around are this dense
_IMAGES = (64, 784)  # outputs of a channel where images are not known: 8 x 8 or more


class ConvShape(NamedTuple):
    """What the time of a convolution depends on besides its density: of each the values a layer has.

    Two where rows and columns differ, none where a value is unknown; in the order of the table's axes.
    """

    kernel: tuple[int, ...]  # inputs of one channel in a window
    stride: tuple[int, ...]
    batch: tuple[int, ...]
    pixels: tuple[int, ...]  # outputs of one channel
    ragged: tuple[int, ...]  # 1: the outputs' width is no multiple of eight, and vectors run over
    out_channels: tuple[int, ...]
    in_channels: tuple[int, ...]


AXES = ConvShape._fields


@functools.cache
def _table(isa: str) -> dict[str, Any]:
    text = resources.files(__package__).joinpath(f"crossover/{isa}.json").read_text()
    table: dict[str, Any] = json.loads(text)
    return table


def densest_linear(weights: int) -> float:
    """Up to which density a sparse linear layer of so many weights beats the dense one; 0: it never does.

    At every batch, by ``crossover/<instruction set>.json``, which ``python -m bench.crossover`` measures.
    Without compiled kernels nothing is known, and nothing becomes sparse.
    """
    isa = _backend.cpu_isa()
    if isa is None:
        return 0.0
    below = [float(density) for least, density in _table(isa)["linear"] if least <= weights]
    return below[-1] if below else 0.0


def densest_conv2d(shape: ConvShape) -> float:
    """As `densest_linear`, of a convolution without groups.

    The least for all values that its shape may have, which without an input are all that were measured.
    Between sizes that were measured it is interpolated, less a tenth, but only where all around are sparse.
    """
    isa = _backend.cpu_isa()
    if isa is None:
        return 0.0
    table = _table(isa)["conv2d"]
    axes = [table["axes"][name] for name in AXES]
    choices = [[_near(axis, v) for v in values or axis] for axis, values in zip(axes, shape, strict=True)]
    return min(_interpolated(table["density"], near) for near in itertools.product(*choices))


def _near(axis: list[int], value: int) -> Near:
    """The places on an axis between which a value lies, and their weights by its logarithm."""
    low = max(bisect.bisect_right(axis, value) - 1, 0)
    if value <= axis[low] or low == len(axis) - 1:
        return [(low, 1.0)]
    part = math.log(value / axis[low]) / math.log(axis[low + 1] / axis[low])
    return [(low, 1 - part), (low + 1, part)]


def _interpolated(density: Any, near: tuple[Near, ...]) -> float:
    corners = []
    for corner in itertools.product(*near):
        found = functools.reduce(operator.getitem, (place for place, _ in corner), density)
        corners.append((found, math.prod(weight for _, weight in corner)))
    least = min(found for found, _ in corners)
    if len(corners) == 1 or least < _SPARSE_AROUND:
        return float(least)
    return max(float(least), _BETWEEN * sum(found * weight for found, weight in corners))


def conv_shape(layer: torch.nn.Conv2d, image: tuple[int, ...] | None) -> ConvShape:
    """The shape of a layer that gets inputs of shape `image`, [N, C, H, W] or [C, H, W]; None: unknown."""
    batch: tuple[int, ...] = ()
    pixels: tuple[int, ...] = ()
    ragged: tuple[int, ...] = ()
    if image is not None:
        batch = (image[0],) if len(image) == 4 else (1,)
        x, w = (torch.empty(1, 1, *size, device="meta") for size in (image[-2:], layer.kernel_size))
        y = torch.nn.functional.conv2d(x, w, None, layer.stride, layer.padding, layer.dilation)
        pixels, ragged = (y.numel(),), (int(y.shape[-1] % 8 > 0),)
    else:
        pixels = _IMAGES
    return ConvShape(
        (layer.kernel_size[0] * layer.kernel_size[1],), tuple(sorted(set(layer.stride))), batch, pixels,
        ragged, (layer.out_channels,), (layer.in_channels,),
    )  # fmt: skip


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
