"""shrink: the same results from less, what goes, and what must stay."""

from __future__ import annotations

import pickle
from collections import OrderedDict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import vdropkern as vdk
from tests.random_nets import Residual, assert_same, random_net
from vdropkern import nn as vnn
from vdropkern.methods import SBP, HierarchicalGate, SparseVD, VariationalA
from vdropkern.sparse import Select, ShrinkError


@pytest.mark.parametrize("kind", ["conv", "mlp"])
@given(seed=st.integers(0, 2**32), inputs=st.booleans())
@settings(max_examples=40, deadline=None, derandomize=True)
def test_the_same_results(kind: str, seed: int, inputs: bool) -> None:
    net, x = random_net(seed, kind)
    small, report = vdk.shrink(net, x[:1], inputs=inputs)
    assert_same(small(x), net, x, str(net))
    assert report.weights_after <= report.weights_before and report.difference < 1e-12
    assert all(remark.startswith(("add", "cat")) for remark in report.remarks), "of the net's input alone"


def linear(weight: list[list[float]], bias: list[float] | None = None) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight), bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        if bias is not None and layer.bias is not None:
            layer.bias.copy_(torch.tensor(bias))
    return layer


def test_dead_units_move_into_the_next_bias() -> None:
    first = linear([[1.0, 0, 0], [0, 0, 0], [0, 2, 0], [0, 0, 0]], [0.0, 3, 1, -2])
    net = nn.Sequential(first, nn.ReLU(), linear([[1.0, 10, 0, 5]]))
    small, report = vdk.shrink(net)
    # unit 1 is 3 always, unit 2 is read by nobody, unit 3 is relu(-2)
    assert torch.equal(small[1 + 1].weight, torch.tensor([[1.0]])) and small[2].bias.item() == 30.0
    assert isinstance(small[0], nn.Sequential) and isinstance(small[0][0], Select)
    assert small[0][0].indices.tolist() == [0]
    assert [(row.name, row.before, row.after) for row in report.rows] == [
        ("0", (4, 3), (1, 1)),
        ("2", (1, 4), (1, 1)),
    ]
    assert (report.weights_before, report.weights_after) == (16, 2)
    assert "weights, zeros included: 16 before, 2 after" in str(report)
    assert net[0].weight.shape == (4, 3) and net.training, "the net itself stays as it is"


def test_a_constant_channel_beside_a_border_of_zeros() -> None:
    """It cannot move into the bias; but one such channel is enough for all."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 3, padding=1)).double()
    with torch.no_grad():
        net[0].weight[1:] = 0
        net[0].bias.copy_(torch.tensor([0.1, 0.5, -1, 2, 3, 0]))
    x = torch.randn(2, 1, 9, 9, dtype=torch.float64)
    small, _ = vdk.shrink(net, x)
    assert small[2].weight.shape == (2, 2, 3, 3)
    assert_same(small(x), net, x, "padded")
    net[2].padding = (0, 0)
    small, _ = vdk.shrink(net, x)
    assert small[2].weight.shape == (2, 1, 3, 3)
    assert_same(small(x), net, x, "not padded")


def test_normalisation_folds_and_dropout_goes() -> None:
    parts = [nn.Linear(5, 4, bias=False), nn.Dropout(), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)]
    net = nn.Sequential(*parts).eval()
    net[2].running_mean.uniform_(-1, 1)
    with torch.no_grad():
        net[2].weight[1], net[2].bias[1] = 0.0, 0.7
    small, report = vdk.shrink(net)
    assert [type(m) for m in small] == [nn.Linear, nn.ReLU, nn.Linear] and small[0].out_features == 3
    assert list(small._modules) == ["0", "3", "4"]
    assert report.gone == ("1 does nothing in evaluation", "2 is folded into 0")
    x = torch.randn(3, 5)
    torch.testing.assert_close(small(x), net(x))


@pytest.mark.parametrize(
    "method", [SBP(), HierarchicalGate(), VariationalA(), SparseVD(noise="input")], ids=str
)
def test_gates_of_units(method: object) -> None:
    """A unit whose gate is shut goes with all that leads to it; a silent gate goes itself."""
    gate = vnn.Dropout(6, method)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in gate.noise_parameters():
            parameter.add_(torch.linspace(-0.3, 0.3, 6).reshape(parameter.shape))
        if isinstance(method, SparseVD):
            gate.log_alpha.copy_(torch.tensor([[9.0, -3, -3, 9, -3, -3]]))
    net = nn.Sequential(vnn.Linear(5, 6), gate, nn.ReLU(), nn.Dropout(), vnn.Linear(6, 3)).eval()
    small, _ = vdk.shrink(net)
    assert not any(isinstance(m, (vnn.Linear, vnn.Dropout, nn.Dropout)) for m in small.modules())
    x = torch.randn(4, 5)
    torch.testing.assert_close(small(x), net(x))
    if isinstance(method, SparseVD):
        assert small[0].out_features == 4
    behind = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), gate, nn.Linear(6, 3)).eval()
    small, _ = vdk.shrink(behind)
    torch.testing.assert_close(small(x), behind(x))
    assert small[0].out_features == int(gate.pruned_weight().count_nonzero())


class LeNet5(nn.Module):
    """In the style of tutorials, functions in its forward."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 8, 5)
        self.fc1, self.fc2 = nn.Linear(128, 12), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x), inplace=True), (2, 2))
        if self.how == "flatten":
            x = torch.flatten(x, 1)
        elif self.how == "size":
            x = x.view(x.size(0), -1)
        elif self.how == "shape":
            x = x.reshape((x.shape[0], -1))
        else:
            x = x.view(-1, 128)
        x = F.dropout(self.fc1(x).relu(), 0.5, self.training)
        return F.log_softmax(self.fc2(x), dim=1)


