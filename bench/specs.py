"""The kinds of problems that are timed, and what is said of a case; cases.py holds the cases themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class MissingError(Exception):
    """A contender cannot run here; the message says what is missing. Reported, never a failure."""


@dataclass(frozen=True)
class Contender:
    """One way to solve a case.

    `make(spec)` prepares everything and returns the callable that is timed. `core` contenders are timed in
    every round, the others in as many as the time budget allows; those that are not `default` only when
    they are asked for by name.
    """

    label: str
    make: Callable[[Any], Callable[[], object]]
    core: bool = False
    default: bool = True
    baseline: str | None = None  # compared with this contender instead of the table's baseline
    package: str | None = None  # the distribution a peer comes from


@dataclass(frozen=True)
class Target:
    """What `contender` should reach: a ratio to the baseline, a speed-up over it, or microseconds."""

    kind: str  # "ratio" | "speedup" | "us"
    must: float
    aim: float | None = None
    contender: str = "vdropkern"


@dataclass(frozen=True)
class Table:
    """Cases that are printed together. `shows`: how a contender is compared with the baseline. `page`: which
    part of docs/benchmarks.md they belong to; without names only cases of "tables" are run.
    """

    title: str
    baseline: str
    shows: str = "ratio"  # "ratio" | "speedup" | "us"
    rounds: int = 30
    page: str = "tables"  # one of PAGES


@dataclass(frozen=True)
class Case:
    """One named problem. `memory` names the allocator settings (run.py) under which it is timed."""

    name: str
    title: str
    bench: str  # the contenders and the gate are those of bench_<bench>.py
    table: str
    spec: Any
    budget_s: float
    target: Target | None = None
    memory: tuple[str, ...] = ("default",)


@dataclass(frozen=True)
class Net:
    """Linear layers with ReLU between them; `input_grad` as for a layer inside a deeper net."""

    dims: tuple[int, ...]
    batch: int
    input_grad: bool


@dataclass(frozen=True)
class Conv:
    """A square convolution; weights and images lie as `layout` says, "nchw" or "nhwc"."""

    channels: int
    out: int
    size: int  # height and width of the image
    batch: int
    kernel: int = 3
    stride: int = 1
    padding: int = 0
    groups: int = 1
    layout: str = "nchw"


@dataclass(frozen=True)
class ConvNet:
    """LeNet-5: two convolutions of 5x5, each before a ReLU and max-pooling, and two linear layers."""

    batch: int
    layout: str = "nchw"


@dataclass(frozen=True)
class Size:
    """A matrix of weights or of noise."""

    rows: int
    cols: int


@dataclass(frozen=True)
class Pruned:
    """Linear layers with ReLU between them, of which `sparsity` is the share of zero weights, per layer."""

    dims: tuple[int, ...]
    sparsity: tuple[float, ...]
    batch: int


@dataclass(frozen=True)
class Pooling:
    """Max pooling of images, windows and strides square."""

    shape: tuple[int, int, int, int]  # N, C, H, W
    kernel: int
    stride: int
    padding: int = 0


@dataclass(frozen=True)
class PrunedNet:
    """A whole net of bench_sparse_nets.py, pruned as published."""

    net: str
    batch: int


@dataclass(frozen=True)
class Call:
    """One call on tensors so small that only the overhead is left."""

    batch: int
    inputs: int
    outputs: int
    mode: str  # "no-grad" | "forward" | "backward"


@dataclass(frozen=True)
class Activations:
    """What noise is multiplied into: [rows, units], or [N, C, H, W] in either memory format."""

    shape: tuple[int, ...]
    channels_last: bool = False


@dataclass(frozen=True)
class PackedNet:
    """ResNet-18 on 32x32 images, binary or plain."""

    width: int
    batch: int


@dataclass(frozen=True)
class Estimate:
    """``nes`` or ``cdg`` of three sign layers of `width` units and a linear one, on `rows` examples."""

    kind: str
    width: int
    rows: int


@dataclass(frozen=True)
class Signs:
    """What is binarised, [rows, units] or [N, C, H, W], and by which estimator."""

    shape: tuple[int, ...]
    estimator: str


@dataclass(frozen=True)
class Gates:
    """What gates are multiplied into, [N, C] or [N, C, H, W], their distribution, and how often they are
    drawn.
    """

    shape: tuple[int, ...]
    kind: str
    per_sample: bool
    channels_last: bool = False


@dataclass(frozen=True)
class Head:
    """A classifier's head on features, or on a small residual net that computes them from 32x32 images."""

    batch: int
    features: int
    classes: int
    trunk: bool = False


@dataclass(frozen=True)
class Layer:
    """A square linear layer, or a 3x3 convolution of `image` x `image` pixels."""

    width: int
    batch: int
    image: int | None = None
