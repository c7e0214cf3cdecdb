"""Every case that is timed: names, shapes and targets. Data only; the work stands in ``bench_<op>.py``.

To add a case, add a line to `CASES`. To add an op, add ``bench_<op>.py`` with ``CONTENDERS``, ``gate`` and a
``test_<op>`` function (bench_philox_normal.py is the shortest to copy), and a `Table` if it fits none.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from .specs import (
    Activations,
    Call,
    Case,
    Contender,
    Conv,
    ConvNet,
    Estimate,
    Gates,
    Head,
    Layer,
    Net,
    PackedNet,
    Pooling,
    Pruned,
    PrunedNet,
    Signs,
    Size,
    Table,
    Target,
)

TABLES = {
    "step": Table("Training step with KL (forward + KL + backward)", baseline="dense"),
    "conv": Table("Training step of convolutions with KL, of one layout", baseline="dense", page="methods"),
    "kl": Table("KL value and both gradients", baseline="eager", shows="speedup"),
    "noise": Table("Standard normals", baseline="randn", shows="speedup"),
    "inference": Table("Inference, dense and pruned", baseline="dense", shows="speedup"),
    "nets": Table("Whole pruned nets, end to end", baseline="dense", shows="speedup", page="nets"),
    "tuning": Table(
        "Fine-tuning of pruned layers: forward and backward", baseline="dense", shows="speedup", page="nets"
    ),
    "pooling": Table("Max pooling, inference", baseline="torch", shows="speedup", page="nets"),
    "overhead": Table("Overhead of an eager call", baseline="dense", shows="us"),
    "mul_noise": Table(
        "Multiplicative noise, forward and backward", baseline="dropout", shows="speedup", page="methods"
    ),
    "weight_mask": Table(
        "Targeted dropout of weights, forward and backward", baseline="sort", shows="speedup", page="methods"
    ),
    "weight_noise": Table(
        "Weights with noise, forward and backward", baseline="eager", shows="speedup", page="methods"
    ),
    "gate": Table("Gates, forward and backward", baseline="eager", shows="speedup", page="methods"),
    "head": Table(
        "Multi-sample dropout, a training step without the optimiser", baseline="one", page="methods"
    ),
    "sign_ste": Table(
        "Binarised activations, forward and backward", baseline="eager", shows="speedup", page="binary"
    ),
    "binary_weight": Table(
        "Binarised weights, forward and backward", baseline="eager", shows="speedup", page="binary"
    ),
    "xnor": Table("Products of signs on packed bits", baseline="dense", shows="speedup", page="binary"),
    "estimators": Table(
        "Gradient estimators of a net of signs, 3 layers", baseline="plain", shows="speedup", page="binary"
    ),
    "methods": Table(
        "A layer's training step with every method (forward + KL + backward)",
        baseline="dense",
        page="methods",
    ),
}
PAGES = ("tables", "methods", "binary", "nets")

_BIG = ("default", "thp", "heap-kept")  # 64 MB gradients: page faults weigh as much as arithmetic
_LENET = (784, 300, 100, 10)
_LENET_SPARSITY = (0.989, 0.972, 0.62)  # Molchanov et al. 2017, table 1


def _step(name: str, title: str, net: Net, goals: tuple[float, float], budget_s: float) -> Case:
    memory = _BIG if min(net.dims) >= 4096 else ("default",)
    return Case(name, title, "linear_lrt", "step", net, budget_s, Target("ratio", *goals), memory)


def _conv(
    name: str, title: str, spec: Conv | ConvNet, must: float | None = None, aim: float | None = None
) -> Iterator[Case]:
    """A case for each layout."""
    for layout, shown in (("nchw", "NCHW"), ("nhwc", "channels_last")):
        goal = None if must is None else Target("ratio", must, aim)
        laid_out = replace(spec, layout=layout)
        yield Case(f"conv-{name}-{layout}", f"{title}, {shown}", "conv2d_lrt", "conv", laid_out, 9, goal)


def _convolutions() -> Iterator[Case]:
    for channels, size, batch, must, aim in (
        (64, 32, 32, 0.95, 0.7),
        (256, 8, 32, 0.95, 0.7),
        (128, 28, 8, 1.1, None),
        (512, 7, 32, 1.1, None),
        (32, 32, 32, 1.1, None),
        (256, 14, 16, 1.1, None),
    ):
        title = f"3x3, {channels} channels, {size}x{size}, batch {batch}"
        spec = Conv(channels, channels, size, batch, padding=1)
        yield from _conv(f"{channels}-{size}x{size}", title, spec, must, aim)
    pointwise = Conv(256, 256, 14, 32, kernel=1)
    yield from _conv("1x1", "1x1, 256 channels, 14x14, batch 32", pointwise, 2.1)
    strided = Conv(64, 128, 32, 32, stride=2, padding=1)
    yield from _conv("stride2", "3x3 stride 2, 64 to 128 channels, 32x32, batch 32", strided, 2.1)
    depthwise = Conv(128, 128, 28, 16, padding=1, groups=128)
    yield from _conv("depthwise", "3x3 depthwise, 128 channels, 28x28, batch 16", depthwise)
    yield from _conv("lenet-5-b100", "LeNet-5, batch 100", ConvNet(100), 1.8, 1.3)


def _kl(name: str, rows: int, cols: int, budget_s: float) -> Case:
    target = Target("speedup", 8.0, contender="vdropkern")
    return Case(f"kl-{name}", f"{name} weights", "kl", "kl", Size(rows, cols), budget_s, target)


def _noise(name: str, rows: int, cols: int, budget_s: float) -> Case:
    case_name = f"noise-{name.lower()}"
    return Case(case_name, name, "philox_normal", "noise", Size(rows, cols), budget_s, Target("speedup", 2.0))


def _pruned(name: str, title: str, spec: Pruned, budget_s: float = 8) -> Case:
    return Case(f"pruned-{name}", title, "spmm", "inference", spec, budget_s)


def _call(mode: str, title: str, must: float | None = None) -> Case:
    target = None if must is None else Target("us", must)
    return Case(f"overhead-{mode}", title, "overhead", "overhead", Call(1, 8, 8, mode), 6, target)


def _mul(name: str, title: str, spec: Activations) -> Case:
    return Case(f"mul-noise-{name}", title, "mul_noise", "mul_noise", spec, 15, Target("speedup", 3.0))


def _weights(op: str, rows: int, cols: int, title: str, must: float | None = None) -> Case:
    target = None if must is None else Target("speedup", must)
    name = f"{op.replace('_', '-')}-{rows}x{cols}"
    return Case(name, title, op, op, Size(rows, cols), 6, target)


def _gate(name: str, kind: str, shape: tuple[int, ...], *, sample: bool = True, last: bool = False) -> Case:
    title = f"{kind}, {list(shape)}, one draw a {'sample' if sample else 'batch'}"
    spec = Gates(shape, kind, sample, last)
    return Case(f"gate-{name}", title + ", channels last" * last, "gate", "gate", spec, 5)


def _signs(estimator: str, shape: tuple[int, ...] = (32, 128, 32, 32)) -> Case:
    spec = Signs(shape, estimator)
    return Case(f"sign-{estimator}", f"{estimator}, {list(shape)}", "sign_ste", "sign_ste", spec, 6)


def _xnor(name: str, title: str, spec: Net | Conv | PackedNet, must: float, budget_s: float = 6) -> Case:
    return Case(f"xnor-{name}", title, "xnor", "xnor", spec, budget_s, Target("speedup", must))


def _xnors() -> Iterator[Case]:
    yield _xnor("1024", "Linear 1024, batch 1024", Net((1024, 1024), 1024, False), 5.0)
    yield _xnor("1024-b64", "Linear 1024, batch 64", Net((1024, 1024), 64, False), 5.0)
    yield _xnor("1024-b1", "Linear 1024, batch 1", Net((1024, 1024), 1, False), 1.0, 3)
    for channels, size, must in ((64, 32, 5.0), (256, 8, 8.0)):
        for batch in (1, 32):
            title = f"3x3, {channels} channels, {size}x{size}, batch {batch}"
            spec = Conv(channels, channels, size, batch, padding=1)
            yield _xnor(f"{channels}-{size}x{size}-b{batch}", title, spec, must)
    for batch in (1, 16):
        yield _xnor(f"resnet18-b{batch}", f"ResNet-18, batch {batch}", PackedNet(64, batch), 4.0, 20)


def _estimate(kind: str, width: int, rows: int, title: str) -> Case:
    spec = Estimate(kind, width, rows)
    name = f"estimators-{kind}-{width}-{rows}"
    return Case(name, title, "estimators", "estimators", spec, 12, Target("speedup", 10.0))


def _head(name: str, title: str, spec: Head, must: float | None = None, budget_s: float = 6) -> Case:
    target = None if must is None else Target("ratio", must)
    return Case(f"head-{name}", title, "multi_sample_head", "head", spec, budget_s, target)


CASES = (
    _step("lenet-300-100-b100", "LeNet-300-100, batch 100", Net(_LENET, 100, False), (1.9, 1.3), 30),
    _step("linear-1024-b128", "Linear 1024, batch 128", Net((1024, 1024), 128, True), (1.8, 1.3), 35),
    _step("linear-4096-b64", "Linear 4096, batch 64", Net((4096, 4096), 64, True), (1.7, 1.2), 35),
    _step("linear-4096-b512", "Linear 4096, batch 512", Net((4096, 4096), 512, True), (2.0, 1.5), 60),
    *_convolutions(),
    _kl("262k", 512, 512, 6),
    _kl("1M", 1024, 1024, 8),
    _kl("16.7M", 4096, 4096, 25),
    _noise("1M", 1024, 1024, 5),
    _noise("16.7M", 4096, 4096, 10),
    _pruned("lenet-300-100-b1", "LeNet-300-100 at 68x, batch 1", Pruned(_LENET, _LENET_SPARSITY, 1)),
    _pruned("lenet-300-100-b100", "LeNet-300-100 at 68x, batch 100", Pruned(_LENET, _LENET_SPARSITY, 100)),
    _pruned("1024-b100", "Linear 1024 at 95 %, batch 100", Pruned((1024, 1024), (0.95,), 100)),
    _pruned("4096-b100", "Linear 4096 at 99 %, batch 100", Pruned((4096, 4096), (0.99,), 100)),
    _call("no-grad", "1x8 @ 8x8, forward, no grad"),
    _call("forward", "1x8 @ 8x8, forward with grad", must=60.0),
    _call("backward", "1x8 @ 8x8, forward and backward"),
    _mul("4m", "[4096, 1024]", Activations((4096, 1024))),
    _mul("image-4m", "[32, 128, 32, 32]", Activations((32, 128, 32, 32))),
    _mul("last-4m", "[32, 128, 32, 32], channels last", Activations((32, 128, 32, 32), True)),
    _weights("weight_mask", 1024, 1024, "Linear 1024", 5.0),
    _weights("weight_mask", 64, 576, "Conv2d 64-64, 3x3", 5.0),
    _weights("weight_mask", 512, 4608, "Conv2d 512-512, 3x3", 5.0),
    _weights("weight_noise", 1024, 1024, "Linear 1024"),
    _weights("weight_noise", 512, 4608, "Conv2d 512-512, 3x3"),
    *(_signs(estimator) for estimator in ("hard-tanh", "two-bit", "polynomial", "swish", "stochastic")),
    *_xnors(),
    _estimate("nes", 32, 16_000, "1,000 NES samples, width 32, batch 16000"),
    _estimate("cdg", 8, 16_000, "all coordinates, width 8, batch 16000"),
    _weights("binary_weight", 1024, 1024, "Linear 1024"),
    _weights("binary_weight", 512, 4608, "Conv2d 512-512, 3x3"),
    _gate("sbp", "log-normal", (64, 64, 32, 32), sample=False),
    _gate("sbp-last", "log-normal", (64, 64, 32, 32), sample=False, last=True),
    _gate("sbp-sample", "log-normal", (64, 64, 32, 32)),
    _gate("sbp-linear", "log-normal", (1000, 1024), sample=False),
    _gate("sbp-linear-sample", "log-normal", (1000, 1024)),
    _gate("normal-linear", "normal", (1000, 1024)),
    _gate("l0", "hard-concrete", (64, 64, 32, 32), sample=False),
    _gate("concrete", "concrete", (64, 64, 32, 32)),
    _gate("concrete-linear", "concrete", (1000, 1024)),
    _head("128x10", "head alone, batch 128, 128 features, 10 classes", Head(128, 128, 10), 2.0),
    _head("512x10", "head alone, batch 128, 512 features, 10 classes", Head(128, 512, 10)),
    _head("512x100", "head alone, batch 128, 512 features, 100 classes", Head(128, 512, 100)),
    _head("2048x1000", "head alone, batch 128, 2048 features, 1000 classes", Head(128, 2048, 1000), None, 20),
    _head("resnet-10", "small residual net, batch 32, 10 classes", Head(32, 128, 10, True), 2.0, 40),
    _head(
        "resnet-100",
        "small residual net, batch 32, 512 features, 100 classes",
        Head(32, 512, 100, True),
        2.0,
        40,
    ),
    Case("methods-linear", "Linear 1024, batch 128", "methods", "methods", Layer(1024, 128), 60),
    Case(
        "methods-conv", "Conv2d 64-64, 3x3 on 32x32, batch 32", "methods", "methods", Layer(64, 32, 32), 120
    ),
)


CASES += tuple(
    Case(f"net-{net}-b{n}", f"{title}, batch {n}", "sparse_nets", "nets", PrunedNet(net, n), budget)
    for net, title, budget in (
        ("lenet-300-100", "LeNet-300-100 at 68x", 8.0),
        ("lenet-5", "LeNet-5 at 280x", 12.0),
        ("vgg", "VGG-like net for CIFAR-10 at 68x", 40.0),
    )
    for n in (1, 100)
)
CASES += tuple(
    Case(
        f"tuning-{dims[1]}-{sparsity}-b{batch}",
        f"Linear {dims[0]} to {dims[1]}, {sparsity} % zeros, batch {batch}",
        "spmm_step",
        "tuning",
        Pruned(dims, (sparsity / 100,), batch),
        budget,
    )
    for dims, batch, budget in (((784, 300), 100, 4.0), ((1000, 1000), 100, 5.0), ((4096, 4096), 512, 25.0))
    for sparsity in (90, 95, 99)
)
CASES += tuple(
    Case(f"max-pool-{name}", title, "max_pool2d", "pooling", spec, 4.0)
    for name, title, spec in (
        ("lenet-5-b1", "2x2, [1, 20, 24, 24]", Pooling((1, 20, 24, 24), 2, 2)),
        ("lenet-5-b100", "2x2, [100, 20, 24, 24]", Pooling((100, 20, 24, 24), 2, 2)),
        ("vgg-b1", "2x2, [1, 64, 32, 32]", Pooling((1, 64, 32, 32), 2, 2)),
        ("stem-b1", "3x3 stride 2, [1, 64, 112, 112]", Pooling((1, 64, 112, 112), 3, 2, 1)),
    )
)


def by_name(name: str) -> Case:
    """The case called `name`; KeyError lists those there are."""
    for case in CASES:
        if case.name == name:
            return case
    raise KeyError(f"unknown case {name!r}; accepted: {', '.join(c.name for c in CASES)}")


def page(case: Case) -> str:
    """The part of docs/benchmarks.md the case belongs to."""
    return TABLES[case.table].page


def module(case: Case) -> Any:
    """The module with the case's ``CONTENDERS`` and ``gate``."""
    return importlib.import_module(f"bench.bench_{case.bench}")


def contenders(case: Case) -> Mapping[str, Contender]:
    """Contenders of `case` by name, in the order in which they are printed."""
    found: Mapping[str, Contender] = module(case).CONTENDERS
    return found
