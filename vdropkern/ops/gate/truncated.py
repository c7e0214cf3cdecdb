"""The truncated normal where naive formulas fail: far from its mean, nearly flat, nearly a point.

All of it goes through Mills' ratio m(x) = Q(x) / phi(x) = sqrt(pi / 2) erfcx(x / sqrt 2), Q = 1 - Phi, which
neither under- nor overflows for x >= 0 (docs/ops/gate.md has the derivations).
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor

_ASYMPTOTIC_FROM = 30.0
_DOUBLE_FACTORIALS = (1, 3, 15, 105, 945, 10395, 135135, 2027025)  # (2 n - 1)!!
_STEPS = 3
LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


def mills(x: Tensor) -> Tensor:
    """m(x) = Q(x) / phi(x) for x >= 0."""
    return math.sqrt(math.pi / 2) * torch.special.erfcx(x * math.sqrt(0.5))


def _series(x: Tensor, coefficients: tuple[int, ...]) -> Tensor:
    """c0 / x^2 - c1 / x^4 + c2 / x^6 - ..."""
    z, total = x.clamp(min=_ASYMPTOTIC_FROM) ** -2, torch.zeros_like(x)
    for c in reversed(coefficients):
        total = z * (c - total)
    return total


def mills_rest(x: Tensor) -> Tensor:
    """1 - x m(x), about 1 / x^2 for large x, where the subtraction would leave nothing."""
    near = x.clamp(max=_ASYMPTOTIC_FROM)
    return torch.where(x < _ASYMPTOTIC_FROM, 1 - near * mills(near), _series(x, _DOUBLE_FACTORIALS))


def mills_curvature(x: Tensor) -> Tensor:
    """1 - e - x^2 e with e = `mills_rest`: about 2 / x^2 for large x."""
    near = x.clamp(max=_ASYMPTOTIC_FROM)
    e = 1 - near * mills(near)
    c = _DOUBLE_FACTORIALS
    steps = tuple(b - a for a, b in itertools.pairwise(c))
    return torch.where(x < _ASYMPTOTIC_FROM, 1 - e - near**2 * e, _series(x, steps))


class Ends(NamedTuple):
    """The interval [low, high] of N(mu, sigma^2), in standard deviations from mu."""

    sigma: Tensor
    alpha: Tensor  # (low - mu) / sigma
    beta: Tensor  # (high - mu) / sigma
    width: Tensor  # (high - low) / sigma


def ends(mu: Tensor, log_sigma2: Tensor, low: float, high: float) -> Ends:
    sigma = torch.exp(0.5 * log_sigma2.clamp(-400.0, 400.0))  # squares of all four stay finite
    return Ends(sigma, (low - mu) / sigma, (high - mu) / sigma, (high - low) / sigma)


def _distance(h: Tensor, m_h: Tensor, s: Tensor) -> Tensor:
    """d with Q(h + d) / Q(h) = exp(-s), for h, s >= 0.

    -log Q is convex with slope 1 / m, and both first guesses lie beyond d, so Newton's steps only fall.
    """
    d = torch.minimum(s * m_h, 2 * s / (h + torch.sqrt(h * h + 2 * s)))
    for _ in range(_STEPS):
        m_t = mills(h + d)
        excess = d * (h + 0.5 * d) - torch.log(m_t / m_h) - s
        step = excess * m_t
        # Halley's correction: the slope's own relative slope is 1 / m - t
        d = (d - step / (1 - 0.5 * step * (1 / m_t - (h + d)))).clamp(min=0)
    return d


class Draw(NamedTuple):
    """A draw y = mu + sigma t and what it changes by."""

    y: Tensor
    by_mu: Tensor
    by_log_sigma: Tensor


def draw(u: Tensor, rest: Tensor, mu: Tensor, log_sigma2: Tensor, low: float, high: float) -> Draw:
    """y with (Phi(t) - Phi(alpha)) / (Phi(beta) - Phi(alpha)) = u, t = (y - mu) / sigma, and its derivatives.

    Args:
        u, rest: the quantile and 1 - u, each exact where it is small.
        mu, log_sigma2: float64, broadcastable to u.
        low, high: the interval.

    The draw is a distance from the interval's end that is nearer to mu, or, where mu lies between them, from
    mu to one side: `h` and `k` are the near and the far end of that side, `v` its quantile from the near one.
    dt is that of u held fixed: phi(t) dt = (1 - u) phi(alpha) dalpha + u phi(beta) dbeta.
    """
    sigma, alpha, beta, width = ends(mu, log_sigma2, low, high)
    above, below = alpha >= 0, beta <= 0  # the interval lies above mu, below mu
    inside = ~(above | below)
    left, right = _half_area(alpha.abs()), _half_area(beta.abs())
    z = left + right
    to_left = u * z < left
    mirrored = below | (inside & to_left)
    sign = torch.where(mirrored, -1.0, 1.0)
    h = torch.where(above, alpha, torch.where(below, -beta, 0.0))
    k = torch.where(mirrored, -alpha, beta)
    width = torch.where(inside, k, width)
    v_inside = torch.where(to_left, (left - u * z) / left, (u * z - left) / right).clamp(0, 1)
    w_inside = torch.where(to_left, u * z / left, rest * z / right).clamp(0, 1)
    v = torch.where(above, u, torch.where(below, rest, v_inside))
    w = torch.where(above, rest, torch.where(below, u, w_inside))
    m_h, m_k = mills(h), mills(k)
    far = torch.exp(-0.5 * width * (h + k)) * m_k / m_h  # Q(k) / Q(h)
    p = v * (1 - far)
    s = torch.where(p < 0.25, -torch.log1p(-p), -torch.log(w + v * far))
    d = torch.minimum(_distance(h, m_h, s), width)
    t = h + d
    base = torch.where(above, low, torch.where(below, high, mu))
    y = (base + sign * sigma * d).clamp(low, high)

    w_far = v * torch.exp(-0.5 * (width - d) * (t + k))
    e_h, e_t = mills_rest(h), mills_rest(t)
    gap = torch.where(h < 1, 1 - mills(t) / m_h, (d - t * e_h + h * e_t) / (t * (1 - e_h)))  # 1 - m(t)/m(h)
    stays = gap + w_far * m_k / m_h  # 1 - (the near end's weight)
    w_low = rest * torch.exp(0.5 * (t - alpha.abs()) * (t + alpha.abs()))
    w_high = u * torch.exp(0.5 * (t - beta.abs()) * (t + beta.abs()))
    by_mu = torch.where(inside, 1 - w_low - w_high, stays - w_far)
    by_log_sigma = sigma * torch.where(
        inside, sign * t - w_low * alpha - w_high * beta, sign * (h * stays + d - w_far * k)
    )
    return Draw(y, by_mu, by_log_sigma)


def _half_area(x: Tensor) -> Tensor:
    """Phi(x) - 1/2 for x >= 0."""
    return 0.5 * torch.special.erf(x * math.sqrt(0.5))
