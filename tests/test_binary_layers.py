"""nn.BinaryLinear and nn.BinaryConv2d: what they compute, their gradients, projection, decoupling."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as TF
from torch import Tensor

import vdropkern as vdk
from vdropkern import functional as F
from vdropkern import nn as vnn

CONVS: list[dict[str, Any]] = [
    {"padding": 1},
    {"stride": 2, "padding": 1, "bias": True},
    {"groups": 2, "padding": (0, 1)},
    {"dilation": 2, "padding": "same", "estimator": "polynomial"},
    {"norm": False, "scale": False, "estimator": "clipped"},
    {"input_scale": True, "padding": 1},
]


def signs(t: Tensor) -> Tensor:
    return torch.where(t >= 0, 1.0, -1.0)


def ready(layer: torch.nn.Module, x: Tensor) -> torch.nn.Module:
    """A layer whose norm has seen data, gammas of both signs among them."""
    if layer.norm is not None:
        torch.nn.init.normal_(layer.norm.weight)
        torch.nn.init.normal_(layer.norm.bias)
    layer.train()(x)
    return layer


@pytest.mark.parametrize("options", CONVS, ids=str)
def test_conv_is_bn_sign_conv(options: dict[str, Any], backend: str) -> None:
    x = torch.randn(3, 4, 9, 7)
    layer = ready(vnn.BinaryConv2d(4, 6, 3, **options), x).eval()
    h = x
    if layer.norm is not None:
        n = layer.norm
        h = TF.batch_norm(x, n.running_mean, n.running_var, n.weight, n.bias, False, 0.0, n.eps)
    s = (h >= 0.5).float() if layer.estimator == "clipped" else signs(h)
    alpha = layer.weight.abs().mean((1, 2, 3)) if layer.scale else torch.ones(6)
    weight = signs(layer.weight) * alpha[:, None, None, None]
    expected = TF.conv2d(s, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)
    if layer.input_scale:
        k = TF.avg_pool2d(h.abs().mean(1, keepdim=True), 3, 1, 1, count_include_pad=True)
        expected = expected * k
    if layer.bias is not None:
        expected = expected + layer.bias[:, None, None]
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
    layer.train()
    if layer.norm is None:  # training computes the same function
        torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(5, 12), (2, 3, 12)])
def test_linear(shape: tuple[int, ...], backend: str) -> None:
    x = torch.randn(shape)
    layer = ready(vnn.BinaryLinear(12, 7, bias=True, input_scale=True), x).eval()
    n = layer.norm
    h = (x - n.running_mean) / (n.running_var + n.eps).sqrt() * n.weight + n.bias
    weight = signs(layer.weight) * layer.weight.abs().mean(1, keepdim=True)
    expected = TF.linear(signs(h), weight) * h.abs().mean(-1, keepdim=True) + layer.bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("gradient", F.GRADIENTS)
def test_gradients_reach_everything(gradient: str, backend: str) -> None:
    layer = vnn.BinaryConv2d(3, 4, 3, padding=1, bias=True, gradient=gradient)
    x = torch.randn(2, 3, 6, 6, requires_grad=True)
    layer(x).sin().sum().backward()
    for name, p in (("x", x), *layer.named_parameters()):
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0, name


def test_projection_centres_and_clamps() -> None:
    net = torch.nn.Sequential(vnn.BinaryConv2d(4, 3, 3), vnn.BinaryLinear(5, 2))
    with torch.no_grad():
        for layer in net:
            layer.weight.normal_(1.0, 3.0)
            layer.norm.weight.fill_(-1.0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    vdk.attach_projection(optimizer, net)
    before = [layer.weight.detach().clone() for layer in net]
    optimizer.step()
    for layer, w in zip(net, before, strict=True):
        assert torch.equal(layer.weight, (w - w.mean(1, keepdim=True)).clamp(-1, 1))
        assert (layer.norm.weight == 0.01).all()


def test_a_net_of_signs_learns(backend: str) -> None:
    """Two classes, the signs of a product, of which a linear layer gets half right."""
    torch.manual_seed(0)
    x = torch.randn(400, 2)
    y = (x[:, 0] * x[:, 1] > 0).long()
    net = torch.nn.Sequential(torch.nn.Linear(2, 64), vnn.BinaryLinear(64, 64), torch.nn.Linear(64, 2))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    vdk.attach_projection(optimizer, net)
    for _ in range(100):
        optimizer.zero_grad()
        TF.cross_entropy(net(x), y).backward()
        optimizer.step()
    assert (net.eval()(x).argmax(1) == y).double().mean() > 0.85


@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_decoupling_computes_the_same(kind: str, backend: str) -> None:
    if kind == "conv":
        x, layer = torch.randn(3, 4, 6, 6), vnn.BinaryConv2d(4, 5, 3, padding=1, estimator="ternary")
    else:
        x, layer = torch.randn(9, 4), vnn.BinaryLinear(4, 5, estimator="ternary")
    ready(layer, x)
    duo = vnn.decouple(layer)
    assert duo[1].estimator == "clipped"
    for mode in (False, True):
        layer.train(mode)
        duo.train(mode)
        torch.testing.assert_close(copy.deepcopy(duo)(x), copy.deepcopy(layer)(x), rtol=1e-5, atol=1e-5)
    duo.train()(x).sum().backward()
    assert duo[1].weight.grad is not None
    assert ("8, 5, kernel_size" if kind == "conv" else "in_features=8") in repr(duo[1])


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_eval_mode_has_the_gradients_of_training(kind: str, scale: bool, backend: str) -> None:
    if kind == "conv":
        x, layer = torch.randn(3, 4, 6, 6), vnn.BinaryConv2d(4, 5, 3, norm=False, scale=scale)
    else:
        x, layer = torch.randn(9, 4), vnn.BinaryLinear(4, 5, norm=False, scale=scale)
    ends = []
    for mode in (True, False):
        layer.train(mode).zero_grad()
        leaf = x.clone().requires_grad_()
        layer(leaf).square().sum().backward()
        ends.append((layer.weight.grad, leaf.grad))
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("gradients", [True, False])
def test_eval_mode_compiles(gradients: bool, backend: str) -> None:
    torch._dynamo.reset()
    layer, x = vnn.BinaryLinear(20, 6).eval(), torch.randn(3, 20)
    run = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with torch.set_grad_enabled(gradients):
        assert torch.equal(run(x), layer(x))


def test_state_dict_and_errors() -> None:
    layer = vnn.BinaryLinear(4, 3)
    twin = vnn.BinaryLinear(4, 3)
    twin.load_state_dict(layer.state_dict())
    assert torch.equal(twin.weight, layer.weight)
    with pytest.raises(ValueError, match="BinaryLinear: unknown estimator 'x'"):
        vnn.BinaryLinear(4, 3, estimator="x")
    with pytest.raises(ValueError, match="BinaryConv2d: unknown gradient 'x'"):
        vnn.BinaryConv2d(4, 3, 1, gradient="x")
    with pytest.raises(ValueError, match="estimator 'ternary'"):
        vnn.decouple(layer)
    with pytest.raises(ValueError, match="a norm, a scale, estimator 'ternary'"):
        vnn.decouple(vnn.BinaryLinear(4, 3, estimator="ternary", scale=False))


@pytest.mark.parametrize("options", [{}, {"norm": False}], ids=str)
def test_linear_without_scale(options: dict[str, Any]) -> None:
    x = torch.randn(5, 4)
    layer = ready(vnn.BinaryLinear(4, 6, scale=False, **options), x).eval()
    torch.testing.assert_close(layer(x), signs(layer.normalise(x)) @ signs(layer.weight).T)


# torch's own compiler does so
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiles_without_graph_break() -> None:
    torch._dynamo.reset()
    x = torch.randn(5, 4)
    net = torch.nn.Sequential(vnn.BinaryLinear(4, 6), vnn.BinaryLinear(6, 3, estimator="swish", bias=True))
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), net(x))
    net.eval()  # its weights' signs and scales need no gradient
    torch.testing.assert_close(compiled(x), net(x))


@pytest.mark.parametrize("channels", [1, 3])
def test_image_without_a_batch(channels: int) -> None:
    layer = vnn.BinaryConv2d(channels, 6, 3, padding=1, input_scale=True)
    x = torch.randn(2, channels, 5, 4)
    layer(x)
    layer.eval()
    torch.testing.assert_close(layer(x[0]), layer(x)[0])
