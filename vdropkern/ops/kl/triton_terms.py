"""KL of one weight and its derivatives, as csrc/kl/formulas.h has them.

`a` = mu^2 + eps and `s` = sigma^2, so that alpha = s / a; with log_alpha as the parameter a = 1, s = alpha.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .._triton import KL_EPS, LN_2, NAN_STAYS, exp, log1p_unit
from .reference import parse_prior

_K1, _K2, _K3 = tl.constexpr(0.63576), tl.constexpr(1.87320), tl.constexpr(1.48695)
_C1, _C2, _C3 = tl.constexpr(1.16145124), tl.constexpr(-1.50204118), tl.constexpr(0.58629921)
_CUT = tl.constexpr(20.0)  # u = 1 / (2 alpha) above which Dawson's function is its asymptotic expansion
_TERMS, _TAIL = tl.constexpr(60), tl.constexpr(12)  # of the two, for float32
_CONSTANT = tl.constexpr(0.6351814227307391)  # (ln 2 + Euler's gamma) / 2


@triton.jit
def _ard(a, s, la):
    e = tl.where(a < s, a, s) / tl.where(a < s, s, a)  # exp(-|la|); NaN stays NaN
    return (tl.maximum(-la, 0.0, propagate_nan=NAN_STAYS) + log1p_unit(e)) * 0.5, a / (a + s) * -0.5


@triton.jit
def _log_uniform(a, s, la):
    value, slope = _ard(a, s, la)
    x = tl.maximum(la * _K3 + _K2, -80.0)  # below, e would overflow and rest be inf * 0
    e = tl.exp(-x)
    q = 1.0 / (e + 1.0)
    rest = e * q  # sigmoids of x and of -x
    return value + rest * _K1, slope - rest * q * (_K1 * _K3)


@triton.jit
def _kingma(a, s, la):
    r = s / a
    value = (_C1 + _C2 + _C3) - (la * 0.5 + r * (r * (r * _C3 + _C2) + _C1))
    return value, -(r * (r * (r * (3.0 * _C3) + 2.0 * _C2) + _C1) + 0.5)


@triton.jit
def _exact(a, s, la):
    u = a / s * 0.5
    near = tl.where(u > _CUT, _CUT, u)
    p = exp(-near, True)
    value = tl.zeros_like(u)
    slope = tl.zeros_like(u)
    harmonic = 0.0
    for k in tl.static_range(_TERMS):
        value += p * harmonic
        slope += p * (1.0 / (2 * k + 1))
        harmonic = harmonic + 1.0 / (2 * k + 1)
        p *= near * (1.0 / (k + 1))
    inverse = 1.0 / tl.where(u < _CUT, _CUT, u)
    power = tl.full(u.shape, 1.0, tl.float32)
    tail_value = tl.zeros_like(u)
    tail_slope = tl.full(u.shape, 0.5, tl.float32)
    double_factorial = 1.0  # (2k - 1)!! / 2^k
    for k in tl.static_range(1, _TAIL):
        double_factorial = double_factorial * (k - 0.5)
        power *= inverse
        tail_value += power * (double_factorial / (2 * k))
        tail_slope += power * (double_factorial / 2)
    far = u > _CUT
    return tl.where(far, _CONSTANT - la * 0.5 - tail_value, value), tl.where(far, -tail_slope, -near * slope)


def prior_constant(prior: str) -> str | float:
    """PRIOR of the kernels: a prior's name, or of a normal one the precision 1 / s^2."""
    name, sd = parse_prior(prior) if prior != "none" else (prior, 1.0)
    return sd**-2 if name == "normal" else name


@triton.jit
def kl_terms(mu, log_parameter, IS_ALPHA: tl.constexpr, PRIOR: tl.constexpr):
    """(KL, dKL/dlog_alpha, dKL/dmu) of each weight; mu is not looked at where IS_ALPHA.

    PRIOR: see `prior_constant`.
    """
    s = exp(log_parameter, True)
    if IS_ALPHA:
        a = tl.full(s.shape, 1.0, tl.float32)
        la = log_parameter
    else:
        a = mu * mu + KL_EPS
        la = log_parameter - tl.log2(a) * LN_2
    if PRIOR == "log-uniform":
        value, slope = _log_uniform(a, s, la)
    elif PRIOR == "log-uniform-kingma":
        value, slope = _kingma(a, s, la)
    elif PRIOR == "log-uniform-exact":
        value, slope = _exact(a, s, la)
    elif PRIOR == "ard":
        value, slope = _ard(a, s, la)
    else:
        tl.static_assert(not IS_ALPHA)
        log_precision = tl.log2(tl.full(s.shape, PRIOR, tl.float32)) * LN_2
        value = ((s + mu * mu) * PRIOR - log_parameter - (log_precision + 1.0)) * 0.5
        slope = s * (0.5 * PRIOR) - 0.5
        return value, slope, mu * PRIOR
    return value, slope, slope * (mu * -2.0 / a)
