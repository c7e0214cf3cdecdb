"""KL(q || prior) of q(w) = N(mu, sigma^2), mostly as a function of log_alpha = log(sigma^2 / mu^2) alone.

Values and derivatives are closed forms, written as in the papers; see docs/ops/kl.md.
"""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor
from torch.nn.functional import softplus

EPS = 1e-8  # log_alpha = log_sigma2 - log(mu^2 + EPS), as Molchanov et al. (2017) run it
K1, K2, K3 = 0.63576, 1.87320, 1.48695  # Molchanov et al. (2017), eq. 14
C1, C2, C3 = 1.16145124, -1.50204118, 0.58629921  # Kingma et al. (2015), eq. 14
PRIORS = ("log-uniform", "log-uniform-kingma", "log-uniform-exact", "ard", "normal")
LOG_ALPHA_PRIORS = PRIORS[:4]  # whose KL is a function of log_alpha alone

_NORMAL = re.compile(r"normal\(((?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\)")
_LINEAR_ABOVE = 40.0  # softplus(x) = x to float64's precision; torch's default of 20 is good for float32 only
_SERIES_BELOW = 40.0
_SERIES_TERMS = 160
_ASYMPTOTIC_TERMS = 28


def parse_prior(prior: str) -> tuple[str, float]:
    """Name and standard deviation: ``normal(0.1)`` is N(0, 0.1^2), ``normal`` N(0, 1); 1 for all others.

    Raises:
        ValueError: no such prior.
    """
    if prior in PRIORS:
        return prior, 1.0
    match = _NORMAL.fullmatch(prior)
    sd = float(match[1]) if match else 0.0
    if not 1e-15 <= sd <= 1e15:
        accepted = f"{', '.join(PRIORS)}, or normal(s) with 1e-15 <= s <= 1e15"
        raise ValueError(f"unknown prior {prior!r}; accepted: {accepted}")
    return "normal", sd


def molchanov(la: Tensor) -> tuple[Tensor, Tensor]:
    """-KL = k1 sigmoid(k2 + k3 la) - 1/2 log(1 + 1/alpha) - k1 (Molchanov et al. 2017, eq. 14)."""
    s, rest = torch.sigmoid(K2 + K3 * la), torch.sigmoid(-(K2 + K3 * la))  # 1 - s would cancel
    value = 0.5 * softplus(-la, threshold=_LINEAR_ABOVE) + K1 * rest
    return value, -(K1 * K3 * s * rest + 0.5 * torch.sigmoid(-la))


def kingma(la: Tensor) -> tuple[Tensor, Tensor]:
    """-KL = 1/2 la + c1 alpha + c2 alpha^2 + c3 alpha^3 + C for alpha <= 1 (Kingma et al. 2015, eq. 14).

    C = -(c1 + c2 + c3) makes KL(alpha = 1) = 0.
    """
    a = la.exp()
    value = (C1 + C2 + C3) - (0.5 * la + C1 * a + C2 * a**2 + C3 * a**3)
    return value, -(0.5 + C1 * a + 2 * C2 * a**2 + 3 * C3 * a**3)


def ard(la: Tensor) -> tuple[Tensor, Tensor]:
    """KL = 1/2 log(1 + 1/alpha) (Kharitonov et al. 2018; Liu et al. 2019, the hierarchical prior)."""
    return 0.5 * softplus(-la, threshold=_LINEAR_ABOVE), -0.5 * torch.sigmoid(-la)


