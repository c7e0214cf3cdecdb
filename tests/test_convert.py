"""convert: what it changes in a model, what it keeps, what it leaves alone, what it refuses."""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.utils import parametrizations, prune

import vdropkern as vdk
from vdropkern import nn as vnn
from vdropkern.methods import (
    ARD,
    Bernoulli,
    GaussianW,
    Method,
    NoDropout,
    SparseVD,
    VariationalA,
    VariationalB,
)


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = torch.nn.Linear(6, 8)
        self.body = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Linear(8, 8, bias=False), torch.nn.ReLU())
        self.fc2 = torch.nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.body(self.fc1(x)))


class MyLinear(torch.nn.Linear):
    """Computes something else."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return super().forward(input).exp()


def kinds(model: torch.nn.Module) -> dict[str, str]:
    return {
        name: str(m.method) if isinstance(m, vnn.Linear) else type(m).__name__
        for name, m in model.named_modules()
        if isinstance(m, torch.nn.Linear)
    }


@pytest.mark.parametrize(
    "method",
    [NoDropout(), Bernoulli(), GaussianW(), VariationalA(), VariationalB(), SparseVD(), ARD()],
    ids=str,
)
@pytest.mark.parametrize("inplace", [False, True], ids=["copy", "inplace"])
def test_weights_are_kept(method: Method, inplace: bool) -> None:
    model = Net().eval()
    with torch.no_grad():
        for p in model.parameters():  # away from 0, where log_sigma2 = -10 is noise enough to prune
            p.add_(p.sign(), alpha=0.01)
    x, before = torch.randn(4, 6), copy.deepcopy(model.state_dict())
    y, parameters = model(x), dict(model.named_parameters())
    converted = vdk.convert(model, method, inplace=inplace)
    assert kinds(converted) == dict.fromkeys(("fc1", "body.1", "fc2"), str(method))
    assert (converted is model) == inplace
    state = converted.state_dict()
    for name, value in before.items():
        assert torch.equal(state[name], value)
        same = converted.get_parameter(name) is parameters[name]
        assert same == inplace
    torch.testing.assert_close(converted(x), y)  # nothing is pruned to begin with
    if not inplace:
        assert kinds(model) == dict.fromkeys(("fc1", "body.1", "fc2"), "Linear")
        assert torch.equal(model(x), y)


def test_optimizer_of_a_model_converted_in_place_goes_on() -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model.fc1.weight.detach().clone()
    vdk.convert(model, SparseVD(), inplace=True)(torch.randn(4, 6)).sum().backward()
    optimizer.step()
    assert not torch.equal(model.fc1.weight, before)


def test_a_layer_as_the_model() -> None:
    dense = torch.nn.Linear(3, 2)
    made = vdk.convert(dense, SparseVD())
    assert isinstance(made, vnn.Linear) and torch.equal(made.weight, dense.weight)
    assert made.weight is not dense.weight and type(dense) is torch.nn.Linear
    with pytest.raises(ValueError, match="cannot be converted in place"):
        vdk.convert(dense, SparseVD(), inplace=True)
    assert type(vdk.convert(dense, SparseVD(), skip=["(model)"])) is torch.nn.Linear


@pytest.mark.parametrize(
    "method, skip, expected",
    [
        (SparseVD(), ["fc2"], {"fc1": SparseVD(), "body.1": SparseVD(), "fc2": None}),
        (SparseVD(), ["body"], {"fc1": SparseVD(), "body.1": None, "fc2": SparseVD()}),
        (SparseVD(), ["fc?"], {"fc1": None, "body.1": SparseVD(), "fc2": None}),
        (SparseVD(), lambda name, m: m.bias is None, {"fc1": SparseVD(), "body.1": None, "fc2": SparseVD()}),
        ({"fc1": ARD(), "fc*": SparseVD()}, [], {"fc1": ARD(), "body.1": None, "fc2": SparseVD()}),
        ({"fc*": ARD()}, ["fc2"], {"fc1": ARD(), "body.1": None, "fc2": None}),
        (
            lambda name, m: VariationalB() if m.in_features == 8 else None,
            (),
            {"fc1": None, "body.1": VariationalB(), "fc2": VariationalB()},
        ),
    ],
    ids=["name", "prefix", "wildcard", "predicate", "by-name", "by-name-and-skip", "function"],
)
def test_choice_of_layers(method: object, skip: object, expected: dict[str, Method | None]) -> None:
    model = Net()
    plan = vdk.plan_conversion(model, method, skip=skip)  # type: ignore[arg-type]
    converted = vdk.convert(model, method, skip=skip)  # type: ignore[arg-type]
    assert kinds(converted) == {k: "Linear" if m is None else str(m) for k, m in expected.items()}
    assert {row.name: row.after for row in plan} == kinds(converted)
    assert [row.changed for row in plan] == [m is not None for m in expected.values()]


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        ({"method": SparseVD(), "skip": ["fc3"]}, ValueError, "skip has 'fc3'.*fc1, body.1, fc2"),
        ({"method": {"fc9": SparseVD()}}, ValueError, "method has 'fc9'.*fc1, body.1, fc2"),
        ({"method": SparseVD(), "skip": "fc2"}, TypeError, "skip must be a list of names.*'fc2'"),
        ({"method": SparseVD(), "skip": [1]}, TypeError, "skip must hold names, got 1"),
        ({"method": SparseVD}, TypeError, r"method must be a Method as SparseVD\(\)"),
        ({"method": "sparse-vd"}, TypeError, "method must be a Method.*'sparse-vd'"),
        ({"method": lambda name, m: "ard"}, TypeError, "method for 'fc1' must be a Method, got 'ard'"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], error: type[Exception], words: str) -> None:
    model = Net()
    with pytest.raises(error, match=words):
        vdk.convert(model, inplace=True, **arguments)  # type: ignore[arg-type]
    assert set(kinds(model).values()) == {"Linear"}


@pytest.mark.parametrize("inplace", [False, True], ids=["copy", "inplace"])
def test_shared_layers_and_tied_weights_stay_so(inplace: bool) -> None:
    shared = torch.nn.Linear(6, 6)
    tied = torch.nn.Linear(6, 6)
    tied.weight = shared.weight
    model = torch.nn.Sequential(OrderedDict(a=shared, b=torch.nn.ReLU(), c=shared, d=tied))
    converted = vdk.convert(model, SparseVD(), inplace=inplace)
    assert converted.a is converted.c and isinstance(converted.a, vnn.Linear)
    assert converted.d.weight is converted.a.weight and converted.d.log_sigma2 is not converted.a.log_sigma2
    assert [row.name for row in vdk.plan_conversion(model, ARD())] == ["a", "d"]
    both = vdk.convert(torch.nn.Sequential(OrderedDict(a=tied, b=tied)), SparseVD(), skip=["b"])
    assert set(kinds(both).values()) == {"Linear"}  # any of a shared layer's names counts


def test_flags_hooks_device_and_dtype_are_kept() -> None:
    model = Net().double()
    model.fc1.eval()
    model.fc1.weight.requires_grad_(False)
    calls: list[str] = []
    model.fc1.register_forward_hook(lambda *_: calls.append("hook"))
    model.fc2.note = "mine"  # type: ignore[assignment]
    model.fc2.to("meta")
    converted = vdk.convert(model, SparseVD())
    assert (converted.fc1.training, converted.fc2.training) == (False, True)
    assert not converted.fc1.weight.requires_grad and not converted.fc1.log_sigma2.requires_grad
    assert converted.fc1.bias.requires_grad and converted.fc2.log_sigma2.requires_grad
    assert converted.fc1.log_sigma2.dtype == torch.float64 and converted.fc2.log_sigma2.is_meta
    assert converted.fc2.note == "mine"
    converted.fc1(torch.randn(2, 6, dtype=torch.float64))
    assert calls == ["hook"]


def test_other_subclasses_are_left_alone_with_a_warning() -> None:
    model = torch.nn.Sequential(MyLinear(4, 4), torch.nn.Linear(4, 4))
    with pytest.warns(UserWarning, match=r"left 1 of 2 layers.*0 \(MyLinear: a subclass") as caught:
        converted = vdk.convert(model, SparseVD())
    assert caught[0].filename == __file__
    assert kinds(converted) == {"0": "MyLinear", "1": "SparseVD()"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kinds(vdk.convert(model, SparseVD(), skip=["0"])) == kinds(converted)
        plan = vdk.plan_conversion(model, SparseVD())  # a plan says it in its table
    assert "may compute something else" in str(plan)


def test_variational_layers_are_left_alone() -> None:
    model = torch.nn.Sequential(vnn.Linear(4, 4, method=ARD()), torch.nn.Linear(4, 4))
    converted = vdk.convert(model, SparseVD())
    assert kinds(converted) == {"0": "ARD()", "1": "SparseVD()"}
    assert "variational already: ARD()" in str(vdk.plan_conversion(model, SparseVD()))


def weight_normed() -> torch.nn.Linear:
    return parametrizations.weight_norm(torch.nn.Linear(4, 4))


def pruned() -> torch.nn.Linear:
    return prune.random_unstructured(torch.nn.Linear(4, 4), "weight", 0.5)


def lazy() -> torch.nn.Linear:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, that lazy modules are new
        return torch.nn.LazyLinear(4)


def patched() -> torch.nn.Linear:
    layer = torch.nn.Linear(4, 4)
    layer.forward = lambda x: x  # type: ignore[method-assign]
    return layer


@pytest.mark.parametrize(
    "make, words",
    [
        (weight_normed, "parametrized; .*remove_parametrizations"),
        (pruned, "computed by a hook; .*prune.remove"),
        (lazy, "lazy and not initialised"),
        (patched, "patched in its forward"),
    ],
)
def test_layers_that_are_more_than_their_weight_are_refused(
    make: Callable[[], torch.nn.Linear], words: str
) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), make())
    with pytest.raises(ValueError, match=f"convert: '1' is {words}.*or add it to skip"):
        vdk.convert(model, SparseVD(), inplace=True)
    assert type(model[0]) is torch.nn.Linear
    vdk.convert(model, SparseVD(), skip=["1"], inplace=True)
    assert isinstance(model[0], vnn.Linear)


def test_transformer_uses_the_converted_layers_in_eval() -> None:
    # torch's fused path reads linear1.weight, past the layer's forward and its pruning
    encoder = torch.nn.TransformerEncoder(
        torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), 2
    ).eval()
    with pytest.warns(UserWarning, match="MultiheadAttention reads its weight"):
        converted = vdk.convert(encoder, SparseVD())
    x = torch.randn(2, 5, 8)
    padding = torch.zeros(2, 5, dtype=torch.bool)
    padding[1, 3:] = True
    with torch.no_grad():
        torch.testing.assert_close(converted(x), encoder(x))
        for layer in converted.layers:
            layer.linear1.log_sigma2.fill_(4.0)  # everything is noise: linear1 gives its bias alone
            layer.linear1.bias.fill_(-1.0)
            layer.linear2.bias.zero_()
        expected = x
        for layer in converted.layers:
            attended = layer.norm1(expected + layer.self_attn(expected, expected, expected)[0])
            expected = layer.norm2(attended)
        torch.testing.assert_close(converted(x), expected)
        # the first sequence is not padded
        torch.testing.assert_close(converted(x, src_key_padding_mask=padding)[0], expected[0])
        assert vdk.sparsify(converted, max_density=1, min_weights=0)(x).isfinite().all()


def test_dense_checkpoint_into_a_variational_model() -> None:
    dense, model = Net(), vdk.convert(Net(), SparseVD(init_log_sigma2=-7))
    assert vdk.load_dense_state_dict(model, dense.state_dict()) is model
    for name, value in dense.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
    assert (model.fc1.log_sigma2 == -7).all()
    vdk.load_dense_state_dict(model, model.state_dict())  # its own is complete, and fine too

    before = copy.deepcopy(model.state_dict())
    state = dense.state_dict()
    for change, words in (
        ({k: v for k, v in state.items() if k != "fc1.bias"}, "missing: fc1.bias; unknown: none"),
        ({**state, "fc3.weight": torch.ones(1)}, "missing: none; unknown: fc3.weight"),
        ({**state, "fc2.bias": torch.ones(4)}, r"fc2.bias is \(4,\), the model's is \(3,\)"),
    ):
        with pytest.raises(ValueError, match=words):
            vdk.load_dense_state_dict(model, change)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_report_prints_as_a_table() -> None:
    plan = vdk.plan_conversion(Net(), {"fc*": SparseVD()}, skip=["fc2"])
    assert len(plan) == 3
    assert str(plan).splitlines() == [
        "layer   is      becomes     why",
        "fc1     Linear  SparseVD()  a plain torch.nn.Linear",
        "body.1  Linear  Linear      no method given for it",
        "fc2     Linear  Linear      skipped",
    ]
