"""Channel gates: the documented functions of op `gate` and of what belongs to its distributions."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ._validate import as_seed
from .ops.gate import KINDS
from .ops.gate import gate as _gate

__all__ = ["gate"]

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
    if not parameter.is_floating_point():
        raise ValueError(f"gate: {name} must be floating, got {parameter.dtype}")
    if parameter.device != x.device:
        raise ValueError(f"gate: {name} is on {parameter.device} but x is on {x.device}; move it there")
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
    if kind == "log-normal" and not -math.inf < low < high < math.inf:
        raise ValueError(f"gate: low and high must be finite and low < high, got {low} and {high}")
    if kind == "hard-concrete" and not -math.inf < low < 0 < 1 < high < math.inf:
        raise ValueError(f"gate: low must be < 0 and high > 1 and finite, got {low} and {high}")
    return temperature, low, high
