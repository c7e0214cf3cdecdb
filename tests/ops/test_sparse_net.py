"""sparse_net: the same as its layers' own ops one by one, and programs that are refused."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import vdropkern as vdk
from vdropkern import _backend
from vdropkern.ops.max_pool2d import PoolGeometry
from vdropkern.ops.sparse_net import conv_numbers, linear_numbers, pool_numbers, sparse_net_native
from vdropkern.ops.sparse_net.reference import sparse_net
from vdropkern.ops.spmm.pack import chain
from vdropkern.sparse import SparseConv2d, SparseLinear, SparseSequential
from vdropkern.sparse.plan import Run

needs_kernels = pytest.mark.skipif(not _backend.cpu_isas(), reason="without kernels there is nothing to test")


def conv(inp: int, out: int, *geometry: int | tuple[int, int]) -> SparseConv2d:
    dense = nn.Conv2d(inp, out, *geometry)
    with torch.no_grad():
        dense.weight.mul_(torch.rand_like(dense.weight) < 0.4)
    return SparseConv2d.from_dense(dense)


def linear(inp: int, out: int) -> SparseLinear:
    return SparseLinear.from_dense(torch.randn(out, inp) * (torch.rand(out, inp) < 0.3), torch.randn(out))


def layers() -> list[nn.Module]:
    return [
        conv(3, 7, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2), conv(7, 5, 3, 2), nn.Dropout(),
        nn.MaxPool2d(3, 1, 1), nn.ReLU(), nn.Flatten(), linear(5 * 3 * 5, 20), nn.ReLU(), linear(20, 4),
    ]  # fmt: skip


Call = tuple[Tensor, list[Tensor], Tensor, tuple[int, ...]]


def call(x: Tensor, modules: list[nn.Module]) -> Call:
    """The arguments of the op for these layers."""
    first, second, fc, head = (m for m in modules if isinstance(m, (SparseConv2d, SparseLinear)))
    assert isinstance(first, SparseConv2d) and isinstance(second, SparseConv2d)
    assert isinstance(fc, SparseLinear) and isinstance(head, SparseLinear)
    geometries = (first._geometry(x), second._geometry(torch.empty(1, 7, 7, 12)))
    packed = [first.packed(geometries[0]), second.packed(geometries[1]),
              chain([fc.packed(), head.packed()], [True, False])]  # fmt: skip
    numbers = [
        *conv_numbers(0, 7, geometries[0], True), *pool_numbers(PoolGeometry(2, 2, 2, 2), False),
        *conv_numbers(1, 5, geometries[1], False), *pool_numbers(PoolGeometry(3, 3, 1, 1, 1, 1), True),
        *linear_numbers(2),
    ]  # fmt: skip
    return x, packed, torch.tensor(numbers), (4,)


@needs_kernels
@pytest.mark.parametrize("isa", _backend.cpu_isas())
@pytest.mark.parametrize("batch", [0, 1, 2, 19])
def test_same_as_its_layers(batch: int, isa: str) -> None:
    modules, x = layers(), torch.randn(batch, 3, 14, 24)
    plain, model = nn.Sequential(*modules).eval(), SparseSequential(*copy.deepcopy(modules)).eval()
    with torch.no_grad(), _backend.use_cpu_isa(isa):
        expected = plain(x)
        arguments = call(x, modules)
        for y in (sparse_net_native(*arguments), model(x), model(x)):
            torch.testing.assert_close(y, expected)
        assert model._plan is not None and [type(step) for step in model._plan.steps] == [Run]
        wide = torch.randn(batch, 14, 24, 3).permute(0, 3, 1, 2)
        torch.testing.assert_close(sparse_net_native(wide, *arguments[1:]), plain(wide))
        if batch:
            torch.testing.assert_close(sparse_net(*arguments), expected)


def test_opcheck() -> None:
    for x in (torch.randn(2, 3, 14, 24), torch.randn(1, 3, 14, 24).half()):
        torch.library.opcheck(sparse_net_native, call(x, layers()))


@needs_kernels
def test_one_call_for_all() -> None:
    model, x = SparseSequential(*layers()).eval(), torch.randn(2, 3, 14, 24)
    with torch.inference_mode():
        model(x)
        with torch.profiler.profile() as profile:
            model(x)
    assert [e.key for e in profile.key_averages() if "::" in e.key] == ["vdropkern::sparse_net"]


CHANGES: dict[str, Callable[[nn.Module], object]] = {
    "convolution": lambda m: m[3].values.mul_(2),
    "linear": lambda m: m[8].values.mul_(2),
    "bias": lambda m: setattr(m[10], "bias", None),
    "hook": lambda m: m[2].register_forward_hook(lambda module, inputs, output: output * 2),
    "training": lambda m: m[4].train() and setattr(m[4], "p", 0.0),
    "precision": lambda m: m[3].store_as(torch.bfloat16),
}


@pytest.mark.parametrize("name", [*CHANGES, "pooling"])
def test_changes_are_seen(name: str) -> None:
    plain = nn.Sequential(*layers()).eval()
    model, x = SparseSequential(*copy.deepcopy(list(plain))).eval(), torch.randn(2, 3, 14, 24)
    if name == "pooling":  # its result stays as large
        plain[5].stride = model[5].stride = (1, 1)
    with torch.no_grad():
        model(x), model(x)
        for net in (plain, model):
            if name == "pooling":
                net[5].kernel_size, net[5].padding = (3, 1), (1, 0)
            else:
                CHANGES[name](net)
        torch.testing.assert_close(model(x), plain(x))
        torch.testing.assert_close(model(x), plain(x))


def test_only_what_flattens_all_leads_to_linear_layers() -> None:
    """[N, 1, 1, 6] is flattened in several ways that linear layers of 6 inputs take."""
    x = torch.randn(2, 3, 5, 8)
    for between in (nn.Flatten(), nn.Flatten(1, 2), nn.Flatten(2), nn.Flatten(0, -2), nn.Tanh()):
        plain = nn.Sequential(conv(3, 1, (5, 3)), nn.MaxPool2d(1), between, linear(6, 4), nn.ReLU()).eval()
        model = SparseSequential(*copy.deepcopy(list(plain))).eval()
        with torch.no_grad():
            for _ in range(2):
                torch.testing.assert_close(model(x), plain(x))
            if type(between) is nn.Flatten:
                for end in (2, between.end_dim):
                    model[2].end_dim = plain[2].end_dim = end
                    torch.testing.assert_close(model(x), plain(x))


@needs_kernels
def test_refuses() -> None:
    x, packed, program, sizes = call(torch.randn(2, 3, 14, 24), layers())
    numbers = program.tolist()

    def replaced(at: int, value: int) -> Tensor:
        return torch.tensor([*numbers[:at], value, *numbers[at + 1 :]])

    bad: list[tuple[str, tuple[Tensor, list[Tensor], Tensor, tuple[int, ...]]]] = [
        ("empty", (x, packed, program[:0], sizes)),
        ("ends within", (x, packed, program[:-1], sizes)),
        ("ends within", (x, packed, program[:5], sizes)),
        ("no layer of kind 3", (x, packed, replaced(0, 3), sizes)),
        ("no layer of kind -1", (x, packed, replaced(0, -1), sizes)),
        ("no packed form 3", (x, packed, replaced(1, 3), sizes)),
        ("no packed form -1", (x, packed, replaced(1, -1), sizes)),
        ("another convolution", (x, packed, replaced(2, 6), sizes)),
        ("another convolution", (x, packed[1:] * 2, program, sizes)),
        ("another convolution", (x[..., 1:], packed, program, sizes)),
        ("band must lie", (x, packed, replaced(11, 99), sizes)),
        ("a size is out of range", (x, packed, replaced(16, 0), sizes)),
        ("a size is out of range", (x, packed, replaced(5, 2**62), sizes)),
        ("out_sizes", (x, packed, program, (5,))),
        ("out_sizes", (x, packed, program, (4, 1))),
        ("no matrix", (x, packed[2:] * 3, program, sizes)),
        ("no chain", (x, packed[:2] * 2, program, sizes)),
        ("no matrix", (x, [t[:-64] for t in packed], program, sizes)),
        ("must be bytes", (x, [t.view(torch.int32) for t in packed], program, sizes)),
        ("int64", (x, packed, program.int(), sizes)),
        ("x must be", (x.double(), packed, program, sizes)),
        ("x must be", (x[0], packed, program, sizes)),
        (r"must be given \[N, 75", (x, packed, torch.tensor(numbers[-2:]), sizes)),
        ("given images", (x[:, :1, :5, :15], packed, torch.tensor(numbers[-2:] + numbers[13:24]), sizes)),
    ]  # fmt: skip
    with vdk.use_backend("cpu"):
        for words, arguments in bad:
            with pytest.raises(RuntimeError, match=words):
                sparse_net_native(*arguments)
