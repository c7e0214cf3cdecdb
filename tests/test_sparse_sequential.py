"""SparseSequential: the same as its modules one by one, whatever becomes of them."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch

import vdropkern as vdk
from vdropkern.ops.spmm import _chain_op, spmm_chain
from vdropkern.ops.spmm.pack import MOST_LAYERS, chain
from vdropkern.sparse import SparseConv2d, SparseLinear, SparseSequential
from vdropkern.sparse.sequential import fuse
from vdropkern.sparse.steps import Chain, Step


def sparse(inp: int, out: int, activation: str = "none") -> SparseLinear:
    w = torch.randn(out, inp) * (torch.rand(out, inp) < 0.2)
    return SparseLinear.from_dense(w, torch.randn(out), activation=activation)


def net() -> torch.nn.Sequential:
    return torch.nn.Sequential(
        torch.nn.Flatten(), sparse(40, 70), torch.nn.ReLU(), torch.nn.Dropout(), sparse(70, 33, "relu"),
        torch.nn.Linear(33, 50), sparse(50, 9), torch.nn.Tanh(),
    ).eval()  # fmt: skip


def fused(plain: torch.nn.Module) -> SparseSequential:
    model = fuse(copy.deepcopy(plain))
    assert isinstance(model, SparseSequential)
    return model


def steps(model: torch.nn.Module) -> list[Step]:
    assert isinstance(model, SparseSequential) and model._plan is not None
    return model._plan.steps


@pytest.mark.parametrize("batch", [0, 1, 8, 33])
def test_same_as_its_modules(batch: int, backend: str) -> None:
    plain, x = net(), torch.randn(batch, 4, 10)
    model = fused(plain)
    assert list(model.state_dict()) == list(plain.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(model(x), plain(x))
        if backend != "reference" and batch:
            assert [len(s.modules) for s in steps(model)] == [1, 4, 1, 1, 1]
            assert [len(s.layers) for s in steps(model) if isinstance(s, Chain)] == [2, 1]
    torch.testing.assert_close(model(x), plain(x))  # with gradients


def conv(activation: str = "none") -> SparseConv2d:
    dense = torch.nn.Conv2d(3, 5, 3, padding=1)
    with torch.no_grad():
        dense.weight.mul_(torch.rand_like(dense.weight) < 0.3)
    return SparseConv2d.from_dense(dense, activation=activation)


@pytest.mark.parametrize("activation", ["none", "relu"])
def test_relu_behind_a_convolution(activation: str, backend: str) -> None:
    plain = torch.nn.Sequential(conv(activation), torch.nn.ReLU(), torch.nn.MaxPool2d(2)).eval()
    model, x = fused(plain), torch.randn(2, 3, 8, 9)
    seen = []
    with torch.no_grad():
        torch.testing.assert_close(model(x), plain(x))
        model[1].register_forward_hook(lambda module, inputs, output: seen.append(float(inputs[0].min())))
        torch.testing.assert_close(model(x), plain(x))
        assert len(seen) == 1 and (seen[0] < 0) == (activation == "none")  # the hook saw what ReLU was given
        model[0].register_forward_hook(lambda module, inputs, output: -output)
        assert torch.equal(model[:2](x), torch.relu(-plain[0](x)))


def test_relu_behind_a_convolution_costs_no_call() -> None:
    model, x = fused(torch.nn.Sequential(conv(), torch.nn.ReLU()).eval()), torch.randn(1, 3, 8, 8)
    with torch.no_grad(), torch.profiler.profile() as profile:
        model(x)
    assert not [e.key for e in profile.key_averages() if "relu" in e.key]


def test_images_of_other_sizes_and_types() -> None:
    plain = torch.nn.Sequential(conv(), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Flatten()).eval()
    model = fused(plain)
    with torch.no_grad():
        for shape in ((2, 3, 8, 9), (2, 3, 8, 9), (1, 3, 8, 9), (1, 3, 9, 8), (3, 8, 9), (2, 3, 8, 9)):
            x = torch.randn(shape)
            torch.testing.assert_close(model(x), plain(x))
            last = x.to(memory_format=torch.channels_last) if x.ndim == 4 else x.transpose(1, 2)
            torch.testing.assert_close(model(last), plain(last))
        half = torch.randn(2, 3, 8, 9).half()
        torch.testing.assert_close(model(half), plain(half))
        for change in (lambda m: setattr(m[0], "padding", (0, 2)), lambda m: m[0].values.mul_(2),
                       lambda m: m[0].store_as(torch.bfloat16)):  # fmt: skip
            change(model)
            change(plain)
            torch.testing.assert_close(model(x), plain(x))
        model.double(), plain.double()
        torch.testing.assert_close(model(x.double()), plain(x.double()))


def change_values(model: torch.nn.Module) -> None:
    with torch.no_grad():
        model[1].values.mul_(2)


def replace_layer(model: torch.nn.Module) -> None:
    torch.manual_seed(5)
    model[4] = sparse(70, 33)


def hook(model: torch.nn.Module) -> None:
    model[2].register_forward_hook(lambda module, inputs, output: output + 1)


def train_part(model: torch.nn.Module) -> None:
    model[4].activation = "none"
    model[3].train()
    model[3].p = 0.0


def insert(model: torch.nn.Module) -> None:
    model.insert(2, torch.nn.Sigmoid())


def cut(model: torch.nn.Module) -> None:
    del model[4:]


def move(model: torch.nn.Module) -> None:
    model.double()


@pytest.mark.parametrize(
    "change", [change_values, replace_layer, hook, train_part, insert, cut, move], ids=lambda f: f.__name__
)
def test_changes_are_seen(change: Callable[[torch.nn.Module], None]) -> None:
    plain, x = net(), torch.randn(3, 40)
    model = fused(plain)
    with torch.no_grad():
        model(x)
        change(model)
        change(plain)
        x = x.to(next(plain.parameters()).dtype)
        torch.testing.assert_close(model(x), plain(x))


def test_packed_forms_are_held_once() -> None:
    model = fused(net())
    with torch.no_grad():
        model(torch.randn(2, 40))
    step = steps(model)[1]
    assert isinstance(step, Chain) and step.made is not None
    first, second = step.layers
    storage = step.made[1].untyped_storage()
    for layer in (first, second):
        held = layer._held()
        assert held is not None
        tensors = [t for t in (held.packed, *held.arguments) if isinstance(t, torch.Tensor)]
        assert all(t.untyped_storage().data_ptr() == storage.data_ptr() for t in tensors)


def test_a_layer_of_two_is_packed_once() -> None:
    shared, x = sparse(40, 30), torch.randn(2, 40)
    first, second = (
        fuse(torch.nn.Sequential(shared, torch.nn.ReLU(), sparse(30, 7)).eval()) for _ in range(2)
    )
    assert isinstance(first, SparseSequential) and isinstance(second, SparseSequential)
    with torch.no_grad():
        expected = [torch.nn.Sequential(*model)(x) for model in (first, second)]
        for _ in range(2):
            for model, y in zip((first, second), expected, strict=True):
                torch.testing.assert_close(model(x), y)
        chains = [steps(model)[0].made[1] for model in (first, second)]  # type: ignore[attr-defined]
        first(x), second(x)
        assert all(steps(m)[0].made[1] is c for m, c in zip((first, second), chains, strict=True))  # type: ignore[attr-defined]
        shared.values.mul_(2)
        assert not torch.equal(first(x), expected[0])
        assert not torch.equal(second(x), expected[1])


def test_copies() -> None:
    model, x = fused(net()), torch.randn(2, 40)
    with torch.no_grad():
        y = model(x)
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert twin._plan is None and torch.equal(twin(x), y)


def test_fuse_finds_nested_and_shared_ones() -> None:
    inner = torch.nn.Sequential(sparse(8, 8), torch.nn.ReLU())
    model = torch.nn.ModuleDict({"a": inner, "b": inner, "c": torch.nn.Sequential(torch.nn.Linear(8, 8))})
    made = fuse(model)
    assert made is model and type(model["a"]) is SparseSequential and model["a"] is model["b"]
    assert type(model["c"]) is torch.nn.Sequential


def test_compiles_and_exports() -> None:
    torch._dynamo.reset()
    model, x = fused(net()), torch.randn(3, 40)
    with torch.no_grad():
        y = model(x)
        torch.testing.assert_close(torch.compile(model, backend="aot_eager", fullgraph=True)(x), y)
        torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), y)


def test_opcheck_and_what_is_refused() -> None:
    first, second, x = sparse(40, 70), sparse(70, 9), torch.randn(5, 40)
    joined = chain([first.packed(), second.packed()], [True, False])
    torch.library.opcheck(_chain_op.native, (x, joined, 9))
    crossed = chain([second.packed(), first.packed()][::-1][:1] * 2, [True, False])  # 70 outputs, 40 inputs
    cut_short = joined[: -second.packed_bytes()]
    with vdk.use_backend("cpu"):
        for bad in (crossed, cut_short, joined[:16], first.packed()):
            with pytest.raises(RuntimeError, match="chain is none that"):
                spmm_chain(x, bad, 9)
        with pytest.raises(RuntimeError, match="x must be"):
            spmm_chain(x, joined, 10)
    for count in (0, MOST_LAYERS + 1):
        with pytest.raises(ValueError, match="a chain has 1 to 64 layers"):
            chain([first.packed()] * count, [False] * count)
