"""kl: against quadrature of the integrals behind it, published approximations, and Dawson's function."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from scipy.special import dawsn
from torch import Tensor

from tests.cases import CASES
from tests.tolerance import assert_close, tolerance
from vdropkern import functional
from vdropkern.functional import PRIORS
from vdropkern.ops.kl import LOG_ALPHA_PRIORS

K1, K2, K3 = 0.63576, 1.87320, 1.48695
# -3.51 and -1.76 are where Molchanov's approximation is worst
MODERATE = torch.tensor([-6, -5, -4, -3.51, -3, -2, -1.76, -1, 0, 1, 2, 4, 6], dtype=torch.float64)
WIDE = torch.cat(
    [torch.tensor([-60, -40, -25, -12, -math.log(80) - 1e-6], dtype=torch.float64), MODERATE * 5]
)


def kl_each(log_alpha: Tensor, prior: str) -> tuple[Tensor, Tensor]:
    """KL of every weight by itself, and its slope."""
    values = torch.stack([functional.kl(log_alpha=la, prior=prior) for la in log_alpha])
    return values, functional.kl_value_and_grad(log_alpha=log_alpha, prior=prior)[2]


def kl_by_quadrature(log_alpha: float) -> float:
    """KL(N(1, alpha) || log-uniform) = -1/2 ln alpha + E ln|e| + (gamma + ln 2) / 2, e ~ N(1, alpha).

    The prior is improper; this normalisation makes the KL vanish as alpha grows, since ln|e| then becomes
    1/2 ln alpha + ln|N(0, 1)|, whose mean is -(gamma + ln 2) / 2.
    """
    with mpmath.workdps(25):
        sd = mpmath.exp(mpmath.mpf(log_alpha) / 2)

        def density(e: mpmath.mpf) -> mpmath.mpf:
            return mpmath.npdf(e, 1, sd) * mpmath.log(abs(e))

        # ln|e| is singular at 0; the mass is at 1, some standard deviations wide
        marks = {mpmath.mpf(0), mpmath.mpf(1), *(1 + sd * k for k in (-12, -6, -3, -1, 1, 3, 6, 12))}
        mean = mpmath.quad(density, sorted(marks))
        return float(-mpmath.mpf(log_alpha) / 2 + mean + (mpmath.euler + mpmath.log(2)) / 2)


@pytest.fixture(scope="module")
def truth() -> Tensor:
    return torch.tensor([kl_by_quadrature(la) for la in MODERATE.tolist()], dtype=torch.float64)


def test_exact_prior_is_the_integral(truth: Tensor, backend: str) -> None:
    values, _ = kl_each(MODERATE, "log-uniform-exact")
    torch.testing.assert_close(values, truth, rtol=1e-12, atol=1e-13)
    values, _ = kl_each(MODERATE.float(), "log-uniform-exact")
    torch.testing.assert_close(values.double(), truth, rtol=2e-6, atol=0)


def test_exact_slope_is_dawson(backend: str) -> None:
    root = torch.exp(-WIDE / 2) / math.sqrt(2)  # sqrt(u), u = 1 / (2 alpha)
    expected = -root * torch.from_numpy(dawsn(root.numpy()))
    _, slopes = kl_each(WIDE, "log-uniform-exact")
    torch.testing.assert_close(slopes, expected, rtol=1e-14, atol=0)


def test_exact_prior_joins_its_two_expansions(backend: str) -> None:
    """The series ends and the asymptotic expansion begins at u = 40; value and slope do not jump there."""
    la = -math.log(80) + torch.tensor([-1e-9, 1e-9], dtype=torch.float64)
    values, slopes = kl_each(la, "log-uniform-exact")
    assert abs(values[1] - values[0] - 2e-9 * slopes[0]) < 2e-13
    assert abs(slopes[1] - slopes[0]) < 2e-11 + 1e-13


def test_molchanov_error(truth: Tensor, backend: str) -> None:
    """The published approximation is within 0.007 nats of the truth on [-6, 6], up to a constant.

    Taken as 0 at alpha = infinity, as here, it is between 0.0044 below the truth and 0.0094 above.
    """
    values, _ = kl_each(MODERATE, "log-uniform")
    error = values - truth
    assert -0.0044 < error.min() < -0.0043
    assert 0.0093 < error.max() < 0.0094
    assert (error.max() - error.min()) / 2 <= 0.007


def test_kingma_error(backend: str) -> None:
    """The cubic, 0 at alpha = 1, is within 0.0102 nats of the truth's difference on alpha in [0.05, 1]."""
    alpha = torch.tensor([0.05, 0.12, 0.3, 0.5, 0.9, 1.0], dtype=torch.float64)
    true = torch.tensor([kl_by_quadrature(math.log(a)) for a in alpha.tolist()], dtype=torch.float64)
    values, _ = kl_each(alpha.log(), "log-uniform-kingma")
    assert abs(values[-1]) < 1e-15
    assert 0.0101 < (values - (true - true[-1])).abs().max() <= 0.0102


