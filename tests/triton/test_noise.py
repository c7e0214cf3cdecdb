"""Noise of the Triton kernels: the integers of every backend, normals to a few ulp, each written once."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from vdropkern import _backend
from vdropkern.ops._triton import box_muller
from vdropkern.ops.philox_bits import reference as bits_reference
from vdropkern.ops.philox_normal import reference as normal_reference
from vdropkern.ops.philox_normal import triton as kernels

from ..cases import SEED
from .interpreter import Launch

SHAPES = [(1, 1), (1, 3), (5, 16), (3, 7), (70, 33), (2, 4100), (1030, 5), (0, 4), (4, 0)]
SEEDS = [SEED, 0, -1, 1 << 62]


@triton.jit
def _transform(words, out, N: tl.constexpr):
    i = tl.arange(0, N)
    a, b = box_muller(tl.load(words + 2 * i).to(tl.uint32), tl.load(words + 2 * i + 1).to(tl.uint32))
    tl.store(out + 2 * i, a)
    tl.store(out + 2 * i + 1, b)


@triton.jit
def _tile(tile, rows, cols, groups, counters, offsets, there, ROWS: tl.constexpr, GROUPS: tl.constexpr):
    counter, at, inside = kernels.tile_of(tile, rows, cols, groups, ROWS, GROUPS)
    row = tl.arange(0, ROWS)[:, None]
    tl.store(counters + row * GROUPS + tl.arange(0, GROUPS)[None, :], counter)
    here = row * (4 * GROUPS) + tl.arange(0, 4 * GROUPS)[None, :]
    tl.store(offsets + here, at)
    tl.store(there + here, inside)


def _distance(a: torch.Tensor, b: torch.Tensor) -> int:
    """Largest distance of two float32 tensors, in ulp of the larger."""
    return int(((a - b).abs() / torch.frexp(b.abs().clamp(min=1e-30))[1].float().sub(24).exp2()).max())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("seed", SEEDS)
def test_integers_are_equal(seed: int, shape: tuple[int, int]) -> None:
    key = torch.tensor(seed)
    assert torch.equal(kernels.philox_bits(key, *shape), bits_reference.philox_bits(key, *shape))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_normals(shape: tuple[int, int]) -> None:
    seed = torch.tensor(SEED)
    found = kernels.philox_normal(seed, *shape, torch.float32)
    exact = normal_reference.philox_normal(seed, *shape, torch.float64)
    assert found.shape == exact.shape
    if exact.numel():
        # relative, near the zeros of sine and cosine too
        assert ((found.double() - exact) / exact).abs().max() < 8 * 2**-24


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_normals_are_rounded_once(dtype: torch.dtype) -> None:
    seed = torch.tensor(SEED)
    found = kernels.philox_normal(seed, 33, 50, dtype)
    assert found.dtype == dtype
    assert torch.equal(found, kernels.philox_normal(seed, 33, 50, torch.float32).to(dtype))


@pytest.mark.skipif(_backend.library_error() is not None, reason="needs the compiled library: make kernels")
def test_parity_with_the_cpu_kernels() -> None:
    seed = torch.tensor(SEED)
    op = torch.ops.vdropkern
    assert torch.equal(kernels.philox_bits(seed, 65, 130), op.philox_bits(seed, 65, 130))
    found = kernels.philox_normal(seed, 65, 130, torch.float32)
    assert _distance(found, op.philox_normal(seed, 65, 130, torch.float32)) <= 3


@pytest.mark.parametrize("cols", [2**31 - 5, 2**31 + 3, 2**31 + 40, 2**33 + 7])
@pytest.mark.parametrize("rows, tall", [(1, 1), (3, 2)])
def test_places_beyond_32_bits(rows: int, tall: int, cols: int) -> None:
    """The last two tiles of a row of 2^31 elements and more, where no memory need be had for them."""
    wide = kernels.GROUPS // tall
    groups = (cols + 3) // 4
    across = -(-groups // wide)
    for band in range(-(-rows // tall)):
        for column in (across - 2, across - 1):
            counters = torch.empty(tall, wide, dtype=torch.int64)
            offsets, there = torch.empty(2, tall, 4 * wide, dtype=torch.int64).unbind()
            tile = band * across + column
            _tile[(1,)](tile, rows, cols, groups, counters, offsets, there, ROWS=tall, GROUPS=wide)
            row = (band * tall + torch.arange(tall))[:, None]
            col = column * 4 * wide + torch.arange(4 * wide)[None, :]
            assert torch.equal(counters, row * groups + column * wide + torch.arange(wide)[None, :])
            assert torch.equal(offsets, row * cols + col)
            assert torch.equal(there != 0, (row < rows) & (col < cols))


def test_extreme_words() -> None:
    """Counters beyond 32 bits, and the words that lie next to the logarithm's and the circle's ends."""
    ends = [0, 1, 2, 0x1FFFFFFF, 0x20000000, 0x3FFFFFFF, 0x40000000, 0x7FFFFFFF, 0x80000000, 0xB504F333]
    ends += [0xB504F334, 0xC0000000, 0xDFFFFFFF, 0xE0000000, 0xFFFFFFFE, 0xFFFFFFFF]
    pairs = torch.tensor([(a, b) for a in ends for b in ends])
    out = torch.empty(256, 2)
    _transform[(1,)](pairs, out, N=256)
    u = (pairs.double() + 0.5) * 2.0**-32
    radius, angle = (-2 * u[:, 0].log()).sqrt(), 2 * torch.pi * u[:, 1]
    exact = torch.stack((radius * angle.cos(), radius * angle.sin()), 1)
    assert (out - exact).abs().max() < 6.77 * 8 * 2**-24
    assert out.abs().max() <= 6.77


@pytest.mark.parametrize("shape", [(64, 128), (33, 50)], ids=str)
def test_traffic_is_the_minimum(shape: tuple[int, int], launches: list[Launch]) -> None:
    kernels.philox_normal(torch.tensor(SEED), *shape, torch.float32)
    (launch,) = launches
    assert launch.stored == 4 * shape[0] * shape[1]
    assert launch.loaded == 8 * launch.programs  # the seed
