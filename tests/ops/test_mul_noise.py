"""mul_noise: its noise, its gradient, and the CUDA kernel on the emulated GPU against the reference."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import Tensor

from tests.emulator import SCHEDULES, emulated, memory, misaligned
from tests.tolerance import tolerance
from vdropkern.ops.mul_noise import NOISES, mul_noise
from vdropkern.ops.mul_noise.reference import mul_noise as reference
from vdropkern.ops.mul_noise.reference import rows_and_cols
from vdropkern.ops.philox_normal.reference import philox_normal

SEED = torch.tensor(-11)
SHAPES = ((), (1,), (7,), (4, 8), (3, 5), (2, 3, 7), (65, 33), (1, 2050), (300, 3), (0, 4), (3, 0))
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def test_bernoulli_keeps_the_mean() -> None:
    x = torch.full((500, 401), 2.0)
    y = mul_noise(x, SEED, "bernoulli", 0.3)
    assert set(y.unique().tolist()) == {0.0, torch.tensor(2.0).mul(1 / 0.7).item()}
    n = x.numel()
    assert abs((y == 0).double().mean() - 0.3) < 5 * math.sqrt(0.21 / n)


def test_gaussian_is_the_noise_of_philox_normal() -> None:
    x = torch.randn(9, 13, dtype=torch.float64)
    expected = x * (1 + 0.5 * philox_normal(SEED, 9, 13, torch.float64))
    torch.testing.assert_close(mul_noise(x, SEED, "gaussian", 0.25), expected, rtol=1e-15, atol=0)


@pytest.mark.parametrize("noise", NOISES)
def test_no_strength_is_no_noise(noise: str) -> None:
    x = torch.randn(5, 7)
    assert torch.equal(mul_noise(x, SEED, noise, 0.0), x)


@pytest.mark.parametrize("noise", NOISES)
def test_gradients(noise: str) -> None:
    """The backward pass draws the same noise; it may be differentiated again."""
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    call = functools.partial(mul_noise, seed=SEED, noise=noise, strength=0.4)
    assert torch.autograd.gradcheck(call, (x,))
    assert torch.autograd.gradgradcheck(call, (x,))
    (d,) = torch.autograd.grad(call(x).sum(), x)
    torch.testing.assert_close(d * x.detach(), call(x).detach(), rtol=1e-15, atol=0)
    through_func = torch.func.grad(lambda t: call(t).sum())(x.detach())
    assert torch.equal(through_func, d)


def test_saves_nothing_but_the_seed() -> None:
    saved: list[Tensor] = []
    x = torch.randn(64, 64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        mul_noise(x, SEED, "gaussian", 0.5)
    assert [t.numel() for t in saved] == [1]


@pytest.mark.parametrize("noise", NOISES)
def test_opcheck(noise: str) -> None:
    torch.library.opcheck(torch.ops.vdropkern.mul_noise.default, (torch.randn(3, 5), SEED, noise, 0.5))


def on_gpu(x: Tensor, noise: str, strength: float, offset: int = 0) -> Tensor:
    """The kernel's result; x must have been read once and y written once."""
    gpu = emulated()
    kernel = getattr(gpu, f"mul_noise_{str(x.dtype).removeprefix('torch.')}")
    with memory(gpu) as m:
        y, to_y = m.output("y", tuple(x.shape), x.dtype, offset)
        to_x = m.input("x", misaligned(x, offset))
        kernel(to_x, to_y, *rows_and_cols(x), NOISES.index(noise), strength, m.input("seed", SEED))
        bytes_ = x.numel() * x.element_size()
        assert m.traffic() == {"y": (0, bytes_), "x": (bytes_, 0), "seed": (8 if bytes_ else 0, 0)}
    return y


@pytest.mark.parametrize("offset", [0, 1, 3])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cuda_kernel(shape: tuple[int, ...], noise: str, dtype: torch.dtype, offset: int) -> None:
    emulated().configure(SCHEDULES[offset % len(SCHEDULES)])
    x = torch.randn(shape, dtype=torch.float64).to(dtype)
    y = on_gpu(x, noise, 0.3, offset)
    exact = reference(x.double(), SEED, noise, 0.3)
    unit = torch.finfo(dtype).eps / 2
    computed = tolerance(torch.float64 if dtype == torch.float64 else torch.float32, 1)
    allowed = computed * (x.double().abs() + exact.abs()) + (unit * exact.abs() if unit > 1e-6 else 0)
    assert torch.all((y.double() - exact).abs() <= allowed)
    if noise == "bernoulli":
        assert torch.equal(y == 0, exact == 0)
