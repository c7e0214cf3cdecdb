"""Packed signs in Triton, by the tests of tests/ops: bits and sums to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from vdropkern import use_backend
from vdropkern.ops.sign_ste.reference import pack_bits
from vdropkern.ops.xnor import pack_weight
from vdropkern.ops.xnor import reference as xnor
from vdropkern.ops.xnor import triton as kernels

from ..cases import LAYOUTS
from ..ops import test_xnor as shared
from .interpreter import Launch

HALVES = (torch.float16, torch.bfloat16)


@pytest.fixture(autouse=True)
def _backend() -> Iterator[None]:
    with use_backend("triton"):
        yield


@pytest.mark.parametrize(
    "shape", [(3, 5), (1, 64), (7, 130), (2, 70, 5, 7), (2, 64, 9, 16), (3, 33, 2), (0, 4), (3, 0)], ids=str
)
def test_pack(shape: tuple[int, ...]) -> None:
    shared.test_pack(shape, "triton")


@pytest.mark.parametrize("layout", [*LAYOUTS[1:], "channels_last"])
def test_pack_of_any_layout(layout: str) -> None:
    shared.test_pack_of_any_layout(layout, "triton")


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_pack_half_types(dtype: torch.dtype) -> None:
    x = shared.signs(3, 70, 5).to(dtype)
    t, flip = torch.linspace(-1, 1, 70), pack_bits(torch.arange(70) % 3 == 0)
    assert torch.equal(kernels.xnor_pack(x, t, flip, 1), xnor.xnor_pack(x, t, flip, 1))


# the interpreter's time goes by words of a window and tiles
CONVS = [conv for conv in shared.CONVS if conv[1] < 1000 and conv[2] < 20]


@pytest.mark.parametrize("conv", CONVS, ids=str)
def test_conv(conv: tuple[Any, ...]) -> None:
    shared.test_conv(conv, "triton")


def test_pack_moves_every_byte_once(launches: list[Launch]) -> None:
    for x in (shared.signs(40, 192), shared.signs(2, 128, 8, 20)):
        kernels.xnor_pack(x, None, None, 1)
        (launch,) = launches
        assert launch.loaded == launch.unique == x.numel() * 4
        assert launch.stored == x.numel() // 8
        launches.clear()


def test_operands_are_read_once_a_tile(launches: list[Launch]) -> None:
    """Packed pixels once a column of tiles, weights once a row of tiles."""
    pixels, outputs, words = 2 * kernels.TILE[0], 3 * kernels.TILE[1], 4
    bits, weight = torch.randint(9, (1, 1, pixels, words)), torch.randint(9, (outputs // 8, 1, words, 8))
    geometry = (64 * words, 1, 1, 1, 1, 0, 0, 1, 1)
    kernels.xnor_conv2d(bits, weight, torch.ones(outputs), None, *geometry, True)
    (launch,) = launches
    assert launch.loaded == 8 * (3 * bits.numel() + 2 * weight.numel()) + 4 * 2 * outputs
    assert launch.stored == 4 * pixels * outputs


def test_what_does_not_fit_is_refused() -> None:
    weight = pack_weight(torch.randn(9, 64, 3, 3))
    with pytest.raises(ValueError, match=r"weight \(2, 9, 1, 8\) does not fit 20 outputs"):
        kernels.xnor_conv2d(torch.zeros(1, 5, 5, 1).long(), weight, torch.ones(20), None, 64,
                            3, 3, 1, 1, 1, 1, 1, 1, False)  # fmt: skip
    with pytest.raises(TypeError, match="xnor_pack: the Triton kernels compute in float32"):
        kernels.xnor_pack(torch.randn(3, 2).double(), None, None, 1)
