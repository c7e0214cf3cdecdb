"""Checks of the public functions' arguments; errors name the argument, what was given, what is accepted."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .ops.kl import LOG_ALPHA_PRIORS, parse_prior

_SEED_MIN, _SEED_MAX = -(2**63), 2**63 - 1


def new_seed(device: torch.device | str = "cpu") -> Tensor:
    """Draw a seed from torch's generator of `device`.

    `torch.manual_seed`, activation checkpointing and per-rank generators therefore act as users expect,
    and no value is read back to the host.

    Returns:
        int64 scalar tensor on `device`.
    """
    return torch.randint(_SEED_MIN, _SEED_MAX, (), dtype=torch.int64, device=device)


def check_tensor(value: object, name: str, where: str, accepted: str = "a tensor") -> None:
    """Raise unless it is a tensor: numpy's arrays and lists are what is given by mistake."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{where}: {name} must be {accepted}, got {type(value).__name__}")


def as_seed(seed: Tensor | int | None, device: torch.device, where: str) -> Tensor:
    if seed is None:
        return new_seed(device)
    if isinstance(seed, int):
        if not _SEED_MIN <= seed <= _SEED_MAX:
            raise ValueError(f"{where}: seed must fit in 64 signed bits, got {seed}")
        return torch.tensor(seed, dtype=torch.int64, device=device)
    check_tensor(seed, "seed", where, "an int, an int64 tensor of one element, or None")
    if seed.dtype != torch.int64 or seed.numel() != 1:
        raise ValueError(
            f"{where}: seed must be an int or an int64 tensor of one element, "
            f"got {seed.dtype} of shape {tuple(seed.shape)}"
        )
    if seed.device != device:
        raise ValueError(f"{where}: seed is on {seed.device} but the inputs are on {device}; move it there")
    return seed


def check_device(t: Tensor | None, name: str, device: torch.device, where: str) -> None:
    """A kernel reads where its input is: of a parameter elsewhere, on meta too, it would read anything."""
    if t is not None and t.device != device:
        raise ValueError(f"{where}: {name} is on {t.device} but the input is on {device}; move it there")


def check_rows_cols(rows: int, cols: int, where: str) -> None:
    if rows < 0 or cols < 0:
        raise ValueError(f"{where}: rows and cols must be >= 0, got {rows} and {cols}")


def check_prior(prior: str, where: str, *, log_alpha: bool = False) -> None:
    """`log_alpha`: whether the parameter is log_alpha alone."""
    try:
        name, _ = parse_prior(prior)
    except ValueError as err:
        raise ValueError(f"{where}: {err}") from None
    if log_alpha and name not in LOG_ALPHA_PRIORS:
        raise ValueError(
            f"{where}: prior {prior!r} needs mu and log_sigma2; log_alpha alone does not tell its KL"
        )


def check_clip(clip_log_alpha: float | None, where: str) -> float:
    """The op's number: infinite where nothing is clipped."""
    if clip_log_alpha is None:
        return math.inf
    if not isinstance(clip_log_alpha, (int, float)) or clip_log_alpha != clip_log_alpha:
        raise ValueError(f"{where}: clip_log_alpha must be a number or None, got {clip_log_alpha!r}")
    return float(clip_log_alpha)


def check_eps(eps: float, where: str) -> float:
    """Looked at here, before autograd's functions are called: torch.compile with dynamic=True demands it."""
    if not isinstance(eps, (int, float)) or not 0 <= eps < math.inf:
        raise ValueError(f"{where}: eps must be a finite number >= 0, got {eps!r}")
    return eps


def check_kl(
    mu: Tensor | None, log_sigma2: Tensor | None, log_alpha: Tensor | None, prior: str, where: str
) -> None:
    check_prior(prior, where, log_alpha=log_alpha is not None)
    for name, t in (("mu", mu), ("log_sigma2", log_sigma2), ("log_alpha", log_alpha)):
        if t is not None:
            check_tensor(t, name, where)
    if log_alpha is not None:
        if mu is not None or log_sigma2 is not None:
            raise ValueError(f"{where}: give either mu and log_sigma2, or log_alpha alone")
    elif mu is None or log_sigma2 is None:
        raise ValueError(f"{where}: give mu and log_sigma2, or log_alpha alone")
    elif mu.shape != log_sigma2.shape:
        raise ValueError(
            f"{where}: mu and log_sigma2 must have one shape, "
            f"got {tuple(mu.shape)} and {tuple(log_sigma2.shape)}"
        )
    elif mu.device != log_sigma2.device:
        raise ValueError(
            f"{where}: mu and log_sigma2 must be on one device, got {mu.device} and {log_sigma2.device}"
        )
    for name, t in (("mu", mu), ("log_sigma2", log_sigma2), ("log_alpha", log_alpha)):
        if t is not None and not t.is_floating_point():
            raise ValueError(f"{where}: {name} must be floating, got {t.dtype}")


