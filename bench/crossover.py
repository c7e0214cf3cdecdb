"""Measure where sparse layers begin to beat dense ones, into vdropkern/sparse/crossover/<isa>.json.

    python -m bench.crossover --isa avx512 --only conv2d
    python -m bench.crossover --check 200

On one thread. For linear layers of rising size, the largest density at which the sparse layer beats torch's
dense one by a margin at every batch, found by halving; smaller layers than the first listed stay dense. For
convolutions of every shape on a grid, the density at which the sparse layer's time, a straight line through
two densities, meets the dense one's less the margin. `--check` times convolutions of random shapes and says
how those fare that the table makes sparse, and what it leaves lying.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import random
import re
import time
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from vdropkern import _backend
from vdropkern.sparse import SparseConv2d, SparseLinear
from vdropkern.sparse.choice import AXES, conv_shape, densest_conv2d, faster

from .machine import describe
from .run import ROOT, whole_number, write_whole

LINEAR = ((32, 32), (100, 100), (100, 300), (300, 784), (1024, 1024), (4096, 1024))
BATCHES = (1, 8, 64)
GRID = {
    "kernel": (1, 9, 25),  # squares
    "stride": (1, 3),
    "batch": (1, 4, 16, 64),
    "pixels": (4, 64, 784),  # of outputs, about
    "ragged": (0, 1),
    "out_channels": (4, 16, 64, 256),
    "in_channels": (1, 3, 16, 64, 256),
}
SIDES = {4: (2, 2), 64: (8, 10), 784: (24, 28)}  # of outputs, not ragged if possible, and ragged
DENSITIES = (0.05, 0.4)
# multiplications of a dense layer, and inputs: of more, a smaller batch tells, or at last a smaller image
MOST, MOST_INPUTS = 1 << 28, 1 << 22
MARGIN = 1.1  # what is not this much faster stays dense
DENSEST = 0.6  # what is denser stays dense
STEPS = 5  # of halving
# what CPUs whose best kernels these are run dense layers with
DENSE = {"portable": "SSE41", "avx2": "AVX2"}
ROUNDS, TURN_S = 5, 0.0005


def _linear(out: int, inp: int, density: float) -> float:
    w = torch.randn(out, inp) * (torch.rand(out, inp) < density)
    dense = torch.nn.utils.skip_init(torch.nn.Linear, inp, out)
    sparse = SparseLinear.from_dense(w, torch.randn(out))
    dense.load_state_dict({"weight": w, "bias": sparse.bias.detach()})
    return faster(sparse, dense, [torch.randn(batch, inp) for batch in BATCHES])


def _turns(layers: list[nn.Module], x: Tensor) -> list[list[float]]:
    """Seconds a call of each layer, by rounds in which they take turns."""

    def turn(layer: nn.Module, calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            layer(x)
        return (time.perf_counter() - start) / calls

    with torch.inference_mode():
        for layer in layers:
            layer(x)
        calls = [max(1, int(TURN_S / max(turn(layer, 1), 1e-6))) for layer in layers]
        return [[turn(m, n) for m, n in zip(layers, calls, strict=True)] for _ in range(ROUNDS)]


def _sparse(dense: nn.Conv2d, density: float) -> SparseConv2d:
    return SparseConv2d.from_dense(dense, dense.weight.detach() * (torch.rand_like(dense.weight) < density))


def conv_crossover(dense: nn.Conv2d, x: Tensor) -> float:
    """The density at which the sparse layer is `MARGIN` times as fast."""
    few, many = (_sparse(dense, density) for density in DENSITIES)
    turns = _turns([dense, few, many], x)
    # of each round the times over the dense layer's: other load on the machine slows all of a round
    low, high = (median(turn[i] / turn[0] for turn in turns) for i in (1, 2))
    slope = (high - low) / max(many.density - few.density, 1e-6)
    if slope <= 0:
        return DENSEST if high * MARGIN <= 1 else 0.0
    return math.floor(100 * min(max(few.density + (1 / MARGIN - low) / slope, 0.0), DENSEST)) / 100


def _layer(at: dict[str, int]) -> tuple[nn.Conv2d, Tensor]:
    """A layer and an input of a place on the grid."""
    side, stride, size = math.isqrt(at["kernel"]), at["stride"], SIDES[at["pixels"]][at["ragged"]]
    dense = nn.Conv2d(at["in_channels"], at["out_channels"], side, stride, side // 2)
    return dense, torch.randn(at["batch"], at["in_channels"], size * stride, size * stride)


def _too_large(at: dict[str, int]) -> bool:
    inputs = at["batch"] * at["pixels"] * at["in_channels"]
    return inputs * at["kernel"] * at["out_channels"] > MOST or inputs * at["stride"] ** 2 > MOST_INPUTS


def measure_convs() -> dict[str, Any]:
    """The crossover densities of the whole grid, nested in the order of `AXES`."""
    found: dict[tuple[int, ...], float] = {}
    for place in itertools.product(*(GRID[name] for name in AXES)):
        at = dict(zip(AXES, place, strict=True))
        for name in ("batch", "pixels"):
            while _too_large(at) and at[name] > GRID[name][name == "batch"]:
                at[name] = max(size for size in GRID[name] if size < at[name])
        at["ragged"] |= at["pixels"] == GRID["pixels"][0]
        same = tuple(at[name] for name in AXES)
        if same not in found:
            found[same] = conv_crossover(*_layer(at))
        found[place] = found[same]

    def nested(place: tuple[int, ...]) -> Any:
        if len(place) == len(AXES):
            return found[place]
        return [nested((*place, value)) for value in GRID[AXES[len(place)]]]

    return {"axes": {name: GRID[name] for name in AXES}, "density": nested(())}


def check(count: int) -> None:
    """Time convolutions of random shapes and densities, and say how good the table's choices are."""
    draw, won, lost, left = random.Random(1), [], [], 0
    for _ in range(count):
        kernel, stride = draw.choice((1, 2, 3, 3, 5, 7)), draw.choice((1, 1, 1, 2, 3))
        size = draw.choice((2, 5, 7, 14, 20, 28, 32, 56))
        inp, out = (draw.choice((1, 3, 10, 20, 32, 48, 64, 100, 128)) for _ in range(2))
        dense = nn.Conv2d(inp, out, kernel, stride, kernel // 2)
        x = torch.randn(draw.choice((1, 1, 2, 4, 16, 50)), inp, size, size)
        sparse = _sparse(dense, draw.choice((0.01, 0.03, 0.1, 0.2, 0.3, 0.5)))
        gain = median(turn[0] / turn[1] for turn in _turns([dense, sparse], x))
        most = densest_conv2d(conv_shape(dense, tuple(x.shape)))
        chosen = most > 0 and sparse.density <= most
        if chosen:
            won.append(gain)
        elif gain > MARGIN:
            left += 1
        if chosen and gain < 1:
            lost.append(f"{gain:.2f} times as fast: {dense} at {sparse.density:.1%}, {list(x.shape)}")
    print(f"{count} layers, {len(won)} made sparse, {len(lost)} of these slower; {left} left that would gain")
    if won:
        print(f"made sparse: the median is {median(won):.2f} times as fast, the worst {min(won):.2f}")
    print(*lost, sep="\n")


def crossover(measure: object, *shape: int) -> float:
    """The largest density of those tried at which `measure(*shape, density)` is above the margin."""
    assert callable(measure)
    low, high = 0.0, DENSEST
    for _ in range(STEPS):
        middle = (low + high) / 2
        if measure(*shape, middle) >= MARGIN:
            low = middle
        else:
            high = middle
    return round(low, 3)


def rising(found: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Without the sizes at which nothing wins before the first that does."""
    while found and found[0][1] == 0.0:
        found = found[1:]
    return found


def _text(table: dict[str, Any]) -> str:
    """JSON with a line for each innermost list."""
    return re.sub(r"\[[^][{}]*\]", lambda m: " ".join(m[0].split()), json.dumps(table, indent=1)) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.crossover", description=__doc__.splitlines()[0])
    parser.add_argument("--isa", choices=_backend.cpu_isas(), default=_backend.cpu_isa())
    parser.add_argument("--only", choices=("linear", "conv2d"), help="keep the rest of the table as it is")
    parser.add_argument(
        "--check", type=whole_number(10**6), metavar="N", help="time N convolutions against the table instead"
    )
    arguments = parser.parse_args()
    isa = arguments.isa
    if isa in DENSE:  # read when a dense layer first runs
        os.environ["ONEDNN_MAX_CPU_ISA"] = DENSE[isa]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    path = ROOT / "vdropkern" / "sparse" / "crossover" / f"{isa}.json"
    with _backend.use_cpu_isa(isa):
        if arguments.check:
            check(arguments.check)
            return
        table = json.loads(path.read_text())
        about = describe()
        measured = {name: about[name] for name in ("cpu", "torch", "date")}
        if arguments.only != "conv2d":
            linear = [(out * inp, crossover(_linear, out, inp)) for out, inp in LINEAR]
            table |= {"linear": rising(linear), "linear_measured": measured}
        if arguments.only != "linear":
            table |= {"conv2d": measure_convs(), "conv2d_measured": measured}
    write_whole(path, _text(table).encode())
    print(path.read_text())


if __name__ == "__main__":
    main()