@pytest.mark.parametrize("how", ["flatten", "size", "shape", "fixed"])
def test_nets_of_functions_keep_their_class(how: str) -> None:
    net = LeNet5(how).eval()
    with torch.no_grad():
        for layer, dead in ((net.conv1, 2), (net.conv2, 3), (net.fc1, 4)):
            layer.weight[:dead] = 0
    small, report = vdk.shrink(net)
    assert type(small) is LeNet5 and small.conv1.out_channels == 4 and small.fc1.out_features == 8
    assert small.conv2.out_channels == (8 if how == "fixed" else 5)
    wanted = ["view (view) needs all of its inputs"] if how == "fixed" else []
    assert [remark for remark in report.remarks if "softmax" not in remark] == wanted
    x = torch.randn(3, 1, 28, 28)
    torch.testing.assert_close(small(x), net(x))


def dead(layer: nn.Linear, bias: float = 1.0) -> nn.Linear:
    """All weights zero, so that every unit is a constant."""
    nn.init.zeros_(layer.weight)
    nn.init.constant_(layer.bias, bias)
    return layer


class Written(nn.Module):
    """Changes a tensor in place after another layer has read it, and before a third does."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = dead(nn.Linear(4, 4), -1.0), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        seen = h[:, :2]
        y = self.b(h)
        seen.add_(x[:, :2])
        h.relu_()
        return y + self.c(h)


class Shared(nn.Module):
    """One layer at two places, another's weight read by a function, units in a place of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.read, self.last = dead(nn.Linear(4, 4)), dead(nn.Linear(4, 4)), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.twice(torch.tanh(self.twice(x))) + F.linear(self.read(x), self.read.weight)
        return self.last(y).transpose(0, 1).softmax(0) * y.size(1)


class Masked(nn.Module):
    """Takes what most calls leave out, names what it gives layers, keeps results, changes its input."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.last = dead(nn.Linear(4, 4)), nn.Linear(4, 2)
        self.kept: list[Tensor] = []

    def forward(
        self, x: Tensor, mask: Tensor | None = None, *, double: bool = False, **kwargs: int
    ) -> Tensor:
        x -= 1
        y = torch.flatten(input=F.relu(self.fc(input=x)), start_dim=1)
        if mask is not None:
            y = y * mask
        self.kept.append(y)
        return self.last(input=2 * y if double else y)


class Graph(nn.Module):
    """Units in the second place of functions, as of a graph's edges times what its nodes hold."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.other, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.matmul(x @ x.T, self.fc(x))
        return self.last(y + torch.where(x > 0, self.other(x), 0.0))


class Branching(nn.Module):
    """Cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = dead(nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) if x.sum() > 0 else x


class Inside(nn.Module):
    """A layer that is also called within what cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.norm = Branching(), nn.BatchNorm1d(4)
        self.fc = self.block.fc

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.norm(self.fc(x)).relu() + 1)


class Unfaithful(nn.Module):
    """Asks of what type its input is, which torch.fx answers otherwise."""

    def __init__(self, fails: bool) -> None:
        super().__init__()
        self.fc, self.fails = nn.Linear(4, 4), fails

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, Tensor):
            return self.fc(x)
        return self.fc(torch.cat(x)) if self.fails else self.fc(-x)


