"""Channel gates: the documented functions of op `gate` and of what belongs to its distributions."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ._validate import as_seed, check_device, check_tensor
from .ops.gate import KINDS, log_normal
from .ops.gate import gate as _gate

__all__ = [
    "concrete_dropout_kl",
    "gate",
    "hard_concrete_mean",
    "hard_concrete_penalty",
    "log_normal_kl",
    "log_normal_mean",
    "log_normal_snr",
]

LOG_NORMAL_ENDS = (-20.0, 0.0)


class _Defaults(NamedTuple):
    two_parameters: bool
    temperature: float
    low: float
    high: float


_DEFAULTS = {
    "normal": _Defaults(True, 1.0, -math.inf, math.inf),
    "log-normal": _Defaults(True, 1.0, *LOG_NORMAL_ENDS),
    "hard-concrete": _Defaults(False, 2 / 3, -0.1, 1.1),
    "concrete": _Defaults(False, 0.1, 0.0, 1.0),
    "switch": _Defaults(False, 1.0, -math.inf, math.inf),
}


def gate(
    x: Tensor,
    location: Tensor,
    log_sigma2: Tensor | None = None,
    *,
    kind: str,
    channel_dim: int = 1,
    per_sample: bool = True,
    temperature: float | None = None,
    low: float | None = None,
    high: float | None = None,
    seed: Tensor | int | None = None,
) -> Tensor:
    """x times one random factor a channel: y[n, c, ...] = x[n, c, ...] theta[n, c].

    - ``normal``: theta = mu + sigma e, e ~ N(0, 1) (Louizos et al. 2017, arXiv 1705.08665, section 3.1);
    - ``log-normal``: log theta ~ N(mu, sigma^2) truncated to [low, high] (Neklyudov et al. 2017, arXiv
      1705.07283, section 4.1), by default [-20, 0];
    - ``hard-concrete``: s = sigmoid((logit u + location) / temperature), theta = s (high - low) + low
      clamped to [0, 1] (Louizos et al. 2018, arXiv 1712.01312, section 2.2), by default temperature 2/3,
      low -0.1, high 1.1;
    - ``concrete``: z = sigmoid((logit u + location) / temperature), theta = (1 - z) / (1 - p), location
      = logit p (Gal et al. 2017, arXiv 1705.07832, section 3.2), by default temperature 0.1;
    - ``switch``: theta = location, no noise (Leclerc et al. 2018, arXiv 1806.03723).

    u and e are those of `philox_bits` and `philox_normal` of the seed, rows being the samples (all
    dimensions before `channel_dim`) and columns the channels. Gradients are those of the reparameterised
    draw (for ``log-normal``, of its quantile function) in closed form; the backward pass draws it again, and
    nothing of x's size but x is kept for it.

    Args:
        x: [N, C, *spatial], or any shape with C channels at `channel_dim`; float32, float64, bfloat16 or
            float16; any strides.
        location: [C], or one element for all channels: mu, the logit, or the switch. Floating; float32
            also where x is a half type.
        log_sigma2: of location's shape, for ``normal`` and ``log-normal``; meant for [-40, 10]. ``normal``
            without it is an error, not noise of variance 0.
        kind: one of the above.
        channel_dim: the dimension of the channels, 1 as in convolutions; -1 for linear layers' inputs.
        per_sample: whether each sample has gates of its own, or the whole batch one set.
        temperature: > 0, for the two concrete kinds.
        low, high: ends, low < high: of log theta, or of the stretched interval (low < 0, high > 1).
        seed: int, int64 tensor of one element, or None: drawn from torch's generator.

    Returns:
        x's shape and dtype, contiguous, or channels last where x is; differentiable once in x, location and
        log_sigma2.

    Raises:
        ValueError: an argument is out of range or does not belong to the kind; the message names it.
    """
    if kind not in KINDS:
        raise ValueError(f"gate: unknown kind {kind!r}; accepted: {', '.join(KINDS)}")
    default = _DEFAULTS[kind]
    check_tensor(x, "x", "gate")
    if not x.is_floating_point():
        raise ValueError(f"gate: x must be floating, got {x.dtype}")
    if not -x.ndim <= channel_dim < x.ndim:
        raise ValueError(f"gate: channel_dim must be a dimension of x [{_shape(x)}], got {channel_dim}")
    if (log_sigma2 is not None) != default.two_parameters:
        belongs = "needs" if default.two_parameters else "takes no"
        raise ValueError(f"gate: kind {kind!r} {belongs} log_sigma2")
    channels = x.shape[channel_dim]
    location = _per_channel(location, "location", channels, x)
    if log_sigma2 is not None:
        log_sigma2 = _per_channel(log_sigma2, "log_sigma2", channels, x)
    numbers = _options(kind, temperature, low, high)
    return _gate(
        x, location, log_sigma2, as_seed(seed, x.device, "gate"), kind, channel_dim, per_sample, *numbers
    )


def _shape(t: Tensor) -> str:
    return ", ".join(map(str, t.shape))


def _per_channel(parameter: Tensor, name: str, channels: int, x: Tensor) -> Tensor:
    check_tensor(parameter, name, "gate")
    if not parameter.is_floating_point():
        raise ValueError(f"gate: {name} must be floating, got {parameter.dtype}")
    check_device(parameter, name, x.device, "gate")
    if parameter.numel() == 1:
        return parameter.reshape(1).expand(channels)
    if parameter.shape != (channels,):
        raise ValueError(
            f"gate: {name} must be [{channels}], one value a channel, or one element, "
            f"got [{_shape(parameter)}]"
        )
    return parameter


def _options(
    kind: str, temperature: float | None, low: float | None, high: float | None
) -> tuple[float, float, float]:
    default = _DEFAULTS[kind]
    if temperature is not None and kind not in ("hard-concrete", "concrete"):
        raise ValueError(f"gate: kind {kind!r} has no temperature")
    if (low is not None or high is not None) and kind not in ("log-normal", "hard-concrete"):
        raise ValueError(f"gate: kind {kind!r} has no low and high")
    temperature = default.temperature if temperature is None else float(temperature)
    low = default.low if low is None else float(low)
    high = default.high if high is None else float(high)
    if not 0 < temperature < math.inf:
        raise ValueError(f"gate: temperature must be > 0, got {temperature}")
    ordered = low < high  # both are looked at whatever the kind, as `check_eps` says why
    if kind == "log-normal" and not (ordered and -math.inf < low and high < math.inf):
        raise ValueError(f"gate: low and high must be finite and low < high, got {low} and {high}")
    if kind == "hard-concrete" and not -math.inf < low < 0 < 1 < high < math.inf:
        raise ValueError(f"gate: low must be < 0 and high > 1 and finite, got {low} and {high}")
    return temperature, low, high


def _check_log_normal(mu: Tensor, log_sigma2: Tensor, low: float, high: float, where: str) -> None:
    if not mu.is_floating_point() or not log_sigma2.is_floating_point() or mu.shape != log_sigma2.shape:
        raise ValueError(
            f"{where}: mu and log_sigma2 must be floating and of one shape, "
            f"got {mu.dtype} [{_shape(mu)}] and {log_sigma2.dtype} [{_shape(log_sigma2)}]"
        )
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"{where}: low and high must be finite and low < high, got {low} and {high}")


def log_normal_kl(
    mu: Tensor, log_sigma2: Tensor, *, low: float = LOG_NORMAL_ENDS[0], high: float = LOG_NORMAL_ENDS[1]
) -> Tensor:
    """KL of truncated log-normal gates from the log-uniform prior on the same interval, summed, in nats.

    KL = log(high - low) - 1/2 log(2 pi e sigma^2) - log Z - (alpha phi(alpha) - beta phi(beta)) / (2 Z), with
    alpha = (low - mu) / sigma, beta = (high - mu) / sigma, Z = Phi(beta) - Phi(alpha) (Neklyudov et al. 2017,
    arXiv 1705.07283, equation 8). Never negative; 0 for sigma without end. Computed in float64 by Mills'
    ratio, so that value and gradient hold where Z underflows and where sigma is 1e-9.

    Args:
        mu, log_sigma2: one shape, floating; log_sigma2 meant for [-40, 10].
        low, high: ends of log theta.

    Returns:
        scalar, float32 (float64 for float64 parameters); differentiable once.

    Raises:
        ValueError: shapes, dtypes or ends are wrong.
    """
    _check_log_normal(mu, log_sigma2, low, high, "log_normal_kl")
    return log_normal.kl(mu, log_sigma2, low, high)


@torch.no_grad()
def log_normal_mean(
    mu: Tensor, log_sigma2: Tensor, *, low: float = LOG_NORMAL_ENDS[0], high: float = LOG_NORMAL_ENDS[1]
) -> Tensor:
    """E[theta] of truncated log-normal gates: what stands for them in use.

    E = exp(mu + sigma^2 / 2) (Phi(beta - sigma) - Phi(alpha - sigma)) / Z (arXiv 1705.07283, section 4.2),
    rearranged as `log_normal_kl` is. Arguments and errors as there.

    Returns:
        mu's shape, float32 at least, in [e^low, e^high], without gradient.
    """
    _check_log_normal(mu, log_sigma2, low, high, "log_normal_mean")
    mean = log_normal.mean(mu.double(), log_sigma2.double(), low, high)
    return mean.to(torch.promote_types(mu.dtype, torch.float32))


@torch.no_grad()
def log_normal_snr(
    mu: Tensor, log_sigma2: Tensor, *, low: float = LOG_NORMAL_ENDS[0], high: float = LOG_NORMAL_ENDS[1]
) -> Tensor:
    """Signal-to-noise ratio E[theta] / sqrt(Var[theta]) of truncated log-normal gates.

    Channels of at most 1 are pruned (arXiv 1705.07283, section 4.2). Arguments and errors as `log_normal_kl`.

    Returns:
        mu's shape, float32 at least, at most 1e7, without gradient.
    """
    _check_log_normal(mu, log_sigma2, low, high, "log_normal_snr")
    snr = log_normal.snr(mu.double(), log_sigma2.double(), low, high)
    return snr.to(torch.promote_types(mu.dtype, torch.float32))


def hard_concrete_penalty(
    location: Tensor,
    *,
    temperature: float | None = None,
    low: float | None = None,
    high: float | None = None,
) -> Tensor:
    """Expected number of open gates: sum of P(theta > 0) = sigmoid(location - temperature log(-low / high)).

    The L0 norm's expectation (Louizos et al. 2018, arXiv 1712.01312, equation 12).

    Args:
        location: floating, any shape.
        temperature, low, high: as `gate` of kind ``hard-concrete``, with its defaults.

    Returns:
        scalar, float32 (float64 for float64), differentiable.

    Raises:
        ValueError: a number is out of range.
    """
    temperature, low, high = _options("hard-concrete", temperature, low, high)
    wide = location.to(torch.promote_types(location.dtype, torch.float32))
    return torch.sigmoid(wide - temperature * math.log(-low / high)).sum()


def hard_concrete_mean(location: Tensor, *, low: float | None = None, high: float | None = None) -> Tensor:
    """The gate in use: sigmoid(location) (high - low) + low, clamped to [0, 1].

    Louizos et al. 2018 (arXiv 1712.01312), equation 13.

    Arguments and errors as `hard_concrete_penalty`.

    Returns:
        location's shape, float32 at least, differentiable.
    """
    _, low, high = _options("hard-concrete", None, low, high)
    wide = location.to(torch.promote_types(location.dtype, torch.float32))
    return (torch.sigmoid(wide) * (high - low) + low).clamp(0, 1)


def concrete_dropout_kl(weight: Tensor, logit_p: Tensor, units: int, length_scale: float) -> Tensor:
    """KL of a layer with dropout of its inputs at rate p from weights of prior scale 1 / `length_scale`.

    KL = l^2 / 2 ||W||^2 / (1 - p) - K H(p), H(p) = -p log p - (1 - p) log(1 - p) (Gal et al. 2017, arXiv
    1705.07832, equations 3 and 4; 1 / (1 - p) instead of 1 - p, as the dropped inputs are scaled by that).

    Args:
        weight: W, floating.
        logit_p: one element, log(p / (1 - p)).
        units: K, inputs that are dropped on their own, >= 0: features, or channels of a convolution.
        length_scale: l, > 0.

    Returns:
        scalar, float32 (float64 for float64), differentiable. It may be negative: the prior's constant is
        left out.

    Raises:
        ValueError: a number is out of range, or logit_p has another size.
    """
    if not length_scale > 0 or units < 0:
        raise ValueError(
            f"concrete_dropout_kl: length_scale must be > 0 and units >= 0, got {length_scale} and {units}"
        )
    if logit_p.numel() != 1:
        raise ValueError(f"concrete_dropout_kl: logit_p must have one element, got [{_shape(logit_p)}]")
    a = logit_p.reshape(()).to(torch.promote_types(logit_p.dtype, torch.float32))
    squares = weight.to(a.dtype).square().sum()
    # H(p) in logits: softplus(-|a|) + |a| sigmoid(-|a|), whose terms are positive
    size = a.abs()
    entropy = torch.nn.functional.softplus(-size) + size * torch.sigmoid(-size)
    return 0.5 * length_scale**2 * squares * (1 + torch.exp(a)) - units * entropy
