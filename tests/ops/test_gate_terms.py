"""What belongs to the gates' distributions: KL, moments and penalties against numerical integration."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import pytest
import torch
from torch import Tensor

from tests.tolerance import assert_close
from vdropkern import functional as F


def _integrals(mu: Any, log_sigma2: Any) -> tuple[Any, Any, Any]:
    """KL, E[theta] and SNR of the truncated log-normal on [-20, 0], by quadrature in 30 digits."""
    m, sigma = mu, mpmath.exp(log_sigma2 / 2)
    peak = min(max(m, mpmath.mpf(-20)), mpmath.mpf(0))
    off = abs(peak - m)
    width = sigma if off < sigma else sigma**2 / off
    steps = (0, 0.3, 1, 2, 4, 8, 20, 60, 200)
    ends = {min(max(peak + sign * step * width, -20), 0) for step in steps for sign in (-1, 1)}
    points = sorted({mpmath.mpf(-20), mpmath.mpf(0)} | ends)

    def log_density(y: Any) -> Any:
        return -((y - m) ** 2 - (peak - m) ** 2) / (2 * sigma**2)

    def mean(f: Any) -> Any:
        return mpmath.quad(lambda y: mpmath.exp(log_density(y)) * f(y), points)

    z = mean(lambda y: 1)
    kl = mean(log_density) / z - mpmath.log(z) + mpmath.log(20)
    first = mean(mpmath.exp) / z
    variance = mean(lambda y: (mpmath.exp(y) - first) ** 2) / z
    return kl, first, first / mpmath.sqrt(variance)


def float64(x: Any) -> Tensor:
    return torch.tensor(float(x), dtype=torch.float64)


@pytest.mark.parametrize("log_sigma2", [-12.0, -1.0, 3.0, 8.0])
@pytest.mark.parametrize("mu", [-25.0, -20.0, -3.0, 0.5, 5.0])
def test_log_normal_by_quadrature(mu: float, log_sigma2: float) -> None:
    """mu inside and outside the interval, sigma from 0.002 to 55."""
    m, ls = float64(mu).requires_grad_(), float64(log_sigma2).requires_grad_()
    value = F.log_normal_kl(m, ls)
    by_mu, by_log = torch.autograd.grad(value, (m, ls))
    with mpmath.workdps(30):
        a, b, h = mpmath.mpf(mu), mpmath.mpf(log_sigma2), mpmath.mpf(1) / 10**9
        kl, mean, snr = _integrals(a, b)
        d_mu = (_integrals(a + h, b)[0] - _integrals(a - h, b)[0]) / (2 * h)
        d_log = (_integrals(a, b + h)[0] - _integrals(a, b - h)[0]) / (2 * h)
    # values that fall like 1 / sigma^4 are differences of terms of about 1, relative to the interval's width
    scale = 1 + math.exp(log_sigma2 / 2)
    assert_close(value, float64(kl), float64(kl).abs() + scale, 1, "KL")
    # the mean's exponent is a sum of terms up to sigma^2
    assert_close(F.log_normal_mean(m, ls), float64(mean), scale**2 * float64(mean), 1, "mean")
    noise = F.log_normal_snr(m, ls) ** -2
    torch.testing.assert_close(noise, float64(snr) ** -2, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(by_mu, float64(d_mu), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(by_log, float64(d_log), rtol=1e-9, atol=1e-12)


def test_log_normal_extremes() -> None:
    """Finite and in range for any mu and sigma; gradients finite; float32 in, float32 out."""
    mu, ls = torch.cartesian_prod(
        torch.tensor([-1e4, -60.0, -20.0, -1e-30, 0.0, 1e-5, 3.0, 1e4]), torch.linspace(-40, 10, 51)
    ).T
    mu, ls = mu.clone().requires_grad_(), ls.clone().requires_grad_()
    kl = F.log_normal_kl(mu, ls)
    assert kl.dtype == torch.float32 and kl >= 0
    assert all(torch.isfinite(d).all() for d in torch.autograd.grad(kl, (mu, ls)))
    mean, snr = F.log_normal_mean(mu, ls), F.log_normal_snr(mu, ls)
    assert (mean >= 0.999 * math.exp(-20)).all() and (mean <= 1).all()
    assert (snr > 0).all() and (snr <= 1.001e7).all()


def test_log_normal_kl_has_no_second_gradient() -> None:
    mu = torch.zeros(2, requires_grad=True)
    (d,) = torch.autograd.grad(F.log_normal_kl(mu, torch.zeros(2)), mu, create_graph=True)
    with pytest.raises(RuntimeError, match="gradients of gradients"):
        d.sum().backward()


def test_flat_gates_are_noise_and_narrow_ones_are_not() -> None:
    """The rule SNR <= 1: sigma alone decides near the middle, and the prior itself is pruned."""
    mu, ls = torch.tensor([-1.0, -1.0, -10.0, 0.0]), torch.tensor([-10.0, 10.0, 3.0, -4.0])
    assert (F.log_normal_snr(mu, ls) > 1).tolist() == [True, False, False, True]


def test_hard_concrete() -> None:
    """The penalty is P(theta > 0) of the definition; the mean saturates at 0 and 1."""
    a = torch.linspace(-9, 9, 19, dtype=torch.float64, requires_grad=True)
    # theta > 0 where sigmoid((logit u + a) / t) > -low / (high - low)
    threshold = math.log(0.1 / 1.1) * (2 / 3) - a
    expected = (1 - torch.sigmoid(threshold)).sum()
    torch.testing.assert_close(F.hard_concrete_penalty(a), expected)
    assert torch.autograd.gradcheck(F.hard_concrete_penalty, (a,))
    mean = F.hard_concrete_mean(a)
    assert mean[0] == 0 and mean[-1] == 1 and abs(mean[9] - 0.5) < 1e-12
    assert torch.isfinite(F.hard_concrete_penalty(torch.tensor([-1e30, 1e30])))


def test_concrete_dropout_kl() -> None:
    """Gal et al.'s formula as printed, in p; its gradient; finite in the ends of p."""
    w = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    a = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    p = torch.sigmoid(a.detach())
    entropy = -p * p.log() - (1 - p) * (1 - p).log()
    scaled = (w.detach() / (1 - p)).square().sum()  # M: what the kept inputs are multiplied with
    expected = 0.3**2 * (1 - p) / 2 * scaled * (1 / (1 - p)) * (1 - p) - 3 * entropy
    torch.testing.assert_close(F.concrete_dropout_kl(w, a, 3, 0.3), expected[0])
    assert torch.autograd.gradcheck(lambda w, a: F.concrete_dropout_kl(w, a, 3, 0.3), (w, a))
    for end in (-60.0, 20.0):
        logit = torch.tensor(end, requires_grad=True)
        value = F.concrete_dropout_kl(torch.ones(2, 2), logit, 2, 1.0)
        (d,) = torch.autograd.grad(value, logit)
        assert torch.isfinite(value) and torch.isfinite(d)


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: F.log_normal_kl(torch.zeros(2), torch.zeros(3)), r"of one shape, got .*\[2\].*\[3\]"),
        (lambda: F.log_normal_mean(torch.zeros(2), torch.zeros(2), low=1.0), "low < high, got 1.0 and 0.0"),
        (lambda: F.log_normal_snr(torch.zeros(2).int(), torch.zeros(2)), "torch.int32"),
        (lambda: F.hard_concrete_penalty(torch.zeros(2), high=0.5), "high > 1"),
        (lambda: F.hard_concrete_mean(torch.zeros(2), low=0.5), "low must be < 0"),
        (lambda: F.concrete_dropout_kl(torch.ones(2), torch.zeros(1), 2, 0.0), "length_scale must be > 0"),
        (lambda: F.concrete_dropout_kl(torch.ones(2), torch.zeros(2), 2, 1.0), "one element, got .2."),
    ],
)
def test_bad_arguments_are_named(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


def test_log_normal_kl_of_many_models_at_once() -> None:
    mu = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    log_sigma2 = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    together = torch.vmap(F.log_normal_kl)(mu, log_sigma2)
    alone = torch.stack([F.log_normal_kl(*one) for one in zip(mu, log_sigma2, strict=True)])
    torch.testing.assert_close(together, alone)
    of_mu, of_log = torch.vmap(torch.func.grad(F.log_normal_kl, (0, 1)))(mu.detach(), log_sigma2.detach())
    alone.sum().backward()
    torch.testing.assert_close((of_mu, of_log), (mu.grad, log_sigma2.grad))
