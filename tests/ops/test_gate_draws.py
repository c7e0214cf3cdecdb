"""What gates are drawn from: exact quantiles, moments, any parameters."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import pytest
import torch

from tests.tolerance import assert_close
from vdropkern import functional as F
from vdropkern.ops.gate.truncated import draw


def _exact_draw(u: Any, mu: float, log_sigma2: float) -> tuple[Any, Any, Any]:
    """y with (Phi(t) - Phi(alpha)) / Z = u by bisection, its derivatives by implicit differentiation."""
    one = mpmath.mpf(1)
    sigma = mpmath.exp(one * log_sigma2 / 2)
    alpha, beta = (-20 - one * mu) / sigma, -one * mu / sigma
    tail = lambda t: mpmath.erfc(t / mpmath.sqrt(2)) / 2  # noqa: E731
    if alpha >= 0:
        share = lambda t: (tail(alpha) - tail(t)) / (tail(alpha) - tail(beta))  # noqa: E731
    else:
        share = lambda t: (tail(-t) - tail(-alpha)) / (tail(-beta) - tail(-alpha))  # noqa: E731
    low, high = alpha, beta
    for _ in range(150):
        t = (low + high) / 2
        low, high = (t, high) if share(t) < u else (low, t)
    a = (1 - u) * mpmath.exp((t * t - alpha * alpha) / 2)
    b = u * mpmath.exp((t * t - beta * beta) / 2)
    return mu + sigma * t, 1 - a - b, sigma * (t - a * alpha - b * beta)


@pytest.mark.parametrize("log_sigma2", [-40.0, -8.0, 0.0, 10.0])
@pytest.mark.parametrize("mu", [-25.0, -20.0, -3.0, -1e-3, 0.0, 5.0])
def test_log_normal_draws(mu: float, log_sigma2: float) -> None:
    """The quantile function and its derivatives in 60 digits, in both tails and for any sigma."""
    for bits in (0, 2**31 + 12345, 2**32 - 1):
        with mpmath.workdps(60):
            exact = _exact_draw((mpmath.mpf(bits) + 0.5) / 2**32, mu, log_sigma2)
        u, rest, m, ls = torch.tensor(
            [(bits + 0.5) / 2**32, (2**32 - 0.5 - bits) / 2**32, mu, log_sigma2], dtype=torch.float64
        )
        scale = 1 + math.exp(log_sigma2 / 2)
        for name, found, expected in zip(
            ("y", "by mu", "by log sigma"), draw(u, rest, m, ls, -20.0, 0.0), exact, strict=True
        ):
            expected = torch.tensor(float(expected), dtype=torch.float64)
            assert_close(found, expected, expected.abs() + scale, 1, f"{name} at {bits}")


def test_draws_have_the_moments_of_their_distribution() -> None:
    """Means over 200 000 draws lie within five standard errors."""
    n = 200_000
    ones = torch.ones(n, 4, dtype=torch.float64)
    mu = torch.tensor([-1.0, 2.0, -19.0, -25.0], dtype=torch.float64)
    ls = torch.tensor([0.0, -1.0, 3.0, 2.0], dtype=torch.float64)
    theta = F.gate(ones, mu, ls, kind="log-normal", seed=1)
    mean, snr = F.log_normal_mean(mu, ls), F.log_normal_snr(mu, ls)
    assert ((theta.mean(0) - mean).abs() < 5 * mean / snr / math.sqrt(n)).all()
    wide = snr > 1  # of the others a sample's variance says little
    torch.testing.assert_close((theta.mean(0) / theta.std(0))[wide], snr[wide], rtol=0.05, atol=0)
    assert wide.sum() == 2

    a = torch.tensor([-3.0, -1.0, 0.5, 3.0], dtype=torch.float64)
    z = F.gate(ones, a, kind="hard-concrete", seed=2)
    open_share = torch.stack([F.hard_concrete_penalty(one) for one in a])
    share = (z > 0).double().mean(0)
    assert ((share - open_share).abs() < 5 * (open_share * (1 - open_share) / n).sqrt()).all()

    kept = F.gate(ones, a, kind="concrete", temperature=1e-3, seed=3)  # Bernoulli, nearly
    assert ((kept.mean(0) - 1).abs() < 5 * (a.exp() / n).sqrt()).all()

    normal = F.gate(ones, a, torch.full_like(a, -2.0), kind="normal", seed=4)
    assert ((normal.mean(0) - a).abs() < 5 * math.exp(-1) / math.sqrt(n)).all()
    torch.testing.assert_close(normal.std(0), torch.full_like(a, math.exp(-1)), rtol=0.02, atol=0)