def _log_alpha_2d(log_alpha: Tensor, mu: Tensor, where: str) -> Tensor:
    """View log_alpha as [1|O, 1|I]; 1-D is per input [I], or per output [O] where I != O."""
    out, inp = mu.shape
    if log_alpha.ndim == 2 and log_alpha.shape[0] in (1, out) and log_alpha.shape[1] in (1, inp):
        return log_alpha
    if log_alpha.numel() == 1 and log_alpha.ndim < 2:
        return log_alpha.reshape(1, 1)
    if log_alpha.ndim == 1 and out == inp and log_alpha.shape[0] == out:
        raise ValueError(
            f"{where}: log_alpha of shape ({out},) is ambiguous for a square layer; "
            f"say (1, {inp}) for per input or ({out}, 1) for per output"
        )
    if log_alpha.ndim == 1 and log_alpha.shape[0] == inp:
        return log_alpha.reshape(1, inp)
    if log_alpha.ndim == 1 and log_alpha.shape[0] == out:
        return log_alpha.reshape(out, 1)
    raise ValueError(
        f"{where}: log_alpha must be a scalar, [I], [O] or [O, I] (here I={inp}, O={out}), "
        f"got shape {tuple(log_alpha.shape)}"
    )


def _check_linear(x: Tensor, mu: Tensor, log_sigma2: Tensor | None, bias: Tensor | None, where: str) -> None:
    if mu.ndim != 2:
        raise ValueError(f"{where}: mu must be [O, I], got shape {tuple(mu.shape)}")
    if x.ndim == 0 or x.shape[-1] != mu.shape[1]:
        raise ValueError(
            f"{where}: x must be [*, I] with I = {mu.shape[1]} (mu is {tuple(mu.shape)}), "
            f"got {tuple(x.shape)}"
        )
    if log_sigma2 is not None and log_sigma2.shape != mu.shape:
        raise ValueError(
            f"{where}: log_sigma2 must have mu's shape {tuple(mu.shape)}, got {tuple(log_sigma2.shape)}"
        )
    if bias is not None and bias.shape != mu.shape[:1]:
        raise ValueError(f"{where}: bias must be [O] = ({mu.shape[0]},), got {tuple(bias.shape)}")
    if not x.is_floating_point() or x.dtype != mu.dtype:
        raise ValueError(
            f"{where}: x and mu must share one floating dtype, got {x.dtype} and {mu.dtype}; "
            "cast one, or run under torch.autocast"
        )
    check_devices(x, mu, log_sigma2, bias, where)


def check_devices(x: Tensor, mu: Tensor, log_sigma2: Tensor | None, bias: Tensor | None, where: str) -> None:
    device = x.device
    for t in (mu, log_sigma2, bias):
        if t is not None and t.device != device:
            name = "mu" if t is mu else "bias" if t is bias else "log_sigma2"
            check_device(t, name, device, where)


def autocast_weights(x: Tensor, mu: Tensor) -> tuple[Tensor, Tensor]:
    """x and mu in autocast's dtype, where it is on.

    The noise parameter stays as it is: the variance runs in float32 whatever autocast says.
    """
    if x.device.type != "meta" and torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(x.device.type)
        x, mu = x.to(dtype), mu.to(dtype)
    return x, mu


def prepare_linear(
    x: Tensor,
    mu: Tensor,
    log_sigma2: Tensor | None,
    bias: Tensor | None,
    log_alpha: Tensor | None,
    seed: Tensor | int | None,
    where: str,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor]:
    if (log_sigma2 is None) == (log_alpha is None):
        raise ValueError(f"{where}: give exactly one of log_sigma2 and log_alpha")
    check_tensor(x, "x", where)
    check_tensor(mu, "mu", where)
    x, mu = autocast_weights(x, mu)
    _check_linear(x, mu, log_sigma2, bias, where)
    if log_alpha is not None:
        check_device(log_alpha, "log_alpha", x.device, where)
        log_alpha = _log_alpha_2d(log_alpha, mu, where)
    return x, mu, log_sigma2, log_alpha, bias, as_seed(seed, x.device, where)


