"""Sparse nets between one call and the next: what changed meanwhile, and inputs unlike those before."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from vdropkern import _backend
from vdropkern.ops.spmm.csr import dense_to_csr
from vdropkern.ops.spmm.pack import linear_columns, pack, unpack
from vdropkern.sparse import SparseConv2d, SparseLinear, SparseSequential
from vdropkern.sparse.steps import Convolution


def conv() -> SparseConv2d:
    dense = nn.Conv2d(3, 5, 3, padding=1)
    with torch.no_grad():
        dense.weight.mul_(torch.rand_like(dense.weight) < 0.3)
    return SparseConv2d.from_dense(dense)


def linear(inp: int, out: int) -> SparseLinear:
    w = torch.randn(out, inp) * (torch.rand(out, inp) < 0.3)
    return SparseLinear.from_dense(w, torch.randn(out)).eval()


def images_net() -> tuple[SparseSequential, nn.Sequential]:
    layer = conv()
    plain = nn.Sequential(layer.to_dense(), nn.ReLU(), nn.MaxPool2d(2)).eval()
    return SparseSequential(layer, nn.ReLU(), nn.MaxPool2d(2)).eval(), plain


def test_images_too_wide_for_the_kernel() -> None:
    net, plain = images_net()
    with torch.no_grad():
        for width in (8, 8, 11000, 11000, 8, 11000):
            x = torch.randn(1, 3, 4, width)
            torch.testing.assert_close(net(x), plain(x))


@pytest.mark.skipif(not _backend.cpu_isas(), reason="without kernels nothing is joined")
def test_another_thread_with_images_of_another_size(monkeypatch: pytest.MonkeyPatch) -> None:
    net, plain = images_net()
    x, other = torch.randn(1, 3, 8, 16), torch.randn(1, 3, 16, 8)  # whose planes are as large
    run = Convolution.__call__

    def interrupted(step: Convolution, given: Tensor) -> Tensor:
        y = run(step, given)
        run(step, other)
        return y

    with torch.no_grad():
        with monkeypatch.context() as patch:
            patch.setattr(Convolution, "__call__", interrupted)
            torch.testing.assert_close(net(x), plain(x))
        torch.testing.assert_close(net(x), plain(x))


class Joined(nn.Module):
    def forward(self, parts: tuple[Tensor, Tensor]) -> Tensor:
        return torch.cat(parts, -1)


def test_inputs_that_are_no_tensor() -> None:
    net = SparseSequential(Joined(), linear(8, 5)).eval()
    parts = torch.randn(2, 3), torch.randn(2, 5)
    with torch.no_grad():
        torch.testing.assert_close(net(parts), net[1](torch.cat(parts, -1)))


class Doubled(nn.Module):
    def forward(self, t: Tensor) -> Tensor:
        return t * 2


@pytest.mark.parametrize("chained", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        lambda layer: prune.l1_unstructured(layer, "values", amount=0.5),
        lambda layer: prune.l1_unstructured(layer, "bias", amount=0.5),
        lambda layer: parametrize.register_parametrization(layer, "bias", Doubled()),
    ],
    ids=["pruned values", "pruned bias", "parametrized bias"],
)
def test_parameters_that_are_computed(change: Callable[[nn.Module], Any], chained: bool) -> None:
    layer, x = linear(9, 7), torch.randn(4, 9)
    net = SparseSequential(layer).eval() if chained else layer
    with torch.no_grad():
        before = net(x)
        change(layer)
        for _ in range(2):
            y = net(x)
            torch.testing.assert_close(y, nn.functional.linear(x, layer.weight_dense(), layer.bias))
            assert not torch.equal(y, before)


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.scales.mul_(2),
        lambda layer: setattr(layer, "scales", layer.scales * 2),
        lambda layer: setattr(layer.scales, "data", layer.scales * 2),
    ],
    ids=["in place", "replaced", "data replaced"],
)
def test_changed_scales_are_seen(change: Callable[[SparseLinear], object]) -> None:
    layer, x = linear(9, 7), torch.randn(4, 9)
    layer.store_as(torch.int8)
    net = SparseSequential(copy.deepcopy(layer)).eval()
    for model, changed in ((layer, layer), (net, net[0])):
        with torch.no_grad():
            model(x)
            change(changed)
            truth = nn.functional.linear(x, changed.weight_dense(), changed.bias)
            torch.testing.assert_close(model(x), truth)


def test_no_input_channels() -> None:
    layer = SparseConv2d(0, 4, 3).eval()
    with torch.no_grad():
        layer.bias.copy_(torch.arange(4.0))
        y = layer(torch.empty(2, 0, 6, 5))
    assert torch.equal(y, torch.arange(4.0)[:, None, None].expand(2, 4, 4, 3))


def test_more_rows_than_16_slices_can_number() -> None:
    rows = 1_200_000
    weight = torch.zeros(rows, 4)
    weight[torch.randperm(rows)[:5000], torch.randint(4, (5000,))] = 1
    layer = SparseLinear.from_dense(weight, torch.randn(rows)).eval()
    with torch.no_grad():
        for batch in (1, 9):
            x = torch.randn(batch, 4)
            torch.testing.assert_close(layer(x), nn.functional.linear(x, weight, layer.bias))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # by torch's compiler
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("net", [images_net()[0], SparseSequential(linear(8, 5))], ids=["conv", "linear"])
def test_steps_of_fused_optimizers_are_seen(net: SparseSequential, compiled: bool) -> None:
    net, x = copy.deepcopy(net), torch.randn(2, 3, 8, 8)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, fused=True)
    torch._dynamo.reset()
    train = torch.compile(net, backend="aot_eager") if compiled else net
    for _ in range(3):
        train(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            evaluated = net(x)
        torch.testing.assert_close(evaluated, nn.Sequential(*net)(x))


def test_default_device_changes_nothing() -> None:
    net, _ = images_net()
    net.extend([nn.Flatten(), linear(5 * 4 * 4, 6), nn.ReLU(), linear(6, 4)])
    net[4].bias = None
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        y = copy.deepcopy(net)(x)
        with torch.device("meta"):
            for _ in range(2):
                assert torch.equal(net(x), y)


@pytest.mark.parametrize("bias", [False, True])
def test_default_dtype_changes_no_packed_form(bias: bool) -> None:
    weight = torch.randn(130, 200) * (torch.rand(130, 200) < 0.3)
    csr, places = dense_to_csr(weight), linear_columns(200, 0.3)
    shift = torch.randn(130) if bias else None
    packed = pack(*csr, places, shift, one_row=True)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(pack(*csr, places, shift, one_row=True), packed)
        assert torch.equal(unpack(packed)[0], weight)
    finally:
        torch.set_default_dtype(torch.float32)


class Shifted(SparseLinear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


def test_changed_classes_are_seen() -> None:
    net, x = SparseSequential(linear(8, 5), linear(5, 4)).eval(), torch.randn(2, 8)
    with torch.no_grad():
        y = net(x)
        net[1].__class__ = Shifted
        torch.testing.assert_close(net(x), y + 1)
