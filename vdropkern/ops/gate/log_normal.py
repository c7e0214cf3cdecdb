"""The truncated log-normal gate in closed form: KL with its gradient, moments, signal-to-noise ratio.

Neklyudov et al. 2017 (arXiv 1705.07283), equations 8, 11 and 12, rearranged so that nothing over- or
underflows and no two large terms cancel (docs/ops/gate.md). All in float64: a channel has one value of each.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._register import one_by_one, run_backward
from .truncated import LOG_SQRT_2PI, Ends, ends, mills, mills_curvature, mills_rest

_SMALLEST_RATIO = 1e-14  # of a variance to a squared mean, that float64 can tell


class _Side(NamedTuple):
    """An interval to one side of mu, from h to k standard deviations away from it."""

    h: Tensor
    k: Tensor
    m_h: Tensor
    m_k: Tensor
    fall: Tensor  # phi(k) / phi(h)
    area: Tensor  # (Q(h) - Q(k)) / phi(h)


def _side(h: Tensor, width: Tensor) -> _Side:
    k = h + width
    m_h, m_k, fall = mills(h), mills(k), torch.exp(-0.5 * width * (h + k))
    return _Side(h, k, m_h, m_k, fall, m_h - fall * m_k)


def _half_areas(alpha: Tensor, beta: Tensor) -> Tensor:
    """Phi(beta) - Phi(alpha) for alpha <= 0 <= beta."""
    root = math.sqrt(0.5)
    return 0.5 * (torch.special.erf(beta * root) - torch.special.erf(alpha * root))


def kl_and_slopes(mu: Tensor, log_sigma2: Tensor, low: float, high: float) -> tuple[Tensor, Tensor, Tensor]:
    """KL(q || log-uniform on [low, high]) of each gate, and its derivatives by mu and log_sigma2.

    KL = log(high - low) - 1/2 log(2 pi e) - log sigma - log Z - M / 2,
    M = (alpha phi(alpha) - beta phi(beta)) / Z.
    """
    e = ends(mu, log_sigma2, low, high)
    outside, at_outside, log_at_outside = _kl_outside(e)
    inside, at_inside, log_at_inside = _kl_inside(e)
    tail = (e.alpha >= 0) | (e.beta <= 0)
    value = math.log(high - low) - 0.5 - torch.log(e.sigma) + torch.where(tail, outside, inside)
    by_mu = torch.where(tail, at_outside, at_inside) / e.sigma
    by_log_sigma = -1 + torch.where(tail, log_at_outside, log_at_inside)
    return value.clamp(min=0), by_mu, 0.5 * by_log_sigma


def _kl_outside(e: Ends) -> tuple[Tensor, Tensor, Tensor]:
    """What depends on the ends where mu lies outside: h^2 / 2 and M / 2 are taken together."""
    above = e.alpha >= 0
    s = _side(torch.where(above, e.alpha, -e.beta).clamp(min=0), e.width)
    rest, away = mills_rest(s.h), s.fall * (s.h * s.h * s.m_k - s.k)
    value = -torch.log(s.area) - 0.5 * (s.h * rest + away) / s.area
    curved = torch.where(s.h > 1, mills_curvature(s.h) / s.h.clamp(min=1), s.m_h - s.h * rest)
    near = 0.5 * (curved - s.fall * s.m_k - away) / (s.area * s.area)
    moment = (s.h - s.k * s.fall) / s.area
    far = 0.5 * s.fall * (1 + s.k * s.k - moment) / s.area
    return value, torch.where(above, far - near, near - far), far * s.k - near * s.h


def _kl_inside(e: Ends) -> tuple[Tensor, Tensor, Tensor]:
    alpha, beta = e.alpha.clamp(max=0), e.beta.clamp(min=0)
    z = _half_areas(alpha, beta).clamp(min=torch.finfo(torch.float64).tiny)
    a = torch.exp(-0.5 * alpha * alpha - LOG_SQRT_2PI) / z
    b = torch.exp(-0.5 * beta * beta - LOG_SQRT_2PI) / z
    moment = alpha * a - beta * b
    low, high = 0.5 * a * (1 + alpha * alpha - moment), 0.5 * b * (1 + beta * beta - moment)
    return -LOG_SQRT_2PI - torch.log(z) - 0.5 * moment, high - low, high * beta - low * alpha


class _KL(torch.autograd.Function):
    """Only the parameters are saved."""

    @staticmethod
    def forward(mu: Tensor, log_sigma2: Tensor, low: float, high: float) -> Tensor:
        value = kl_and_slopes(mu.double(), log_sigma2.double(), low, high)[0].sum()
        return value.to(torch.promote_types(mu.dtype, torch.float32))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.ends = inputs[2:]

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        return one_by_one(_KL.apply, info.batch_size, in_dims, inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        by_mu, by_log = run_backward("log_normal_kl", _kl_gradients, grad, *ctx.saved_tensors, *ctx.ends)
        return by_mu, by_log, None, None


def _kl_gradients(
    grad: Tensor, mu: Tensor, log_sigma2: Tensor, low: float, high: float
) -> tuple[Tensor, Tensor]:
    _, by_mu, by_log = kl_and_slopes(mu.double(), log_sigma2.double(), low, high)
    return (grad * by_mu).to(mu.dtype), (grad * by_log).to(log_sigma2.dtype)


def kl(mu: Tensor, log_sigma2: Tensor, low: float, high: float) -> Tensor:
    """Sum of `kl_and_slopes`'s first over all gates, in float32 at least, differentiable once."""
    value: Tensor = _KL.apply(mu, log_sigma2, low, high)
    return value


