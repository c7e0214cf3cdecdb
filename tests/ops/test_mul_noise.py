"""mul_noise: its noise and its gradient."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import Tensor

from vdropkern.ops.mul_noise import NOISES, mul_noise
from vdropkern.ops.philox_normal.reference import philox_normal

SEED = torch.tensor(-11)


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
