"""Nets on packed signs on a GPU: equal to the CPU's to the bit, whatever counts the bits."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.ops.test_xnor import CONVS, signs
from tests.test_binary_packed import chain
from vdropkern import binarize, use_backend
from vdropkern.ops.sign_ste.reference import pack_bits
from vdropkern.ops.xnor import pack_weight, xnor_conv2d, xnor_conv2d_bits, xnor_pack

# tiles by the hundred, of both sizes
LARGE = [
    (8, 256, 28, 28, 256, (3, 3), (1, 1), (1, 1), (1, 1)),
    (8, 64, 56, 56, 64, (3, 3), (2, 2), (1, 1), (1, 1)),
    (1024, 4096, 1, 1, 1000, (1, 1), (1, 1), (0, 0), (1, 1)),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(7, 130), (300, 4096), (2, 70, 5, 7), (8, 256, 28, 28), (0, 4)], ids=str)
def test_pack(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, kernels: str) -> None:
    x, channels = signs(*shape).to(dtype), shape[1]
    t, flip = torch.linspace(-1, 1, channels), pack_bits(torch.arange(channels) % 3 == 0)
    for image in (x, x.contiguous(memory_format=torch.channels_last)) if x.ndim == 4 else (x,):
        for threshold, flips in ((None, None), (t, flip)):
            there = [None if given is None else given.to(device) for given in (image, threshold, flips)]
            found = xnor_pack(*there, 1)  # type: ignore[arg-type]
            with use_backend("auto"):
                assert torch.equal(found.cpu(), xnor_pack(image, threshold, flips, 1))


@pytest.mark.parametrize("conv", [*CONVS, *LARGE], ids=str)
def test_conv(conv: tuple[Any, ...], device: torch.device, kernels: str) -> None:
    n, c, h, w, o, kernel, stride, padding, dilation = conv
    with use_backend("auto"):  # the CPU's kernels
        bits = xnor_pack(signs(n, c, h, w), None, None, 1)
    weight = pack_weight(signs(o, c, *kernel, seed=1))
    geometry = (c, *kernel, *stride, *padding, *dilation)
    alpha, bias = torch.rand(o) + 0.1, torch.randn(o)
    there = [t.to(device) for t in (bits, weight, alpha, bias)]
    for last in (False, True):
        found = xnor_conv2d(*there, *geometry, last)
        assert found.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
        with use_backend("auto"):
            assert torch.equal(found.cpu(), xnor_conv2d(bits, weight, alpha, bias, *geometry, last))
    t, flip = torch.arange(o, dtype=torch.int32) - o // 2, pack_bits(torch.arange(o) % 2 == 0)
    found = xnor_conv2d_bits(*there[:2], t.to(device), flip.to(device), *geometry)
    with use_backend("auto"):
        assert torch.equal(found.cpu(), xnor_conv2d_bits(bits, weight, t, flip, *geometry))


def test_a_net(device: torch.device, kernels: str) -> None:
    """The packed layers of a net; the layers between them are torch's own."""
    net, x = chain(), torch.randn(5, 3, 16, 16)
    with use_backend("auto"):
        net.train()(x)
        packed = binarize(net.eval())
        hidden = net[0](x).detach()
        expected = packed[1](hidden)
    assert torch.equal(packed.to(device)[1](hidden.to(device)).cpu(), expected)
