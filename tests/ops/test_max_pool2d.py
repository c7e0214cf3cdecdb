"""max_pool2d: exactly what torch's own pooling gives, of any geometry, NaN and infinity among the inputs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import vdropkern as vdk
from tests.threads import with_threads
from vdropkern import _backend
from vdropkern.ops.max_pool2d import PoolGeometry, _op, max_pool2d

ISAS = _backend.cpu_isas()
# rows and columns of the image; the geometry
CASES = {
    "halves": ((8, 12), PoolGeometry(2, 2, 2, 2)),
    "lenet": ((24, 24), PoolGeometry(2, 2, 2, 2)),
    "wide": ((3, 101), PoolGeometry(2, 2, 2, 2)),
    "odd": ((9, 7), PoolGeometry(2, 3, 2, 3)),
    "overlapping": ((23, 38), PoolGeometry(3, 3, 2, 2, 1, 1)),
    "dense": ((13, 37), PoolGeometry(3, 3, 1, 1, 1, 1)),
    "pyramid": ((13, 13), PoolGeometry(13, 13, 1, 1, 6, 6)),
    "fours": ((17, 70), PoolGeometry(4, 4, 4, 4)),
    "gaps": ((16, 33), PoolGeometry(2, 2, 5, 5)),
    "dilated": ((11, 40), PoolGeometry(3, 2, 2, 2, 1, 1, 2, 3)),
    "dilated-once": ((11, 40), PoolGeometry(2, 3, 1, 1, 1, 1, 3, 2)),
    "ceil": ((7, 36), PoolGeometry(3, 3, 2, 2, 0, 0, 1, 1, True)),
    "ceil-behind": ((4, 4), PoolGeometry(2, 2, 3, 3, 1, 1, 1, 1, True)),
    "over-the-image": ((1, 40), PoolGeometry(2, 2, 1, 1, 1, 0, 2, 1)),  # windows that meet no input
    "whole": ((5, 6), PoolGeometry(5, 6, 1, 1)),
    "one": ((1, 1), PoolGeometry(1, 1, 1, 1)),
}


def images(*shape: int) -> Tensor:
    """Negative ones too, with NaN, infinities, and windows of -infinity alone."""
    x = torch.randn(shape)
    flat = x.view(-1)
    flat[3::11], flat[5::13] = float("inf"), -float("inf")
    flat[7::29] = float("nan")
    x[..., :1, :] = -float("inf")
    return x


def check(x: Tensor, g: PoolGeometry) -> None:
    """Exactly torch's, since nothing is computed but which is larger."""
    expected = torch.nn.functional.max_pool2d(x.float(), g[:2], g[2:4], g[4:6], g[6:8], g.ceil_mode)
    for relu in (False, True):
        y = max_pool2d(x, g, relu)
        assert y.dtype == x.dtype and y.is_contiguous()
        same = expected.relu() if relu else expected
        torch.testing.assert_close(y.float(), same.contiguous(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", CASES)
def test_same_as_torch(name: str, backend: str) -> None:
    size, geometry = CASES[name]
    for lead in ((3,), (2, 5), (1, 1)):
        check(images(*lead, *size), geometry)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_types(dtype: torch.dtype, backend: str) -> None:
    size, geometry = CASES["overlapping"]
    check(images(2, 3, *size).to(dtype), geometry)


@pytest.mark.parametrize("shape", [(0, 3, 8, 12), (0, 1, 9, 13)], ids=str)
def test_nothing(shape: tuple[int, ...], backend: str) -> None:
    geometry = CASES["halves"][1]
    assert max_pool2d(torch.randn(shape), geometry).shape == (*shape[:-2], 4, 6)


def test_any_layout(backend: str) -> None:
    size, geometry = CASES["overlapping"]
    x = images(4, 6, *size)
    wide = torch.randn(4, 6, size[0] + 3, 2 * size[1] + 5)
    wide[:, :, 2:-1, 5::2] = x
    expanded = images(1, 6, *size).expand(4, 6, *size)
    for given_ in (x.transpose(2, 3), x[::2, 1:], wide[:, :, 2:-1, 5::2], expanded,
                   x.contiguous(memory_format=torch.channels_last)):  # fmt: skip
        check(given_, geometry)


@pytest.mark.skipif(not ISAS, reason="without kernels there is nothing to read behind an image")
def test_reads_nothing_behind_the_image() -> None:
    """The last rows of the last image end where memory does, as far as a test can say: NaN stands there."""
    for isa in ISAS:
        for size, geometry in CASES.values():
            count = 2 * size[0] * size[1]
            room = torch.full((count + 64,), float("nan"))
            x = room[:count].view(2, *size)
            x.copy_(torch.randn(2, *size))
            with _backend.use_cpu_isa(isa):
                check(x, geometry)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, PoolGeometry]:
    kernel, stride, dilation = (draw(st.tuples(*(st.integers(1, 4),) * 2)) for _ in range(3))
    padding = draw(st.tuples(*(st.integers(0, k // 2) for k in kernel)))
    least = [max(d * (k - 1) + 1 - 2 * p, 1) for k, d, p in zip(kernel, dilation, padding, strict=True)]
    size = [n + draw(st.integers(0, 40)) for n in least]
    torch.manual_seed(draw(st.integers(0, 99)))
    x = images(draw(st.integers(1, 3)), *size)
    return x, PoolGeometry(*kernel, *stride, *padding, *dilation, draw(st.booleans()))


@pytest.mark.parametrize("isa", ISAS)
@given(problem=problems(), threads=st.sampled_from([1, 2]))
@settings(max_examples=80, deadline=None, derandomize=True)
def test_any_geometry(isa: str, problem: tuple[Tensor, PoolGeometry], threads: int) -> None:
    with with_threads(threads), _backend.use_cpu_isa(isa):
        check(*problem)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_threads_do_not_matter(count: int, threads: None, backend: str) -> None:
    torch.set_num_threads(count)
    check(images(5, 7, 64, 66), CASES["overlapping"][1])


def test_opcheck() -> None:
    for name in ("halves", "overlapping", "ceil", "ceil-behind", "over-the-image"):
        size, geometry = CASES[name]
        for x in (torch.randn(2, 3, *size), torch.randn(3, *size).bfloat16()):
            torch.library.opcheck(_op.native, (x, *geometry, True))


def test_refuses() -> None:
    x = torch.randn(2, 3, 6, 6)
    bad = {
        "too small": PoolGeometry(7, 2, 2, 2),
        "out of range": PoolGeometry(2, 2, 0, 2),
        "half of the kernel": PoolGeometry(2, 2, 2, 2, 2, 0),
        "too large": PoolGeometry(2, 2, 2, 1 << 40),
    }
    for geometry in (PoolGeometry(2, 0, 2, 2), PoolGeometry(2, 2, 2, 2, -1, 0), *bad.values()):
        with pytest.raises(RuntimeError):
            max_pool2d(x, geometry)
    if not ISAS:
        return
    with vdk.use_backend("cpu"):
        for words, geometry in bad.items():
            with pytest.raises(RuntimeError, match=words):
                max_pool2d(x, geometry)
        for wrong in (x[0, 0], x[None], x.double(), x.long()):
            with pytest.raises(RuntimeError, match="x must be"):
                max_pool2d(wrong, PoolGeometry(2, 2, 2, 2))