def log_moment(order: int, mu: Tensor, log_sigma2: Tensor, low: float, high: float) -> Tensor:
    """log E[theta^order], float64: the weight theta^order moves mu by order sigma^2.

    With n the order, E = exp(n mu + n^2 sigma^2 / 2) P(alpha - n sigma, beta - n sigma) / P(alpha, beta),
    P(l, r) being the probability of [l, r]. Where l and r have one sign, exp(-near^2 / 2) is taken out of P.
    """
    e = ends(mu, log_sigma2, low, high)
    shift = order * e.sigma
    near_0, rest_0 = _log_probability(e.alpha, e.beta, e.width)
    near, rest = _log_probability(e.alpha - shift, e.beta - shift, e.width)
    exponent = order * mu + 0.5 * (shift * shift - near * near + near_0 * near_0)
    stays_below, stays_above = e.beta <= 0, e.alpha - shift >= 0
    exponent = torch.where(stays_below, order * high, torch.where(stays_above, order * low, exponent))
    return exponent + rest - rest_0


def _log_probability(left: Tensor, right: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    """(near, rest) with log P(left, right) = -near^2 / 2 + rest."""
    zero = torch.zeros_like(left)
    near = torch.where(left >= 0, left, torch.where(right <= 0, right, zero))
    outside = torch.log(_side(near.abs(), width).area) - LOG_SQRT_2PI
    inside = _half_areas(left.clamp(max=0), right.clamp(min=0))
    inside = torch.log(inside.clamp(min=torch.finfo(torch.float64).tiny))
    return near, torch.where((left >= 0) | (right <= 0), outside, inside)


def mean(mu: Tensor, log_sigma2: Tensor, low: float, high: float) -> Tensor:
    """E[theta] of each gate, float64."""
    return torch.exp(log_moment(1, mu, log_sigma2, low, high).clamp(low, high))


def snr(mu: Tensor, log_sigma2: Tensor, low: float, high: float) -> Tensor:
    """E[theta] / sqrt(Var[theta]) of each gate, float64; at most 1e7."""
    first, second = (log_moment(order, mu, log_sigma2, low, high) for order in (1, 2))
    return torch.rsqrt(torch.expm1(second - 2 * first).clamp(min=_SMALLEST_RATIO))
