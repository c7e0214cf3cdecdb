"""Measure where sparse layers begin to beat dense ones, into vdropkern/sparse/crossover/<isa>.json.

    python -m bench.crossover --isa avx512

For layers of rising size, the largest density at which the sparse layer beats torch's dense one by a margin
at every batch, on one thread, found by halving. Smaller layers than the first listed stay dense.
"""

from __future__ import annotations

import argparse
import json

import torch

from vdropkern import _backend
from vdropkern.sparse import SparseConv2d, SparseLinear
from vdropkern.sparse.choice import faster

from .machine import describe
from .run import ROOT, write_whole

LINEAR = ((32, 32), (100, 100), (100, 300), (300, 784), (1024, 1024), (4096, 1024))
CONV = (
    (4, 24),
    (8, 16),
    (16, 16),
    (32, 16),
    (64, 16),
    (128, 8),
)  # channels in and out, height and width; 3x3
BATCHES = (1, 8, 64)
CONV_BATCHES = (1, 16)
MARGIN = 1.1  # what is not this much faster stays dense
STEPS = 5


def _linear(out: int, inp: int, density: float) -> float:
    w = torch.randn(out, inp) * (torch.rand(out, inp) < density)
    dense = torch.nn.utils.skip_init(torch.nn.Linear, inp, out)
    sparse = SparseLinear.from_dense(w, torch.randn(out))
    dense.load_state_dict({"weight": w, "bias": sparse.bias.detach()})
    return faster(sparse, dense, [torch.randn(batch, inp) for batch in BATCHES])


def _conv(channels: int, size: int, density: float) -> float:
    dense = torch.nn.Conv2d(channels, channels, 3, padding=1)
    with torch.no_grad():
        dense.weight.mul_(torch.rand_like(dense.weight) < density)
    inputs = [torch.randn(batch, channels, size, size) for batch in CONV_BATCHES]
    return faster(SparseConv2d.from_dense(dense), dense, inputs)


def crossover(measure: object, *shape: int) -> float:
    """The largest density of those tried at which `measure(*shape, density)` is above the margin."""
    assert callable(measure)
    low, high = 0.0, 0.6
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


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.crossover", description=__doc__.splitlines()[0])
    parser.add_argument("--isa", choices=_backend.cpu_isas(), default=_backend.cpu_isa())
    isa = parser.parse_args().isa
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with _backend.use_cpu_isa(isa):
        linear = [(out * inp, crossover(_linear, out, inp)) for out, inp in LINEAR]
        conv = [(9 * channels**2, crossover(_conv, channels, size)) for channels, size in CONV]
    about = describe()
    table = {
        "measured": {name: about[name] for name in ("cpu", "torch", "date")},
        "linear": rising(linear),
        "conv2d": rising(conv),
    }
    path = ROOT / "vdropkern" / "sparse" / "crossover" / f"{isa}.json"
    write_whole(path, (json.dumps(table, indent=2) + "\n").encode())
    print(path.read_text())


if __name__ == "__main__":
    main()
