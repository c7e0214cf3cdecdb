"""binarize: packed nets equal the float ones to the bit, whatever their norms, shapes and order."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor

import vdropkern as vdk
from vdropkern import nn as vnn
from vdropkern.binary import PackedChain, PackedLayer
from vdropkern.binary.thresholds import float_threshold, integer_threshold

from .test_binary_layers import ready

CONVS: list[dict[str, Any]] = [
    {"padding": 1},
    {"stride": 2, "padding": (1, 2), "bias": True},
    {"dilation": 2, "norm": False},
    {"scale": False, "estimator": "stochastic"},
]


def images(*shape: int) -> Tensor:
    """Normals, a quarter of them zero."""
    return torch.randn(shape) * (torch.rand(shape) > 0.25)


@pytest.mark.parametrize("options", CONVS, ids=str)
@pytest.mark.parametrize("last", [False, True])
def test_conv(options: dict[str, Any], last: bool, backend: str) -> None:
    layer = ready(vnn.BinaryConv2d(70, 20, 3, **options), images(4, 70, 9, 8)).eval()
    packed = vdk.binarize(layer)
    x = images(3, 70, 9, 8)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    y = packed(x)
    assert isinstance(packed, PackedLayer)
    assert torch.equal(y, layer(x))
    assert y.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


@pytest.mark.parametrize("shape", [(9, 130), (2, 3, 130), (130,), (0, 130)])
def test_linear(shape: tuple[int, ...], backend: str) -> None:
    layer = ready(vnn.BinaryLinear(130, 21, bias=True), images(9, 130)).eval()
    x = images(*shape)
    assert torch.equal(vdk.binarize(layer)(x), layer(x))


def test_inputs_at_the_norms_threshold(backend: str) -> None:
    """The floats around every channel's threshold, where any other rounding would show."""
    layer = ready(vnn.BinaryLinear(64, 5), torch.randn(30, 64)).eval()
    with torch.no_grad():
        layer.norm.weight[:4] = torch.tensor([0.0, -0.0, 0.0, 1e-30])
    a, b = layer.affine()
    edge = (-b / a).nan_to_num(0.0, 1.0, -1.0)
    near = [edge]
    for _ in range(4):
        up = torch.nextafter(near[-1], torch.tensor(torch.inf))
        down = torch.nextafter(near[0], torch.tensor(-torch.inf))
        near = [down, *near, up]
    x = torch.stack([*near, torch.full((64,), torch.inf), torch.full((64,), -torch.inf)])
    x = torch.where((a == 0) & x.isinf(), 0.0, x)
    assert torch.equal(vdk.binarize(layer)(x), layer(x))


def chain() -> torch.nn.Sequential:
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 40, 3, padding=1),
        vnn.BinaryConv2d(40, 70, 3, padding=1),
        vnn.BinaryConv2d(70, 33, 3, stride=2, padding=1, bias=True),
        vnn.BinaryConv2d(33, 12, 1, norm=False),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        vnn.BinaryLinear(12 * 16, 16),
        vnn.BinaryLinear(16, 10, bias=True),
    )


def test_a_chain_stays_packed(backend: str) -> None:
    net, x = chain(), torch.randn(5, 3, 16, 15).contiguous()
    x = torch.nn.functional.pad(x, (0, 1))
    with torch.no_grad():
        for layer in net:
            if isinstance(layer, (vnn.BinaryConv2d, vnn.BinaryLinear)) and layer.norm is not None:
                torch.nn.init.normal_(layer.norm.weight)  # gammas of both signs
                torch.nn.init.normal_(layer.norm.bias)
    net.train()(x)
    net.eval()
    packed = vdk.binarize(net)
    kinds = [type(m).__name__ for m in packed]
    assert kinds == ["Conv2d", "PackedChain", "MaxPool2d", "Flatten", "PackedChain"]
    assert isinstance(packed[1], PackedChain) and len(packed[1].layers) == 3
    assert torch.equal(packed(x), net(x))
    assert type(net[1]) is vnn.BinaryConv2d  # the net itself is unchanged


