"""The table by which `sparsify` chooses: its shape, what lies between its places, and what is not known."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
import torch

import vdropkern as vdk
from vdropkern import _backend
from vdropkern.sparse import choice
from vdropkern.sparse.choice import AXES, ConvShape, conv_shape, densest_conv2d, densest_linear


def flat(nested: Any) -> list[float]:
    return [nested] if isinstance(nested, float) else list(itertools.chain(*map(flat, nested)))


@pytest.mark.parametrize("isa", _backend.CPU_ISAS)
def test_shipped_tables(isa: str) -> None:
    table = choice._table(isa)
    axes = [table["conv2d"]["axes"][name] for name in AXES]
    assert all(axis == sorted(set(axis)) and axis[0] >= 0 for axis in axes)
    values = flat(table["conv2d"]["density"])
    assert len(values) == torch.Size(len(axis) for axis in axes).numel()
    assert all(0 <= value <= 1 for value in values) and max(values) > 0
    level = table["conv2d"]["density"]
    for axis in axes:
        assert len(level) == len(axis)
        level = level[-1]
    assert set(choice._IMAGES) <= set(table["conv2d"]["axes"]["pixels"])
    assert [weights for weights, _ in table["linear"]] == sorted(weights for weights, _ in table["linear"])
    for kind in ("linear", "conv2d"):
        assert set(table[f"{kind}_measured"]) == {"cpu", "torch", "date"}


needs_kernels = pytest.mark.skipif(not _backend.cpu_isas(), reason="without kernels nothing becomes sparse")


def made_up(monkeypatch: pytest.MonkeyPatch, density: Any) -> None:
    """A table of two batches, 1 and 16, and two numbers of input channels, 4 and 64."""
    axes = {name: [1] for name in AXES} | {"batch": [1, 16], "in_channels": [4, 64]}
    nested = [[[[[[list(row)]]] for row in density]]]
    monkeypatch.setattr(choice, "_table", lambda isa: {"conv2d": {"axes": axes, "density": nested}})


def shape(batch: tuple[int, ...], inputs: int) -> ConvShape:
    return ConvShape((1,), (1,), batch, (1,), (1,), (1,), (inputs,))


@needs_kernels
def test_between_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch, [[0.2, 0.4], [0.1, 0.3]])
    for inputs, expected in ((1, 0.2), (4, 0.2), (64, 0.4), (999, 0.4), (16, 0.9 * 0.3)):
        assert densest_conv2d(shape((1,), inputs)) == pytest.approx(expected)
    assert densest_conv2d(shape((5,), 4)) == pytest.approx(max(0.1, 0.9 * (0.2 - 0.1 * 0.5805)), abs=1e-4)
    assert densest_conv2d(shape((4,), 16)) == pytest.approx(0.9 * 0.25)  # in the middle of four
    assert densest_conv2d(shape((), 4)) == 0.1  # any batch
    assert densest_conv2d(shape((1, 16), 64)) == 0.3


@needs_kernels
def test_dense_beside_what_is_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch, [[0.0, 0.6], [0.6, 0.6]])
    assert densest_conv2d(shape((1,), 63)) == densest_conv2d(shape((), 4)) == 0.0
    assert densest_conv2d(shape((1,), 64)) == 0.6


def test_shape_of_a_layer() -> None:
    layer = torch.nn.Conv2d(3, 20, (5, 2), (1, 2), "valid")
    known = conv_shape(layer, (7, 3, 10, 17))
    assert known == ConvShape((10,), (1, 2), (7,), (48,), (0,), (20,), (3,))
    assert conv_shape(layer, (3, 10, 15)) == known._replace(batch=(1,), pixels=(42,), ragged=(1,))
    assert conv_shape(layer, None) == known._replace(batch=(), pixels=choice._IMAGES, ragged=())


def pruned(layer: torch.nn.Conv2d, keep: float) -> torch.nn.Conv2d:
    with torch.no_grad():
        layer.weight.mul_(torch.rand_like(layer.weight) < keep)
    return layer


@needs_kernels
def test_the_sample_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch, [[0.6, 0.6], [0.1, 0.1]])
    model = torch.nn.Sequential(pruned(torch.nn.Conv2d(4, 6, 3), 0.3), torch.nn.Flatten())
    for sample, kind in ((None, "Conv2d"), (torch.randn(1, 4, 8, 8), "SparseConv2d"),
                         (torch.randn(16, 4, 8, 8), "Conv2d")):  # fmt: skip
        plan = vdk.plan_sparsification(model, sample, shrink=False).rows
        assert [row.after for row in plan] == [kind]
    made_up(monkeypatch, [[0.0, 0.6], [0.6, 0.6]])
    for sample, words in ((None, "at every batch"), (torch.randn(1, 4, 8, 8), "faster")):
        (row,) = vdk.plan_sparsification(model, sample, shrink=False).rows
        assert row.reason.startswith("too small for a sparse layer") and row.reason.endswith((words, "image"))


@needs_kernels
def test_convolutions_in_float64_stay_dense() -> None:
    model = torch.nn.Sequential(pruned(torch.nn.Conv2d(32, 32, 5), 0.01)).double()
    (row,) = vdk.plan_sparsification(model, torch.randn(16, 32, 24, 24).double()).rows
    assert not row.changed and row.reason == "a convolution in float64, for which there is no sparse kernel"


@needs_kernels
def test_groups_stay_dense_unless_asked_for() -> None:
    model = torch.nn.Sequential(pruned(torch.nn.Conv2d(32, 32, 5, groups=2), 0.01))
    x = torch.randn(16, 32, 24, 24)
    (row,) = vdk.plan_sparsification(model, x, shrink=False).rows
    assert row.after == "Conv2d" and "in groups, of which only timing (tune=True) tells" in row.reason
    for wanted in ({"tune": True}, {"min_weights": 0}, {"max_density": 0.5}):
        (row,) = vdk.plan_sparsification(model, x, shrink=False, **wanted).rows  # type: ignore[arg-type]
        assert row.after == "SparseConv2d"


def test_linear_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_table", lambda isa: json.loads('{"linear": [[100, 0.1], [1000, 0.5]]}'))
    monkeypatch.setattr(_backend, "cpu_isa", lambda: "avx2")
    assert [densest_linear(n) for n in (99, 100, 999, 1000, 10**9)] == [0.0, 0.1, 0.1, 0.5, 0.5]
    monkeypatch.setattr(_backend, "cpu_isa", lambda: None)
    assert densest_linear(10**9) == 0.0 and densest_conv2d(shape((1,), 4)) == 0.0


@needs_kernels
def test_small_linear_layers_join_convolutions() -> None:
    def small() -> torch.nn.Linear:
        layer = torch.nn.Linear(6 * 4 * 4, 10)
        with torch.no_grad():
            layer.weight.mul_(torch.rand_like(layer.weight) < 0.1)
        return layer

    conv = pruned(torch.nn.Conv2d(3, 6, 5), 0.01)
    flat, pool, x = torch.nn.Flatten(), torch.nn.MaxPool2d(2), torch.randn(1, 3, 12, 12)
    nets = {
        "SparseLinear": [conv, torch.nn.ReLU(), pool, flat, torch.nn.Dropout(), small(), torch.nn.ReLU()],
        "Linear": [conv, torch.nn.Tanh(), pool, flat, small()],
    }
    for kind, modules in nets.items():
        plan = vdk.plan_sparsification(torch.nn.Sequential(*modules), x, shrink=False).rows
        assert [row.after for row in plan] == ["SparseConv2d", kind]