def exact(la: Tensor) -> tuple[Tensor, Tensor]:
    """The log-uniform prior's KL without approximation, normalised to 0 at alpha -> infinity.

    KL = 2 int_0^sqrt(u) Dawson(t) dt and dKL/dla = -sqrt(u) Dawson(sqrt(u)), u = 1 / (2 alpha).
    With Poisson weights p_k = e^-u u^k / k! both are series of positive terms,
    KL = sum_k p_k (1 + 1/3 + ... + 1/(2k-1)) and dKL/dla = -u sum_k p_k / (2k+1);
    above u = 40 the asymptotic expansion of Dawson's function is exact in float64.
    """
    u = 0.5 * torch.exp(-la)
    small = u.clamp(max=_SERIES_BELOW)
    p, harmonic = torch.exp(-small), 0.0
    value, slope = torch.zeros_like(u), torch.zeros_like(u)
    for k in range(_SERIES_TERMS):
        value += p * harmonic
        slope += p / (2 * k + 1)
        harmonic += 1 / (2 * k + 1)
        p = p * small / (k + 1)
    large = u.clamp(min=_SERIES_BELOW)
    a, tail_value, tail_slope = 1.0, torch.zeros_like(u), torch.zeros_like(u)
    for k in range(1, _ASYMPTOTIC_TERMS):
        a *= (2 * k - 1) / 2
        tail_value += a / (2 * k) * large**-k
        tail_slope += a / 2 * large**-k
    euler_gamma = 0.57721566490153286
    # ln(4u) through la, which stays finite where u overflows
    far_value = 0.5 * (math.log(2) - torch.minimum(la, -torch.log(2 * large)) + euler_gamma) - tail_value
    near = u <= _SERIES_BELOW
    return torch.where(near, value, far_value), torch.where(near, -small * slope, -(0.5 + tail_slope))


_FORMULAS = {
    "log-uniform": molchanov,
    "log-uniform-kingma": kingma,
    "log-uniform-exact": exact,
    "ard": ard,
}


def normal(mu: Tensor, log_sigma2: Tensor, sd: float) -> tuple[Tensor, Tensor, Tensor]:
    """KL(N(mu, sigma^2) || N(0, s^2)) = 1/2 (sigma^2 / s^2 + mu^2 / s^2 - 1 - log sigma^2 + 2 log s).

    Beside the value its derivatives by mu and log_sigma2 (Blundell et al. 2015, arXiv 1505.05424, section
    3.3, with one component of their mixture).
    """
    ratio = log_sigma2.exp() / sd**2
    value = 0.5 * (ratio + mu**2 / sd**2 - 1 - log_sigma2 + 2 * math.log(sd))
    return value, mu / sd**2, 0.5 * (ratio - 1)


def log_alpha_of(mu: Tensor, log_sigma2: Tensor) -> Tensor:
    """log_alpha = log_sigma2 - log(mu^2 + EPS)."""
    return log_sigma2 - torch.log(mu**2 + EPS)


def compute_dtype(*tensors: Tensor | None) -> torch.dtype:
    """float64 as soon as one tensor is, else float32."""
    any_double = any(t is not None and t.dtype == torch.float64 for t in tensors)
    return torch.float64 if any_double else torch.float32


def kl(mu: Tensor | None, log_sigma2: Tensor | None, log_alpha: Tensor | None, prior: str) -> Tensor:
    """Sum of KL over all weights, a scalar in float32 (float64 for float64 parameters)."""
    given = log_alpha if log_alpha is not None else log_sigma2
    assert given is not None
    return kl_grad(torch.ones((), device=given.device), mu, log_sigma2, log_alpha, prior)[0]


def kl_grad(
    grad: Tensor, mu: Tensor | None, log_sigma2: Tensor | None, log_alpha: Tensor | None, prior: str
) -> tuple[Tensor, Tensor, Tensor]:
    """(KL, grad * dKL/dmu, grad * dKL/dlog_sigma2) or (KL, empty, grad * dKL/dlog_alpha)."""
    if log_alpha is not None:
        dtype = compute_dtype(log_alpha)
        value, slope = _FORMULAS[prior](log_alpha.to(dtype))
        return value.sum(), log_alpha.new_empty(0), (grad.to(dtype) * slope).to(log_alpha.dtype)
    assert mu is not None and log_sigma2 is not None
    dtype = compute_dtype(mu, log_sigma2)
    m = mu.to(dtype)
    name, sd = parse_prior(prior)
    if name == "normal":
        value, by_mu, slope = normal(m, log_sigma2.to(dtype), sd)
        scale = grad.to(dtype)
        return value.sum(), (scale * by_mu).to(mu.dtype), (scale * slope).to(log_sigma2.dtype)
    value, slope = _FORMULAS[prior](log_alpha_of(m, log_sigma2.to(dtype)))
    slope = grad.to(dtype) * slope
    dmu = -2 * slope * m / (m**2 + EPS)
    return value.sum(), dmu.to(mu.dtype), slope.to(log_sigma2.dtype)