def test_kingma_slopes(backend: str) -> None:
    """dKL/dlog_alpha at alpha = 1, 1/2, 1/4, from the coefficients by hand."""
    _, slopes = kl_each(torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64).log(), "log-uniform-kingma")
    expected = torch.tensor([-0.41627, -0.5496, -0.6301], dtype=torch.float64)
    torch.testing.assert_close(slopes, expected, rtol=0, atol=5e-5)


def test_log_uniform_is_ard_plus_a_bump(backend: str) -> None:
    """KL_log-uniform - KL_ard = k1 sigmoid(-(k2 + k3 la)), never more than k1."""
    values, slopes = kl_each(WIDE, "log-uniform")
    ard, ard_slopes = kl_each(WIDE, "ard")
    bump = K1 * torch.sigmoid(-(K2 + K3 * WIDE))
    torch.testing.assert_close(values - ard, bump, rtol=0, atol=1e-14)
    bump_slope = -K1 * K3 * torch.sigmoid(K2 + K3 * WIDE) * torch.sigmoid(-(K2 + K3 * WIDE))
    torch.testing.assert_close(slopes - ard_slopes, bump_slope, rtol=0, atol=1e-15)


def test_ard_in_mean_and_variance(backend: str) -> None:
    """KL = 1/2 ln(1 + mu^2 / sigma^2); dKL/dmu = mu / (mu^2 + sigma^2), up to the 1e-8 beside mu^2."""
    mu = torch.tensor([0.3, -2.0, 1e-2], dtype=torch.float64, requires_grad=True)
    log_sigma2 = torch.tensor([-1.0, 2.0, -5.0], dtype=torch.float64, requires_grad=True)
    value = functional.kl(mu, log_sigma2, prior="ard")
    d_mu, d_log = torch.autograd.grad(value, [mu, log_sigma2])
    m2, s2 = mu.detach() ** 2, log_sigma2.detach().exp()
    torch.testing.assert_close(value.detach(), 0.5 * torch.log1p(m2 / s2).sum(), rtol=1e-4, atol=0)
    torch.testing.assert_close(d_mu, mu.detach() / (m2 + s2), rtol=2e-4, atol=0)
    torch.testing.assert_close(d_log, -0.5 * m2 / (m2 + s2), rtol=2e-4, atol=0)


@pytest.mark.parametrize("prior", LOG_ALPHA_PRIORS)
def test_value_is_a_sum(prior: str, backend: str) -> None:
    la = MODERATE[MODERATE <= 0]
    values, slopes = kl_each(la, prior)
    together, d_mu, d_log = functional.kl_value_and_grad(log_alpha=la.reshape(1, -1), prior=prior)
    torch.testing.assert_close(together, values.sum(), rtol=1e-14, atol=0)
    assert d_mu is None
    assert torch.equal(d_log, slopes.reshape(1, -1))


