"""Channel gates in Triton, by the tests of tests/ops, and what they ask of memory."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
import triton
import triton.language as tl

from vdropkern import functional as F
from vdropkern import use_backend
from vdropkern.ops.gate import KINDS
from vdropkern.ops.gate import triton as kernels

from ..cases import LAYOUTS, lay_out
from ..ops.test_gate import OPTIONS, SHAPES, check, inputs
from .interpreter import Launch

SEED = torch.tensor(5)


@triton.jit
def _channels(tile, groups, first, channels, cols, gates, WIDE: tl.constexpr, GROUPS: tl.constexpr):
    tl.store(cols + tl.arange(0, 4 * GROUPS), kernels.channels_of(tile, groups, GROUPS))
    tl.store(gates + tl.arange(0, 8), kernels.shared_gates(first.to(tl.int64), channels, WIDE, 8))


@pytest.fixture(autouse=True)
def _backend() -> Iterator[None]:
    with use_backend("triton"):
        yield


@pytest.mark.parametrize("per_sample", [True, False], ids=["sample", "batch"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients(kind: str, shape: str, per_sample: bool) -> None:
    tensors = inputs(kind, shape, "fp32")
    check(tensors, torch.randn(tensors["x"].shape), kind, SHAPES[shape][1], per_sample)


@pytest.mark.parametrize("dtypes", ["bf16", "bf16+fp32", "fp16+fp32"])
@pytest.mark.parametrize("kind", KINDS)
def test_half_types(kind: str, dtypes: str) -> None:
    tensors = inputs(kind, "linear-tall", dtypes)
    check(tensors, torch.randn(tensors["x"].shape).to(tensors["x"].dtype), kind, 1)


@pytest.mark.parametrize("layout", [*LAYOUTS[1:], "channels_last"])
def test_strides(layout: str) -> None:
    tensors, dy = inputs("concrete", "conv2d", "fp32", layout), torch.randn(3, 5, 7, 3)
    check(tensors, dy, "concrete", 1)
    if layout != "channels_last":
        check(inputs("concrete", "conv2d", "fp32"), lay_out(dy, layout), "concrete", 1)
        return
    y = F.gate(**tensors, kind="concrete", seed=1)
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kind", KINDS)
def test_extremes_are_finite(kind: str) -> None:
    location, log_sigma2 = torch.cartesian_prod(
        torch.tensor([-60.0, -20.0, -5.0, -1e-30, 0.0, 3.0, 40.0]), torch.tensor([-40.0, -10.0, 0.0, 10.0])
    ).T.contiguous()
    leaves = {"location": location}
    if kind in ("normal", "log-normal"):
        leaves["log_sigma2"] = log_sigma2
    leaves = {k: t.requires_grad_() for k, t in leaves.items()}
    y = F.gate(torch.ones(50, location.numel()), **leaves, kind=kind, seed=4)
    assert torch.isfinite(y).all()
    if kind == "hard-concrete":
        assert y.min() == 0 and y.max() == 1
    assert all(torch.isfinite(d).all() for d in torch.autograd.grad(y.sum(), list(leaves.values())))


@pytest.mark.parametrize("kind", ["hard-concrete", "concrete"])
def test_nan_is_not_swallowed(kind: str) -> None:
    location = torch.tensor([0.0, math.nan, 1.0], requires_grad=True)
    y = F.gate(torch.ones(4, 3), location, kind=kind, seed=1)
    assert y.isnan().sum(0).tolist() == [0, 4, 0]
    assert torch.autograd.grad(y.sum(), location)[0].isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("shape", ["conv2d-wide", "linear-tall"])
def test_traffic(shape: str, launches: list[Launch]) -> None:
    """x, dy and the results once; gates written and read once."""
    tensors = inputs("concrete", shape, "fp32")
    x, location, dim = tensors["x"], tensors["location"], SHAPES[shape][1]
    dy, gates = torch.randn(x.shape), 4 * x.shape[0] * x.shape[1]
    arguments = (location, None, SEED, "concrete", dim, True, *OPTIONS["concrete"])
    kernels.gate(x, *arguments)
    draw, scale = launches
    assert draw.stored == gates
    assert (scale.loaded, scale.stored) == (4 * x.numel() + gates, 4 * x.numel())
    launches.clear()
    kernels.gate_backward(dy, x, *arguments, True, True)
    draw, scale = launches
    assert draw.stored == 2 * gates
    assert (scale.loaded, scale.stored) == (8 * x.numel() + gates, 4 * x.numel() + gates)
    launches.clear()
    kernels.gate_backward(dy, x, *arguments, True, False)
    assert launches[1].loaded == 4 * x.numel() + gates


@pytest.mark.parametrize("channels", [5, 8, 2**31 + 12, 2**33 + 3])
def test_channels_beyond_32_bits(channels: int) -> None:
    """Of the last tile of a row, and of lines from a row's last channels on into the next."""
    groups, last = -(-channels // 4), 3 * channels - 3
    tile, cols, gates = (
        (groups - 1) // 2,
        torch.zeros(8, dtype=torch.int64),
        torch.zeros(8, dtype=torch.int64),
    )
    _channels[(1,)](tile, groups, last, channels, cols, gates, WIDE=channels >= 2**31, GROUPS=2)
    assert torch.equal(cols, 8 * tile + torch.arange(8))
    assert torch.equal(gates, (last + torch.arange(8)) % channels)


def test_double_is_refused() -> None:
    with pytest.raises(TypeError, match="gate: the Triton kernels compute in float32"):
        kernels.gate(torch.randn(2, 3).double(), torch.zeros(3), None, SEED, "switch", 1, True, 1.0, 0.0, 1.0)