def check_weight(w: Tensor, name: str, where: str) -> None:
    check_tensor(w, name, where)
    if w.ndim == 0 or not w.is_floating_point():
        raise ValueError(
            f"{where}: {name} must be floating [O, ...], got {w.dtype} of shape {tuple(w.shape)}"
        )


def weight_log_alpha(log_alpha: Tensor, mu: Tensor, where: str) -> Tensor:
    """View log_alpha as [1|O, 1|I] of the matrix [O, I] that mu [O, ...] is."""
    if mu.ndim == 2:
        return _log_alpha_2d(log_alpha, mu, where)
    if log_alpha.numel() == 1:
        return log_alpha.reshape(1, 1)
    if log_alpha.ndim != mu.ndim or any(
        n not in (1, m) for n, m in zip(log_alpha.shape, mu.shape, strict=True)
    ):
        raise ValueError(
            f"{where}: log_alpha must be a scalar or have mu's dimensions {tuple(mu.shape)}, each 1 or mu's, "
            f"got shape {tuple(log_alpha.shape)}"
        )
    inner = mu.shape[1:] if any(n != 1 for n in log_alpha.shape[1:]) else log_alpha.shape[1:]
    if inner != log_alpha.shape[1:] and log_alpha.dtype != torch.float64:
        log_alpha = log_alpha.float()  # so that the gradient is summed before it is rounded
    return log_alpha.expand(-1, *inner).reshape(log_alpha.shape[0], inner.numel())


def as_scalar(value: Tensor | float, name: str, device: torch.device, where: str) -> Tensor:
    """A share in [0, 1] as a float64 scalar; the value of a tensor is not looked at."""
    if isinstance(value, Tensor):
        if value.numel() != 1 or not value.is_floating_point():
            raise ValueError(
                f"{where}: {name} must be a number or a floating tensor of one element, "
                f"got {value.dtype} of shape {tuple(value.shape)}"
            )
        return value.detach().reshape(()).to(device, torch.float64)
    if not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{where}: {name} must be in [0, 1], got {value!r}")
    return torch.scalar_tensor(float(value), dtype=torch.float64, device=device)


def check_granularity(granularity: str, accepted: tuple[str, ...], where: str) -> None:
    if granularity not in accepted:
        raise ValueError(f"{where}: unknown granularity {granularity!r}; accepted: {', '.join(accepted)}")


def check_spmm(
    x: Tensor, values: Tensor, col_indices: Tensor, row_offsets: Tensor, bias: Tensor | None
) -> None:
    for name, t in (("x", x), ("values", values), ("col_indices", col_indices), ("row_offsets", row_offsets)):
        check_tensor(t, name, "spmm")
    if x.ndim == 0 or not x.is_floating_point() or not values.is_floating_point():
        raise ValueError(
            f"spmm: x must be [*, I] and x and values floating, got x {x.dtype} of shape {tuple(x.shape)} "
            f"and values {values.dtype}"
        )
    if values.ndim != 1 or col_indices.shape != values.shape:
        raise ValueError(
            f"spmm: values and col_indices must be [nnz], "
            f"got {tuple(values.shape)} and {tuple(col_indices.shape)}"
        )
    if row_offsets.ndim != 1 or row_offsets.shape[0] == 0:
        raise ValueError(f"spmm: row_offsets must be [O + 1], got {tuple(row_offsets.shape)}")
    if col_indices.dtype != row_offsets.dtype or col_indices.dtype not in (torch.int32, torch.int64):
        raise ValueError(
            f"spmm: col_indices and row_offsets must both be int32 or both int64, "
            f"got {col_indices.dtype} and {row_offsets.dtype}"
        )
    if bias is not None and (bias.ndim != 1 or bias.shape[0] != row_offsets.shape[0] - 1):
        raise ValueError(f"spmm: bias must be [O] = ({row_offsets.shape[0] - 1},), got {tuple(bias.shape)}")