@pytest.mark.parametrize("prior", PRIORS)
def test_value_and_grad_equals_autograd(prior: str, backend: str) -> None:
    tensors = {k: t.requires_grad_() for k, t in CASES[f"kl-odd-{prior}"].make().items()}
    value = functional.kl(**tensors, prior=prior)
    expected = torch.autograd.grad(value * 3, list(tensors.values()))
    detached = {k: t.detach() for k, t in tensors.items()}
    scaled = functional.kl_value_and_grad(**detached, prior=prior, scale=torch.tensor(3.0))
    plain = functional.kl_value_and_grad(**detached, prior=prior)
    assert torch.equal(scaled[0], plain[0])
    # the value alone and the value beside gradients may be summed in different orders
    assert_close(scaled[0], value.detach().double(), None, 2 * tensors["mu"].numel(), "value")
    for name, found, one, reference in zip(("d_mu", "d_log"), scaled[1:], plain[1:], expected, strict=True):
        assert found is not None and one is not None
        assert torch.equal(found, reference), name
        assert_close(found, 3 * one.double(), None, 1, name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("prior", [p for p in LOG_ALPHA_PRIORS if p != "log-uniform-kingma"])
def test_mean_zero(prior: str, dtype: torch.dtype, backend: str) -> None:
    """At mu = 0 the KL is as flat as eps makes it: finite, and no pull on mu at all."""
    mu = torch.zeros(9, dtype=dtype, requires_grad=True)
    log_sigma2 = torch.linspace(-20, 4, 9).to(dtype).requires_grad_()
    value = functional.kl(mu, log_sigma2, prior=prior)
    d_mu, d_log = torch.autograd.grad(value, [mu, log_sigma2])
    assert torch.equal(d_mu, torch.zeros_like(d_mu))
    assert torch.isfinite(value)
    assert torch.isfinite(d_log).all()
    assert (d_log <= 0).all()
    assert value > 0


@pytest.mark.parametrize("prior", LOG_ALPHA_PRIORS)
def test_monotone(prior: str, backend: str) -> None:
    """More noise never costs more: every prior here pulls log_alpha upwards."""
    la = torch.linspace(-30, 0 if prior == "log-uniform-kingma" else 30, 301)
    assert (functional.kl_value_and_grad(log_alpha=la, prior=prior)[2] <= 0).all()


@pytest.mark.parametrize("prior", ["log-uniform", "log-uniform-exact", "ard"])
def test_limits(prior: str, backend: str) -> None:
    """KL -> 0 as alpha grows, and -> -1/2 log_alpha + constant as it vanishes."""
    values, slopes = kl_each(torch.tensor([60.0, 87.0], dtype=torch.float32), prior)
    assert (values >= 0).all()
    assert values.max() < 1e-20
    assert slopes.abs().max() < 1e-20
    values, slopes = kl_each(torch.tensor([-60.0, -85.0], dtype=torch.float32), prior)
    assert_close(slopes, torch.full((2,), -0.5, dtype=torch.float64), None, 1, "slope")
    assert values[1] - values[0] == pytest.approx(12.5, rel=1e-6)


@pytest.mark.parametrize("prior", PRIORS)
def test_fused_with_linear_equals_alone(prior: str, backend: str) -> None:
    """tests/ops/test_linear_lrt.py looks at gradients; here only that both ops mean the same number."""
    case = CASES[f"linear_lrt_kl-odd-{prior}"]
    tensors = case.make(torch.float64)
    alone = functional.kl(tensors["mu"], tensors["log_sigma2"], prior=prior)
    torch.testing.assert_close(case.call(tensors)[1], alone, rtol=1e-13, atol=0)


def test_float64_variances_of_float32_means(backend: str) -> None:
    """One float64 parameter makes the computation float64; gradients go back to each parameter's dtype."""
    mu, log_sigma2 = torch.randn(7, 5), torch.randn(7, 5, dtype=torch.float64) - 3
    value, d_mu, d_log = functional.kl_value_and_grad(mu, log_sigma2)
    exact = functional.kl_value_and_grad(mu.double(), log_sigma2)
    assert value.dtype == functional.kl(mu, log_sigma2).dtype == torch.float64
    assert d_mu is not None and exact[1] is not None
    assert torch.equal(value, exact[0])
    assert torch.equal(d_mu, exact[1].float())
    assert torch.equal(d_log, exact[2])
    if backend != "reference":
        arguments = (mu, log_sigma2, None, "log-uniform")
        torch.library.opcheck(torch.ops.vdropkern.kl.default, arguments)
        torch.library.opcheck(torch.ops.vdropkern.kl_grad.default, (torch.ones(()), *arguments))


@pytest.mark.parametrize("prior", ["log-uniform", "ard"])
def test_float32_everywhere(prior: str, backend: str) -> None:
    """Slopes one by one, values by groups of equal weights: no little term is lost in a rounding."""
    la = torch.linspace(-45, 45, 2001)
    truth, _ = kl_each(la[::40].double(), prior)
    found = [functional.kl(log_alpha=one.expand(37), prior=prior) for one in la[::40]]
    assert_close(torch.stack(found), 37 * truth, None, 37, "value")
    slopes = functional.kl_value_and_grad(log_alpha=la.double(), prior=prior)[2]
    assert_close(functional.kl_value_and_grad(log_alpha=la, prior=prior)[2], slopes, None, 1, "slope")


@pytest.mark.parametrize("log_alpha", [-9.0, 0.3, 12.0])
def test_million_weights_sum_without_drift(log_alpha: float, backend: str) -> None:
    """A million equal terms, whose roundings all go one way: float32 only ever sums a block of them."""
    la = torch.full((1_000_003,), log_alpha)
    one = kl_each(la[:1].double(), "log-uniform")[0]
    found = functional.kl(log_alpha=la).double()
    assert abs(found / (one[0] * la.numel()) - 1) < tolerance(torch.float32, 512)


@pytest.mark.parametrize("sd", [1.0, 0.1, 3.0])
def test_normal_prior(sd: float, backend: str) -> None:
    """0, and flat, where the posterior is the prior; torch's KL of two normals elsewhere."""
    prior = "normal" if sd == 1 else f"normal({sd})"
    at_prior = torch.full((5,), 2 * math.log(sd), dtype=torch.float64)
    value, d_mu, d_log = functional.kl_value_and_grad(torch.zeros_like(at_prior), at_prior, prior=prior)
    assert value.abs() < 1e-14
    assert torch.equal(d_mu, torch.zeros_like(at_prior))
    assert d_log.abs().max() < 1e-15
    mu, log_sigma2 = torch.randn(7, dtype=torch.float64), torch.randn(7, dtype=torch.float64)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(mu, (log_sigma2 / 2).exp()),
        torch.distributions.Normal(torch.zeros_like(mu), torch.full_like(mu, sd)),
    )
    torch.testing.assert_close(
        functional.kl(mu, log_sigma2, prior=prior), expected.sum(), rtol=1e-13, atol=1e-13
    )


@pytest.mark.parametrize(
    "prior", ["normal()", "normal(-1)", "normal(0)", "normal(1e99)", "normal(nan)", "Normal"]
)
def test_bad_priors_are_named(prior: str) -> None:
    with pytest.raises(ValueError, match=r"kl: unknown prior '.*'; accepted: log-uniform, .*normal\(s\)"):
        functional.kl(torch.ones(2), torch.ones(2), prior=prior)


def test_normal_prior_needs_the_mean() -> None:
    with pytest.raises(ValueError, match="kl: prior 'normal' needs mu and log_sigma2"):
        functional.kl(log_alpha=torch.ones(2), prior="normal")
    with pytest.raises(ValueError, match="linear_lrt_kl: prior 'normal' needs mu and log_sigma2"):
        functional.linear_lrt_kl(
            torch.ones(2, 3), torch.ones(4, 3), log_alpha=torch.zeros(4, 3), prior="normal"
        )
