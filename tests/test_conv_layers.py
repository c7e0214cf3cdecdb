"""nn.Conv1d and nn.Conv2d: torch's arguments, granularities, moments, memory formats, surgery."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch.nn.utils import prune

import vdropkern as vdk
from vdropkern import functional as F
from vdropkern import nn as vnn
from vdropkern.methods import GaussianW, Method, SparseVD, VariationalA, VariationalB

ARGUMENTS: list[dict[str, object]] = [
    {},
    {"stride": 2, "padding": 1},
    {"padding": "same"},
    {"padding": "same", "dilation": 2},
    {"padding": "valid", "bias": False},
    {"padding": 2, "dilation": 2, "groups": 2},
    {"groups": 4},
    {"padding": 1, "padding_mode": "reflect"},
    {"padding": "same", "padding_mode": "circular"},
    {"padding": 1, "padding_mode": "replicate", "stride": 2, "groups": 2},
]
EACH = pytest.mark.parametrize("given", ARGUMENTS, ids=lambda g: "-".join(map(str, g.values())) or "plain")
CLASSES = {1: (vnn.Conv1d, torch.nn.Conv1d), 2: (vnn.Conv2d, torch.nn.Conv2d)}
SIZES = {1: (7,), 2: (7, 6)}


@EACH
@pytest.mark.parametrize("spatial", [1, 2])
@pytest.mark.parametrize("method", [SparseVD(-2.0), GaussianW()], ids=str)
def test_training_has_the_stated_moments(given: dict[str, object], spatial: int, method: Method) -> None:
    torch.manual_seed(0)
    ours, theirs = CLASSES[spatial]
    layer = ours(4, 8, 3, method=method, **given)
    plain = theirs(4, 8, 3, **given)
    plain.load_state_dict({k: v for k, v in layer.state_dict().items() if k in ("weight", "bias")})
    x = torch.randn(1, 4, *SIZES[spatial])
    mean = plain(x)
    torch.testing.assert_close(layer.to_dense()(x), layer.eval()(x))
    layer.train()
    sigma2 = layer.log_sigma2.exp() if isinstance(method, SparseVD) else layer.weight**2
    with torch.no_grad():
        plain.weight.copy_(sigma2)
        if plain.bias is not None:
            plain.bias.zero_()
        var = plain(x**2) + 1e-8
        draws = layer(x.expand(4000, *x.shape[1:]))
    assert draws.shape[1:] == mean.shape[1:]
    assert ((draws.mean(0) - mean[0]).abs() < 6 * (var[0] / len(draws)).sqrt()).all()
    assert ((draws.var(0) - var[0]).abs() < 6 * var[0] * math.sqrt(2 / len(draws))).all()


@EACH
def test_it_is_the_functional_op(given: dict[str, object], backend: str) -> None:
    layer, x = vnn.Conv2d(4, 8, 3, method=SparseVD(), **given), torch.randn(2, 4, 7, 6)
    sides = layer._reversed_padding_repeated_twice
    padded = layer.padding_mode != "zeros"
    torch.manual_seed(3)
    y = layer(x)
    torch.manual_seed(3)
    expected = F.conv2d_lrt(
        torch.nn.functional.pad(x, sides, mode=layer.padding_mode) if padded else x,
        layer.weight,
        layer.log_sigma2,
        layer.bias,
        stride=layer.stride,
        padding=0 if padded else layer.padding,
        dilation=layer.dilation,
        groups=layer.groups,
    )
    assert torch.equal(y, expected)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_granularities(groups: int) -> None:
    shapes = {
        "layer": (1, 1, 1, 1),
        "input": (groups, 4 // groups, 1, 1),
        "output": (8, 1, 1, 1),
        "weight": (8, 4 // groups, 3, 2),
    }
    for granularity, shape in shapes.items():
        layer = vnn.Conv2d(4, 8, (3, 2), groups=groups, method=VariationalB(granularity, p=0.2))
        assert layer.log_alpha.shape == shape
        one = F.kl(log_alpha=torch.tensor(math.log(0.25)), prior="log-uniform-kingma")
        torch.testing.assert_close(layer.kl(), layer.weight.numel() * one)
    layer = vnn.Conv2d(4, 8, 3, groups=groups, method=VariationalA(p=0.2))
    torch.testing.assert_close(layer.kl(), 4 * one)
    assert layer.in_units == 4 and layer.out_units == 8


def test_an_input_alpha_of_a_grouped_layer_belongs_to_that_input() -> None:
    layer = vnn.Conv1d(4, 6, 1, groups=2, bias=False, method=VariationalB("input"))
    with torch.no_grad():
        layer.log_alpha.fill_(-20)
        layer.log_alpha[1, 0] = 0.0  # input 2
    for unit in range(4):
        x = torch.zeros(1, 4, 1)
        x[0, unit] = 1.0
        noise = (layer(x) - layer._plain(x)).abs()[0, :, 0] > 1e-3
        assert noise.tolist() == [unit == 2 and out >= 3 for out in range(6)]


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # dynamo's own
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("weights", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("images", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(2, 1, 6, 5), (2, 1, 1, 1), (2, 4, 1, 1)], ids=str)
def test_formats_that_cannot_be_told_apart_are_torchs(
    shape: tuple[int, ...], images: torch.memory_format, weights: torch.memory_format, compiled: bool
) -> None:
    """Of one channel or one pixel an image lies in both formats; strides tell, those of the weights too."""
    torch._dynamo.reset()
    x = torch.empty_like(torch.randn(shape), memory_format=images).normal_().requires_grad_()
    layer = vnn.Conv2d(shape[1], 8, 3, padding=2).to(memory_format=weights)
    dense = torch.nn.Conv2d(shape[1], 8, 3, padding=2).to(memory_format=weights)
    run = torch.compile(layer, backend="aot_eager", fullgraph=True) if compiled else layer
    y, expected = run(x), dense(x)
    assert y.stride() == expected.stride()
    (y.square().sum() + layer.kl()).backward()
    assert x.grad is not None and x.grad.isfinite().all()
    with vdk.use_backend("reference"):
        assert layer(x).stride() == expected.stride()


def test_memory_formats_and_unbatched_input() -> None:
    layer, x = vnn.Conv2d(3, 8, 3, padding=1, method=SparseVD()), torch.randn(2, 3, 6, 5)
    torch.manual_seed(0)
    y = layer(x)
    torch.manual_seed(0)
    last = layer.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, y)
    (last.square().sum() + layer.kl()).backward()
    assert layer.log_sigma2.grad.isfinite().all()
    for ours, shape in ((layer, (3, 6, 5)), (vnn.Conv1d(3, 4, 2), (3, 6))):
        for training in (True, False):
            ours.train(training)
            assert ours(torch.randn(shape)).shape == ours(torch.randn(1, *shape)).shape[1:]


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 4, 3, padding=1, padding_mode="reflect")
        self.depthwise = torch.nn.Conv2d(4, 4, 3, groups=4)
        self.fc = torch.nn.Linear(64, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.depthwise(self.conv(x).relu()).relu().flatten(1))


class MyConv(torch.nn.Conv2d):
    """Computes something else."""


def test_convert_sparsify_save_a_net_with_convolutions(tmp_path: Path) -> None:
    dense = Net()
    assert [row.after for row in vdk.plan_conversion(dense, {"conv": SparseVD(), "fc": VariationalB()})] == [
        "SparseVD()",
        "Conv2d",
        "VariationalB()",
    ]
    net = vdk.convert(dense, SparseVD(), skip=["depthwise"])
    assert type(net.conv) is vnn.Conv2d and type(net.depthwise) is torch.nn.Conv2d
    with torch.no_grad():
        net.conv.log_sigma2[:2] = 4.0
    x = torch.randn(2, 1, 6, 6)
    y = net.eval()(x)
    pruned = vdk.sparsify(net, min_weights=0)
    assert type(pruned.conv) is torch.nn.Conv2d
    torch.testing.assert_close(pruned(x), y)
    plan = {row.name: row for row in vdk.plan_sparsification(net)}
    assert plan["conv"].after == "Conv2d" and "no sparse layer of this kind" in plan["conv"].reason
    assert not plan["depthwise"].changed
    assert {row.name: row.nonzero for row in vdk.sparsity(net).rows}["conv"] == 18
    vdk.save(net, tmp_path / "net")
    loaded = vdk.load(tmp_path / "net", into=Net())
    assert type(loaded.conv) is vnn.Conv2d
    torch.testing.assert_close(loaded.eval()(x), y)
    other = Net()
    other.conv = torch.nn.Conv2d(1, 4, 3, padding=1)
    with pytest.raises(vdk.sparse.ModelFileError, match=r"conv must have \(in_channels.*reflect"):
        vdk.load(tmp_path / "net", into=other)


def test_convolutions_that_are_more_than_their_weight_are_left_or_refused() -> None:
    model = torch.nn.Sequential(MyConv(1, 2, 3), torch.nn.Conv2d(2, 2, 3))
    with pytest.warns(UserWarning, match=r"0 \(MyConv: a subclass of torch.nn.Conv2d"):
        assert type(vdk.convert(model, SparseVD())[0]) is MyConv
    pruned = prune.l1_unstructured(torch.nn.Conv2d(2, 2, 3), "weight", 0.5)
    with pytest.raises(ValueError, match="computed by a hook"):
        vdk.convert(torch.nn.Sequential(pruned), SparseVD())


def test_one_alpha_for_a_whole_net() -> None:
    method = VariationalB("layer", p=0.2)
    model = torch.nn.Sequential(
        vnn.Conv2d(2, 4, 3, groups=2, method=method), torch.nn.Flatten(), vnn.Linear(64, 3, method=method)
    )
    separate = vdk.kl_divergence(model)
    model[2].log_alpha = model[0].log_alpha
    torch.testing.assert_close(vdk.kl_divergence(model), separate)
    weights, noise = vdk.parameter_groups(model, lr=0.1)
    assert len(weights["params"]) == 4 and len(noise["params"]) == 1
    (model(torch.randn(5, 2, 6, 6)).square().sum() + vdk.kl_divergence(model)).backward()
    assert model[0].log_alpha.grad.isfinite().all() and model[0].log_alpha.grad.any()
    assert model.eval()(torch.randn(5, 2, 6, 6)).shape == (5, 3)
    assert model[2].keep_mask().all()