def test_inside_modules_of_ones_own(backend: str) -> None:
    class Residual(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = torch.nn.Sequential(
                OrderedDict(first=vnn.BinaryConv2d(8, 8, 3, padding=1), second=vnn.BinaryConv2d(8, 8, 1))
            )
            self.kept = vnn.BinaryConv2d(8, 8, 1, estimator="clipped")

        def forward(self, x: Tensor) -> Tensor:
            return x + self.body(x) + self.kept(x)

    net, x = Residual(), torch.randn(2, 8, 6, 6)
    net.train()(x)
    packed = vdk.binarize(net.eval())
    assert torch.equal(packed(x), net(x))
    assert isinstance(packed.body.first, PackedChain)
    assert isinstance(packed.kept, vnn.BinaryConv2d)


def test_a_module_in_two_places_parts_a_chain(backend: str) -> None:
    relu, x = torch.nn.ReLU(), torch.randn(50, 20)
    layers = [vnn.BinaryLinear(20, 20) for _ in range(3)]
    net = torch.nn.Sequential(layers[0], relu, layers[1], relu, layers[2])
    net.train()(x)
    packed = vdk.binarize(net.eval())
    assert torch.equal(packed(x), net(x))


def test_a_sequence_with_a_forward_of_its_own_is_not_joined(backend: str) -> None:
    class Backwards(torch.nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self[0](self[1](x))
            return x + y

    net, x = Backwards(vnn.BinaryLinear(9, 20), vnn.BinaryLinear(20, 9)), torch.randn(50, 20)
    net.train()(x)
    packed = vdk.binarize(net.eval())
    assert torch.equal(packed(x), net(x))
    assert [type(m) for m in packed] == [PackedLayer, PackedLayer]


def test_state_dict() -> None:
    layers = [ready(vnn.BinaryLinear(20, 6), torch.randn(9, 20)).eval() for _ in range(2)]
    one, other = (vdk.binarize(layer) for layer in layers)
    other.load_state_dict(one.state_dict())
    x = torch.randn(4, 20)
    assert torch.equal(other(x), layers[0](x))
    assert one.weight.numel() * 64 >= 6 * 20
    assert "20, 6" in repr(one)


def test_thresholds_are_where_the_sign_changes() -> None:
    a = torch.tensor([1.0, -2.0, 0.0, 0.0, 1e-38, 3e38])
    b = torch.tensor([0.5, 0.1, 1.0, -1.0, -5.0, -1.0])
    t, flip = float_threshold(a, b)
    x = torch.cat([t.nan_to_num(), torch.randn(50), torch.tensor([3e38, -3e38])])[:, None]
    x = torch.cat([x, torch.nextafter(x, x - 1), torch.nextafter(x, x + 1)])
    assert torch.equal((x < t) ^ flip, x * a + b < 0)
    most = 40
    z = torch.arange(-most, most + 1)[:, None]
    alpha, bias = torch.rand(6), torch.randn(6)
    t = torch.tensor([0.3, -0.2, torch.nan, -torch.inf, torch.inf, 1.0])
    whole, flips = integer_threshold(t, flip, alpha, bias, most)
    assert torch.equal((z < whole) ^ flips, (z * alpha + bias < t) ^ flip)


@pytest.mark.parametrize(
    "layer, said",
    [
        (vnn.BinaryLinear(3, 4, estimator="two-bit"), "its activations are those of 'two-bit', not signs"),
        (vnn.BinaryConv2d(4, 4, 1, groups=2), "it has groups"),
        (vnn.BinaryConv2d(4, 4, 3, padding="same"), "its padding is not a number"),
        (vnn.BinaryLinear(3, 4, input_scale=True), "input scale"),
        (vnn.BinaryLinear(3, 4, dtype=torch.float64), "torch.float64, not float32"),
        (torch.nn.Linear(3, 4), "no binary layer"),
    ],
)
def test_what_cannot_be_packed_is_told(layer: torch.nn.Module, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        vdk.binarize(torch.nn.Sequential(layer))


def test_wrong_inputs_are_named() -> None:
    packed = vdk.binarize(vnn.BinaryConv2d(4, 5, 3))
    for x in (torch.ones(1, 3, 5, 5), torch.ones(4, 5, 5), torch.ones(1, 4, 5, 5, dtype=torch.float64)):
        with pytest.raises(ValueError, match=r"x must be float32 \[N, 4, H, W\], got"):
            packed(x)
