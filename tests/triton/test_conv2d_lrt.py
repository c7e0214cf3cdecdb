"""`conv2d_lrt` in Triton against the float64 truth: every case, formats, arithmetic, the depth in parts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import vdropkern
from vdropkern import _precision
from vdropkern._backend import use_backend
from vdropkern.ops._bands import band_of, waves
from vdropkern.ops.conv2d_lrt import tiles
from vdropkern.ops.conv2d_lrt import triton as kernels

from ..cases import CASES, Case, select
from ..conv_cases import conv
from ..plain import truth
from ..test_generic_ops import results, upstream
from ..tolerance import bound
from . import interpreter
from .interpreter import Launch
from .test_linear_lrt import ROUNDOFF

FEW = ["conv2d_lrt-odd", "conv2d_lrt-stride2", "conv2d_lrt-depthwise", "conv2d_lrt_kl-odd-log-uniform"]


def check(case: Case, tensors: dict[str, Tensor], roundoff: float = 0.0) -> dict[str, Tensor]:
    """Run a case on Triton and hold it to the truth; `roundoff` is that of the products' operands."""
    grads = upstream(case, tensors)
    with use_backend("triton"):
        found = results(case, tensors, grads)
    for name, (expected, magnitude, length) in truth(case, tensors, grads).items():
        allowed = bound(expected, magnitude, found[name].dtype, length) + 3.2 * roundoff * magnitude
        error = (found[name].detach().double() - expected).abs()
        assert (error <= allowed).all(), f"{name}: {(error / allowed).max():.3g} times what is allowed"
    return found


@pytest.mark.parametrize("case", select("conv2d_lrt"), ids=str)
def test_every_case(case: Case) -> None:
    """In float32 without tensor cores, to the same tolerance as every other backend."""
    check(case, case.make(torch.float32))


@pytest.mark.parametrize("name", FEW)
def test_channels_last(name: str) -> None:
    """The same numbers, in x's format."""
    tensors = CASES[name].make(torch.float32)
    plain = check(CASES[name], tensors)
    last = check(CASES[name], {**tensors, "x": tensors["x"].contiguous(memory_format=torch.channels_last)})
    assert last["y"].is_contiguous(memory_format=torch.channels_last)
    for key, t in plain.items():
        torch.testing.assert_close(last[key], t)


@pytest.mark.parametrize(
    "dtype, mean, variance",
    [("float32", "tf32", "auto"), ("float32", "tf32x3", "bf16"), ("bfloat16", "torch", "auto"),
     ("float16", "torch", "auto")],
)  # fmt: skip
def test_arithmetic(dtype: str, mean: str, variance: str) -> None:
    case = CASES["conv2d_lrt_kl-odd-log-uniform"]
    tensors = case.make(getattr(torch, dtype), noise_dtype=torch.float32)
    with vdropkern.use_precision(mean=mean, variance=variance):
        check(case, tensors, max(ROUNDOFF[name] for name in _precision.resolve(tensors["x"].dtype)))


def test_depth_in_parts(launches: list[Launch]) -> None:
    """Few weights and many pixels: with four processors eight parts, added in order."""
    case = conv("parts", (8, 2, 16, 16), 3, (1, 1))
    check(case, case.make(torch.float32))
    assert [launch.programs for launch in launches if launch.kernel == "conv_weight_gradient_kernel"] == [8]


def waves_of(launches: list[Launch], product: str) -> tuple[int, int]:
    """(programs, bytes that waves of three programs loaded) of the one launch of a product."""
    (found,) = (launch for launch in launches if launch.kernel == f"conv_{product}_kernel")
    return found.programs, found.waves


@pytest.mark.parametrize("kernel", [1, 3])
def test_waves(kernel: int, launches: list[Launch], monkeypatch: pytest.MonkeyPatch) -> None:
    """Operands once a wave, in the order and of the bytes that `traffic.of_convolution` reckons with.

    Three by three, the patches at a wave's edges reach beyond its pixels: by no more than two rows of an
    image a tile.
    """
    monkeypatch.setattr(interpreter, "wave", 3)
    monkeypatch.setattr(kernels, "MAX_PARTS", 1)
    n, c, size = 3, 128, 8
    x, mu = torch.randn(n, c, size, size), torch.randn(c, c, kernel, kernel) * 0.05
    log, seed = torch.full_like(mu, -4), torch.tensor(3)
    geometry = (1, 1, kernel // 2, kernel // 2, 1, 1, 1)
    y, r, _ = kernels.conv2d_lrt(x, mu, log, None, None, seed, *geometry, "none", 1e-8, math.inf)
    needs = (True, True, False)
    kernels.conv2d_lrt_backward(y, None, x, mu, log, None, r, *geometry, "none", math.inf, *needs)
    for product in tiles.PRODUCTS:
        shape = (n, (c, c), (size * size,) * 2, kernel * kernel, 4, 4)
        down, across, row, column = tiles.grid(product, *shape)
        programs, loaded = waves_of(launches, product)
        assert programs == down * across
        band = band_of(down, across, 4, row, column)
        least = waves(down, across, band, 3, row, column)
        # forward the seed once a wave, the input gradient x in its epilogue once a tile
        others = {"forward": 8 * -(-programs // 3), "input_gradient": 4 * x.numel(), "weight_gradient": 0}
        edges = 0
        if kernel > 1 and product != "weight_gradient":
            edges = programs * 2 * (size + 1) * c * (4 if product == "forward" else 8)
        elif kernel > 1:  # a tile of 64 places may begin and end within a channel, of which it has a part
            edges = programs * 4 * n * size * size
            least -= edges
            edges *= 2
        assert least <= loaded - others[product] <= least + edges, product


def test_double_is_refused() -> None:
    case = CASES["conv2d_lrt-odd"]
    with use_backend("triton"), pytest.raises(vdropkern._backend.BackendUnavailableError, match="float32"):
        results(case, case.make(torch.float64), upstream(case, case.make(torch.float64)))
