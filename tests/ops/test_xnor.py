"""xnor_pack, xnor_conv2d, xnor_conv2d_bits: bits and sums against float convolutions of -1 and +1."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as TF
from torch import Tensor

from tests.cases import LAYOUTS, lay_out
from vdropkern import _backend
from vdropkern.ops.sign_ste.reference import pack_bits, unpack_bits
from vdropkern.ops.xnor import pack_weight, unpack_weight, xnor_conv2d, xnor_conv2d_bits, xnor_pack

# N, C, H, W, O, kernel, stride, padding, dilation
CONVS = [
    (1, 1, 1, 1, 1, (1, 1), (1, 1), (0, 0), (1, 1)),
    (2, 64, 5, 7, 8, (3, 3), (1, 1), (1, 1), (1, 1)),
    (3, 70, 6, 5, 13, (3, 3), (1, 1), (1, 1), (1, 1)),
    (2, 129, 9, 8, 65, (3, 2), (2, 1), (1, 0), (1, 1)),
    (2, 3, 7, 9, 5, (3, 3), (1, 2), (2, 3), (2, 2)),
    (1, 20, 3, 4, 70, (5, 5), (1, 1), (4, 4), (1, 1)),  # windows that miss the image
    (40, 300, 1, 1, 33, (1, 1), (1, 1), (0, 0), (1, 1)),  # a linear layer
    (3, 2100, 1, 1, 9, (1, 1), (1, 1), (0, 0), (1, 1)),  # more words than a byte counts
    (9, 66000, 1, 1, 3, (1, 1), (1, 1), (0, 0), (1, 1)),  # more channels than sixteen bits count
    (1, 7300, 3, 3, 33, (3, 3), (1, 1), (1, 1), (1, 1)),  # more taps times channels than that
    (2, 64, 20, 21, 16, (3, 3), (1, 1), (1, 1), (1, 1)),
    (0, 64, 5, 5, 8, (3, 3), (1, 1), (1, 1), (1, 1)),
]


@pytest.fixture(params=["count", "table"])
def counting(request: pytest.FixtureRequest, backend: str) -> Iterator[str]:
    """With the instruction that counts bits, where there is one, and without."""
    if request.param == "table":
        if backend != "cpu-avx512" or not torch.ops.vdropkern.cpu_popcount(-1):
            pytest.skip("runs without the instruction anyway")
        torch.ops.vdropkern.cpu_popcount(0)
    yield request.param
    if _backend.library_error() is None:
        torch.ops.vdropkern.cpu_popcount(1)


def signs(*shape: int, seed: int = 0) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape) + seed))
    x.reshape(-1)[::5] = 0.0  # sign(0) = +1
    x.reshape(-1)[1::5] = -0.0
    return x


def plus_minus(x: Tensor) -> Tensor:
    return torch.where(x >= 0, 1.0, -1.0).double()


@pytest.mark.parametrize(
    "shape", [(3, 5), (1, 64), (7, 130), (2, 70, 5, 7), (2, 64, 9, 16), (3, 33, 2), (0, 4)]
)
def test_pack(shape: tuple[int, ...], backend: str) -> None:
    x = signs(*shape)
    channels = shape[1]
    t = torch.linspace(-1, 1, channels)
    flip = torch.arange(channels) % 3 == 0
    last = x.movedim(1, -1)
    for threshold, flips in ((None, None), (t, None), (t, flip)):
        expected = last < (0 if threshold is None else threshold)
        if flips is not None:
            expected = expected ^ flips
        packed = xnor_pack(x, threshold, None if flips is None else pack_bits(flips), 1)
        assert torch.equal(packed, pack_bits(expected))
        assert torch.equal(unpack_bits(packed, channels), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_pack_of_half_types(dtype: torch.dtype, backend: str) -> None:
    for shape in ((5, 70), (2, 70, 3, 4)):
        x, t = signs(*shape).to(dtype), torch.linspace(-1, 1, 70)
        assert torch.equal(xnor_pack(x, t, None, 1), pack_bits(x.movedim(1, -1).float() < t))


@pytest.mark.parametrize("layout", [*LAYOUTS[1:], "channels_last"])
def test_pack_of_any_layout(layout: str, backend: str) -> None:
    for shape, dim in (((5, 70), -1), ((3, 2, 9), -1), ((2, 70, 3, 4), 1), ((3, 65, 8, 5), 1)):
        x = lay_out(signs(*shape), layout)
        assert torch.equal(xnor_pack(x, None, None, dim), pack_bits(x.movedim(dim, -1) < 0))


def test_weights_come_back() -> None:
    w = signs(13, 70, 3, 2)
    packed = pack_weight(w)
    assert packed.shape == (2, 6, 2, 8)
    assert torch.equal(unpack_weight(packed, 13, 70, (3, 2)), plus_minus(w))


@pytest.mark.parametrize("conv", CONVS, ids=str)
def test_conv(conv: tuple, counting: str) -> None:  # type: ignore[type-arg]
    n, c, h, w, o, kernel, stride, padding, dilation = conv
    x, weight = signs(n, c, h, w), signs(o, c, *kernel, seed=1)
    z = TF.conv2d(plus_minus(x), plus_minus(weight), None, stride, padding, dilation)
    bits, packed = xnor_pack(x, None, None, 1), pack_weight(weight)
    geometry = (*kernel, *stride, *padding, *dilation)
    alpha, bias = torch.rand(o) + 0.1, torch.randn(o)
    ones = torch.ones(o)
    for last in (False, True):
        y = xnor_conv2d(bits, packed, ones, None, c, *geometry, last)
        assert torch.equal(y.double(), z)
        assert y.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
        y = xnor_conv2d(bits, packed, alpha, bias, c, *geometry, last)
        assert torch.equal(y, z.float() * alpha[:, None, None] + bias[:, None, None])  # to the bit
    t = torch.arange(o, dtype=torch.int32) - o // 2
    flip = torch.arange(o) % 2 == 0
    expected = (z.movedim(1, -1) < t) ^ flip
    found = xnor_conv2d_bits(bits, packed, t, pack_bits(flip), c, *geometry)
    assert torch.equal(found, pack_bits(expected))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_threads_do_not_matter(count: int, threads: None, backend: str) -> None:
    torch.set_num_threads(count)
    x, w = signs(3, 64, 17, 9), signs(24, 64, 3, 3)
    geometry = (3, 3, 1, 1, 1, 1, 1, 1)
    y = xnor_conv2d(xnor_pack(x, None, None, 1), pack_weight(w), torch.ones(24), None, 64, *geometry, False)
    assert torch.equal(y.double(), TF.conv2d(plus_minus(x), plus_minus(w), None, 1, 1))


def test_opcheck() -> None:
    x, w = signs(2, 70, 5, 6), signs(9, 70, 3, 3)
    ops = torch.ops.vdropkern
    t, flip = torch.zeros(70), pack_bits(torch.ones(70, dtype=torch.bool))
    for image in (x, x.contiguous(memory_format=torch.channels_last)):
        torch.library.opcheck(ops.xnor_pack.default, (image, t, flip, 1))
    torch.library.opcheck(ops.xnor_pack.default, (x, None, None, -1))
    bits, packed = ops.xnor_pack(x, None, None, 1), pack_weight(w)
    geometry = (70, 3, 3, 2, 1, 1, 1, 1, 1)
    for last in (False, True):
        arguments = (bits, packed, torch.ones(9), None, *geometry, last)
        torch.library.opcheck(ops.xnor_conv2d.default, arguments)
    thresholds = (torch.zeros(9, dtype=torch.int32), torch.zeros(1, dtype=torch.int64))
    torch.library.opcheck(ops.xnor_conv2d_bits.default, (bits, packed, *thresholds, *geometry))
