"""mul_noise: its noise and its gradient."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from vdropkern import functional
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


@pytest.mark.parametrize("noise", NOISES)
def test_the_public_function(noise: str) -> None:
    """A seed repeats the noise, torch's generator decides without one; the gradient meets the same noise."""
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    y = functional.mul_noise(x, 0.5, noise=noise, seed=11)
    assert torch.equal(y, functional.mul_noise(x, 0.5, noise=noise, seed=torch.tensor(11)))
    assert not torch.equal(y, functional.mul_noise(x, 0.5, noise=noise, seed=12))
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient * x, y)
    torch.manual_seed(3)
    first = functional.mul_noise(x, 0.5, noise=noise)
    torch.manual_seed(3)
    assert torch.equal(first, functional.mul_noise(x, 0.5, noise=noise))


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"noise": "uniform"}, "unknown noise 'uniform'; accepted: bernoulli, gaussian"),
        ({"strength": 1.0}, r"the p of bernoulli noise, must be in \[0, 1\), got 1.0"),
        ({"strength": -0.1}, "got -0.1"),
        ({"strength": float("nan")}, "got nan"),
        ({"strength": -1.0, "noise": "gaussian"}, r"the alpha of gaussian noise, must be in \[0, inf\)"),
        ({"x": torch.ones(2, dtype=torch.int64)}, "x must be floating, got torch.int64"),
        ({"seed": 2**64}, "seed must fit in 64 signed bits"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        functional.mul_noise(**{"x": torch.ones(2), "strength": 0.5, **arguments})