class TokenNorm(nn.Module):
    """BatchNorm1d over dimension 1, which after a linear layer is not that of its units."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm, self.last = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.fc(x[:, None].expand(-1, 4, -1)))).mean((1,))


@pytest.mark.parametrize(
    "net",
    [
        Written(),
        Shared(),
        nn.Sequential(dead(nn.Linear(4, 4)), Branching(), nn.Linear(4, 2)),
        nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2)),
        Masked(),
        Graph(),
        Inside(),
        TokenNorm(),
        nn.Sequential(dead(nn.Linear(4, 4)), nn.Linear(4, 4), nn.Softmax(-1)),
        nn.Sequential(OrderedDict(only=dead(nn.Linear(4, 4)))),
        nn.Linear(4, 3),
        dead(nn.Linear(4, 3)),
        nn.Sequential(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), nn.Linear(4, 2)),
        nn.Sequential(
            nn.Unflatten(1, (2, 2)), nn.Conv1d(2, 3, 3, padding="same"), nn.Flatten(), nn.Linear(6, 2)
        ),
    ],
    ids=lambda net: type(net[1] if isinstance(net, nn.Sequential) and len(net) > 1 else net).__name__,
)
def test_what_cannot_be_followed_stays(net: nn.Module) -> None:
    net.eval()
    if isinstance(net, (TokenNorm, Inside)):
        net.norm.running_mean.uniform_(1, 2)
    sample = torch.randn(5, 4)
    small, report = vdk.shrink(net, kept := sample.clone())
    assert torch.equal(kept, sample)
    pickle.dumps(small)
    for x in (torch.rand(5, 4), torch.rand(5, 4) + 1):
        torch.testing.assert_close(small(x.clone()), net(x.clone()))
    assert report.difference < 1e-5


def test_arguments_that_are_left_out() -> None:
    net, x, mask = Masked().eval(), torch.randn(3, 4), torch.rand(4)
    for sample in ((x,), (x, mask)):
        small, report = vdk.shrink(net, sample)
        assert (small.fc.out_features == 4) == (len(sample) == 2)
        torch.testing.assert_close(small(*(t.clone() for t in sample)), net(*(t.clone() for t in sample)))
        assert len(report.remarks) == len(sample) - 1, "a mask reads all units"


def test_hooks_keep_their_layers_whole() -> None:
    net = nn.Sequential(dead(nn.Linear(4, 4)), nn.ReLU(), nn.Linear(4, 2))
    calls: list[int] = []
    net[0].register_forward_hook(lambda module, args, result: calls.append(1) or result * 2)
    small, report = vdk.shrink(net)
    assert not calls, "a trial run is nobody's business"
    assert small[0].weight.shape == (4, 4) and [r.name for r in report.rows] == ["2"]
    assert report.remarks == ("_0 (0) needs all of its inputs",)
    x = torch.randn(3, 4)
    torch.testing.assert_close(small(x), net.eval()(x))


def test_requires_grad_and_dtype_stay() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).to(torch.bfloat16)
    net[0].weight.requires_grad_(False)
    with torch.no_grad():
        net[0].weight[0] = 0
    small, _ = vdk.shrink(net)
    assert small[0].weight.shape == (3, 4) and small[0].weight.dtype == torch.bfloat16
    assert (small[0].weight.requires_grad, small[2].weight.requires_grad) == (False, True)


def test_errors() -> None:
    with pytest.raises(
        ShrinkError, match=r"shrink: Branching.forward cannot be traced by torch.fx: symbolically"
    ):
        vdk.shrink(Branching())
    with pytest.raises(ShrinkError, match=r"traced by torch.fx, the model fails at cat: "):
        vdk.shrink(Unfaithful(True))
    with pytest.raises(ShrinkError, match=r"Unfaithful traced by torch.fx computes something else"):
        vdk.shrink(Unfaithful(False))
    with pytest.raises(ShrinkError, match="no linear or convolution layer"):
        vdk.shrink(nn.ReLU())
    with pytest.raises(ShrinkError, match="takes none of the inputs that its first layer, a Conv2d"):
        vdk.shrink(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(7, 2)))
    with pytest.raises(TypeError, match=r"^sample_input must be a tensor or a tuple of tensors, got list"):
        vdk.shrink(nn.Linear(2, 2), [1.0])  # type: ignore[arg-type]
    for values, words in (((3, 4), "count must lie between 0"), ((3, 1, 0), "and dim be < 0")):
        with pytest.raises(ValueError, match=words):
            Select(*values)


def test_residual_sums_go_together() -> None:
    """A channel of a residual stream goes where neither side has it and nobody reads it."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), Residual(nn.Linear(6, 6)), nn.ReLU(), nn.Linear(6, 2))
    with torch.no_grad():
        net[0].weight[:3] = 0
        net[2].body.weight[1:4] = 0
        net[2].body.weight[:, 5] = 0
        net[4].weight[:, 5] = 0
    small, _ = vdk.shrink(net)
    # 1 and 2 are constant on both sides; 5 is not read; 0 and 3 live on one side
    assert small[0].out_features == small[4].in_features == 3
    x = torch.randn(4, 3)
    torch.testing.assert_close(small(x), net(x))


def test_a_dead_net_keeps_one_unit_everywhere() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 2)
    )
    for module in net:
        if hasattr(module, "weight"):
            nn.init.zeros_(module.weight)
    small, _ = vdk.shrink(net, torch.randn(1, 3, 4, 4))
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(small(x), net(x))
    assert [tuple(m.weight.shape) for m in (small[0], small[3], small[5])] == [(1, 3, 3, 3), (1, 4), (2, 1)]


def test_random_nets_are_worth_testing() -> None:
    counts = [vdk.shrink(random_net(seed, "conv")[0], random_net(seed, "conv")[1])[1] for seed in range(12)]
    assert sum(report.weights_after < report.weights_before for report in counts) >= 8
