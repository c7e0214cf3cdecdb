"""nn.Dropout: noise as a module of its own."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

import vdropkern as vdk
from vdropkern import functional as F
from vdropkern import nn as vnn
from vdropkern.methods import (
    METHODS,
    Bernoulli,
    ConcreteDropout,
    GaussianS,
    GaussianW,
    HierarchicalVD,
    Method,
    NoDropout,
    SparseVD,
    VariationalA,
)

AT_INPUT = [
    m
    for m in (cls() for cls in METHODS.values())
    if m.enters in ("nowhere", "input", "gate") and not m.needs_weights
]
ALL = [*AT_INPUT, VariationalA("layer", p=0.3), SparseVD(noise="input"), HierarchicalVD(noise="input")]
EACH = pytest.mark.parametrize("method", ALL, ids=str)


@pytest.mark.parametrize("method", [m for m in ALL if getattr(m, "gate_units", "input") == "input"], ids=str)
def test_it_is_the_layer_with_noise_at_its_input(method: Method) -> None:
    torch.manual_seed(0)
    layer = vnn.Linear(6, 4, method=method)
    dropout = vnn.Dropout(6, method)
    state = {k: v for k, v in layer.state_dict().items() if k not in ("weight", "bias")}
    dropout.load_state_dict({**state, "weight": torch.ones(1, 6)})
    x = torch.randn(5, 6)
    torch.manual_seed(1)
    y = layer(x)
    torch.manual_seed(1)
    torch.testing.assert_close(torch.nn.functional.linear(dropout(x), layer.weight, layer.bias), y)
    torch.testing.assert_close(dropout.kl(), layer.kl())
    torch.testing.assert_close(dropout.penalty(), layer.penalty())
    layer.eval(), dropout.eval()
    expected = torch.nn.functional.linear(dropout(x), layer.weight, layer.bias)
    torch.testing.assert_close(expected, layer(x))
    torch.testing.assert_close(dropout.to_dense()(x), dropout(x))


@EACH
@pytest.mark.parametrize(
    "shape, channel_dim", [((3, 5), -1), ((3, 5, 4), -2), ((3, 5, 4, 2), -3), ((5, 4, 2), -3)]
)
def test_channels_anywhere(method: Method, shape: tuple[int, ...], channel_dim: int) -> None:
    dropout = vnn.Dropout(5, method, channel_dim)
    x = torch.randn(shape, requires_grad=True)
    y = dropout(x)
    assert y.shape == x.shape
    (y.square().sum() + dropout.kl() + dropout.penalty()).backward()
    for p in (x, *dropout.parameters()):
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.any()
    with vdk.use_eval_mode(dropout.eval(), "sample"):
        assert dropout(x).shape == x.shape
    assert dropout(x).shape == x.shape


def test_one_rate_a_channel_before_or_an_element_after_the_flatten() -> None:
    before = torch.nn.Sequential(
        vnn.Dropout(3, VariationalA(), -3), torch.nn.Flatten(), torch.nn.Linear(24, 2)
    )
    after = torch.nn.Sequential(torch.nn.Flatten(), vnn.Dropout(24, VariationalA()), torch.nn.Linear(24, 2))
    assert before[0].log_alpha.shape == (1, 3) and after[1].log_alpha.shape == (1, 24)
    with torch.no_grad():
        before[0].log_alpha.copy_(torch.tensor([[-1.0, -3.0, -20.0]]))
        after[1].log_alpha.copy_(before[0].log_alpha.repeat_interleave(8, 1))
    x = torch.randn(20_000, 1, 1, 1) * 0 + torch.randn(1, 3, 4, 2)
    with torch.no_grad():
        ours = before[0](x).flatten(1)
        theirs = after[1](x.flatten(1))
    torch.testing.assert_close(ours.var(0), theirs.var(0), rtol=0.1, atol=1e-5)
    per_unit = F.kl(log_alpha=before[0].log_alpha, prior="log-uniform-kingma")
    torch.testing.assert_close(vdk.kl_divergence(before), per_unit)
    torch.testing.assert_close(vdk.kl_divergence(after), 8 * per_unit)


def test_pruned_units_are_zero_in_eval() -> None:
    dropout = vnn.Dropout(3, SparseVD(noise="input", threshold=2.0)).eval()
    with torch.no_grad():
        dropout.log_alpha.copy_(torch.tensor([[-4.0, 2.0, 9.0]]))
    x = torch.randn(4, 3)
    assert torch.equal(dropout(x), x * torch.tensor([1.0, 0.0, 0.0]))
    assert dropout.keep_mask().tolist() == [[True, False, False]]


def test_in_a_net(tmp_path: Path) -> None:
    net = torch.nn.Sequential(
        torch.nn.Linear(4, 5), vnn.Dropout(5, VariationalA(p=0.2)), torch.nn.Linear(5, 2)
    )
    groups = vdk.parameter_groups(net, lr=0.1, weight_decay=0.1)
    assert [len(group["params"]) for group in groups] == [4, 1]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    vdk.attach_projection(optimizer, net)
    x = torch.randn(8, 4)
    (net(x).square().mean() + 10 * vdk.kl_divergence(net)).backward()
    optimizer.step()
    assert (net[1].log_alpha <= 0).all()
    vdk.save(net, tmp_path / "m")
    for twin in (vdk.load(tmp_path / "m"), copy.deepcopy(net)):
        torch.manual_seed(0)
        y = net.train()(x)
        torch.manual_seed(0)
        assert torch.equal(twin.train()(x), y)
    dense = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Identity(), torch.nn.Linear(5, 2))
    vdk.load_dense_state_dict(net, dense.state_dict())
    torch.testing.assert_close(net.eval()(x), dense(x))
    torch.testing.assert_close(vdk.sparsify(net)(x), dense(x))
    assert vdk.sparsity(net).weights == 30


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: vnn.Dropout(3, GaussianW()), ValueError, "noise at the input.*pre-activation"),
        (lambda: vnn.Dropout(3, SparseVD(noise="output")), ValueError, "enters at: output"),
        (lambda: vnn.Dropout(3, ConcreteDropout()), ValueError, "the KL of .* is one of a layer's weights"),
        (lambda: vnn.Dropout(0, Bernoulli()), ValueError, "num_units must be >= 1, got 0"),
        (lambda: vnn.Dropout(3, Bernoulli(), 1), ValueError, "channel_dim must be counted from the end.*1"),
        (lambda: vnn.Dropout(3, "bernoulli"), TypeError, "vdropkern.methods"),
        (
            lambda: vnn.Dropout(3, GaussianS())(torch.ones(2, 4)),
            ValueError,
            r"3 units in dimension -1, got \(2, 4\)",
        ),
        (lambda: vnn.Dropout(3, NoDropout(), -3)(torch.ones(3, 4)), ValueError, "dimension -3"),
    ],
)
def test_wrong_use_is_named(make: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()  # type: ignore[operator]
