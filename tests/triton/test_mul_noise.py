"""Multiplicative noise in Triton: the same elements dropped as everywhere, and one pass over memory."""

from __future__ import annotations

import pytest
import torch

from vdropkern.ops.mul_noise import NOISES, reference
from vdropkern.ops.mul_noise import triton as kernels

from ..cases import SEED
from .interpreter import Launch

SHAPES = [(), (7,), (5, 16), (3, 37), (2, 3, 10), (70, 5), (0, 4)]
STRENGTHS = {"bernoulli": (0.0, 2.0**-32, 0.5, 0.9, 1 - 2.0**-33), "gaussian": (0.0, 0.25, 4.0)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("noise", NOISES)
def test_values(noise: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, seed = torch.randn(shape).to(dtype), torch.tensor(SEED)
    for strength in STRENGTHS[noise]:
        found = kernels.mul_noise(x, seed, noise, strength)
        expected = reference.mul_noise(x, seed, noise, strength)
        assert found.dtype == dtype
        if noise == "bernoulli":  # a product of two numbers, rounded once
            assert torch.equal(found, expected)
        else:
            exact = reference.mul_noise(x.double(), seed, noise, strength)
            error = (found.double() - exact).abs()
            size = x.double().abs() * (1 + 7 * strength**0.5)  # |e| < 7
            assert (error <= exact.abs() * torch.finfo(dtype).eps / 2 + 8 * 2.0**-24 * size + 1e-7).all()


def test_strided_input() -> None:
    x, seed = torch.randn(9, 14).mT, torch.tensor(SEED)
    assert torch.equal(
        kernels.mul_noise(x, seed, "bernoulli", 0.3), reference.mul_noise(x, seed, "bernoulli", 0.3)
    )


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("shape", [(64, 128), (33, 50)], ids=str)
def test_traffic_is_the_minimum(noise: str, shape: tuple[int, int], launches: list[Launch]) -> None:
    x = torch.randn(shape)
    kernels.mul_noise(x, torch.tensor(SEED), noise, 0.5)
    (launch,) = launches
    assert launch.loaded == 4 * x.numel() + 8 * launch.programs
    assert launch.stored == 4 * x.numel()


def test_double_is_refused() -> None:
    with pytest.raises(TypeError, match="mul_noise: the Triton kernels compute in float32"):
        kernels.mul_noise(torch.randn(3).double(), torch.tensor(1), "gaussian", 0.1)
