"""Packed products of signs against float32 products of the same shapes, floats in and floats out."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as TF
from torch import Tensor

import vdropkern as vdk
from vdropkern import nn as vnn
from vdropkern.binary import PackedLayer
from vdropkern.recipes.xnor_resnet18_net import resnet18

from .peers import load
from .specs import Contender, Conv, MissingError, Net, PackedNet

Spec = Net | Conv | PackedNet


def _seeded(seed: int) -> None:
    torch.manual_seed(seed)


def layer_of(spec: Spec) -> torch.nn.Module:
    """The binary layer or net, in eval mode."""
    _seeded(0)
    if isinstance(spec, PackedNet):
        return resnet18(spec.width).eval()
    if isinstance(spec, Net):
        return vnn.BinaryLinear(*spec.dims, norm=False).eval()
    return vnn.BinaryConv2d(
        spec.channels, spec.out, spec.kernel, spec.stride, spec.padding, norm=False
    ).eval()


def input_of(spec: Spec) -> Tensor:
    _seeded(1)
    if isinstance(spec, PackedNet):
        return torch.randn(spec.batch, 3, 32, 32)
    if isinstance(spec, Net):
        return torch.randn(spec.batch, spec.dims[0])
    return torch.randn(spec.batch, spec.channels, spec.size, spec.size)


def _inferring(run: Callable[[], object]) -> Callable[[], object]:
    def inner() -> object:
        with torch.inference_mode():
            return run()

    return inner


def _dense(spec: Spec) -> Callable[[], object]:
    x = input_of(spec)
    if isinstance(spec, PackedNet):
        net = resnet18(spec.width, binary=False).eval()
        return _inferring(lambda: net(x))
    weight = layer_of(spec).weight.detach()
    if isinstance(spec, Net):
        return _inferring(lambda: TF.linear(x, weight))
    return _inferring(lambda: TF.conv2d(x, weight, None, spec.stride, spec.padding))


def _packed(spec: Spec) -> Callable[[], object]:
    x, packed = input_of(spec), vdk.binarize(layer_of(spec))
    return _inferring(lambda: packed(x))


def _prepacked(spec: Spec) -> Callable[[], object]:
    x, packed = input_of(spec), vdk.binarize(layer_of(spec))
    if not isinstance(packed, PackedLayer):
        raise MissingError("a whole net packs its own activations")
    bits = packed.pack(x)
    return _inferring(lambda: packed.from_bits(bits))


def _float_binary(spec: Spec) -> Callable[[], object]:
    x, layer = input_of(spec), layer_of(spec)
    return _inferring(lambda: layer(x))


def _bnn_lab(spec: Spec) -> Callable[[], object]:
    """PackedBinaryXNORLinear: floats in, signs packed, floats out."""
    if not isinstance(spec, Net):
        raise MissingError("bnn-lab packs linear layers alone")
    packed_linear = load("bnn.wrap.packed_linear", "--no-deps bnn-lab")
    layer = packed_linear.PackedBinaryXNORLinear(layer_of(spec).weight)
    x = input_of(spec)
    return _inferring(lambda: layer(x))


CONTENDERS = {
    "dense": Contender("torch float32", _dense, core=True),
    "vdropkern": Contender("vdropkern, floats in, floats out", _packed, core=True),
    "vdropkern-prepacked": Contender("vdropkern, input packed before", _prepacked),
    "bnn-lab": Contender("bnn-lab PackedBinaryXNORLinear", _bnn_lab, package="bnn-lab"),
    "unpacked": Contender("the binary layer in float32", _float_binary),
}


def gate(spec: Spec) -> list[str]:
    """Equal to the float layer to the bit."""
    layer, x = layer_of(spec), input_of(spec)
    with torch.inference_mode():
        found, expected = vdk.binarize(layer)(x), layer(x)
    wrong = int((found != expected).sum())
    return [f"{wrong} of {found.numel()} outputs differ from the float layer's"] if wrong else []


def test_xnor(timed: Callable[[], None]) -> None:
    timed()
