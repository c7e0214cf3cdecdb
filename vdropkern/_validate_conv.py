"""Checks of the convolutions' arguments; errors name the argument, what was given, what is accepted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from ._validate import as_seed, autocast_weights, check_device, check_devices, check_tensor
from .ops.conv2d_lrt import Geometry, out_size

Sizes = int | Sequence[int]


class Conv(NamedTuple):
    """Arguments of the op, checked and in two dimensions."""

    x: Tensor  # [N, C, H, W]
    mu: Tensor  # [O, C / groups, kh, kw]
    log_sigma2: Tensor | None
    log_alpha: Tensor | None
    bias: Tensor | None
    seed: Tensor
    geometry: Geometry


def _sizes(given: Sizes, spatial: int, least: int, name: str, where: str) -> tuple[int, ...]:
    """`given` as one int a spatial dimension."""
    values = (given,) * spatial if isinstance(given, int) else tuple(given)
    if len(values) == 1:
        values *= spatial
    if len(values) != spatial or not all(isinstance(v, int) and v >= least for v in values):
        accepted = "an int" if spatial == 1 else f"an int or {spatial} ints"
        raise ValueError(f"{where}: {name} must be {accepted} >= {least}, got {given!r}")
    return values


def _padding(
    padding: Sizes | str, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], where: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(padding on both sides, what the far side gets beyond that), per spatial dimension."""
    spatial = len(kernel)
    if padding == "valid":
        return (0,) * spatial, (0,) * spatial
    if padding == "same":
        if any(s != 1 for s in stride):
            raise ValueError(f"{where}: padding='same' needs stride 1, got stride {tuple(stride)}")
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return tuple(t // 2 for t in total), tuple(t % 2 for t in total)
    if isinstance(padding, str):
        raise ValueError(f"{where}: padding must be ints >= 0, 'same' or 'valid', got {padding!r}")
    return _sizes(padding, spatial, 0, "padding", where), (0,) * spatial


def _log_alpha(log_alpha: Tensor, mu: Tensor, where: str) -> Tensor:
    """View log_alpha with mu's dimensions, each of mu's size or 1."""
    out, inp = mu.shape[:2]
    ones = (1,) * (mu.ndim - 2)
    if log_alpha.ndim == mu.ndim and all(a in (1, n) for a, n in zip(log_alpha.shape, mu.shape, strict=True)):
        return log_alpha
    if log_alpha.numel() == 1 and log_alpha.ndim < 2:
        return log_alpha.reshape(1, 1, *ones)
    if log_alpha.ndim == 1 and out == inp and log_alpha.shape[0] == out:
        raise ValueError(
            f"{where}: log_alpha of shape ({out},) is ambiguous here; say {(1, inp, *ones)} for per input "
            f"channel or {(out, 1, *ones)} for per output channel"
        )
    if log_alpha.ndim == 1 and log_alpha.shape[0] == inp:
        return log_alpha.reshape(1, inp, *ones)
    if log_alpha.ndim == 1 and log_alpha.shape[0] == out:
        return log_alpha.reshape(out, 1, *ones)
    raise ValueError(
        f"{where}: log_alpha must be a scalar, [C / groups], [O], or of mu's dimensions with mu's sizes or 1 "
        f"(mu is {tuple(mu.shape)}), got shape {tuple(log_alpha.shape)}"
    )


def _check_tensors(
    x: Tensor,
    mu: Tensor,
    log_sigma2: Tensor | None,
    bias: Tensor | None,
    groups: int,
    spatial: int,
    where: str,
) -> None:
    kernel = ", kh, kw" if spatial == 2 else ", k"
    image = ", H, W" if spatial == 2 else ", L"
    if mu.ndim != spatial + 2 or 0 in mu.shape:
        raise ValueError(
            f"{where}: mu must be [O, C / groups{kernel}] with sizes >= 1, got shape {tuple(mu.shape)}"
        )
    if not isinstance(groups, int) or groups < 1 or mu.shape[0] % groups:
        raise ValueError(f"{where}: groups must be >= 1 and divide O = {mu.shape[0]}, got {groups!r}")
    channels = groups * mu.shape[1]
    if x.ndim not in (spatial + 1, spatial + 2) or x.shape[-spatial - 1] != channels:
        raise ValueError(
            f"{where}: x must be [N, C{image}] or [C{image}] with C = {channels} (mu is {tuple(mu.shape)}, "
            f"groups {groups}), got {tuple(x.shape)}"
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


def prepare_conv(
    x: Tensor,
    mu: Tensor,
    log_sigma2: Tensor | None,
    bias: Tensor | None,
    log_alpha: Tensor | None,
    stride: Sizes,
    padding: Sizes | str,
    dilation: Sizes,
    groups: int,
    seed: Tensor | int | None,
    spatial: int,
    where: str,
) -> Conv:
    """Check the arguments of a convolution over `spatial` dimensions and view them in two."""
    if (log_sigma2 is None) == (log_alpha is None):
        raise ValueError(f"{where}: give exactly one of log_sigma2 and log_alpha")
    check_tensor(x, "x", where)
    check_tensor(mu, "mu", where)
    x, mu = autocast_weights(x, mu)
    _check_tensors(x, mu, log_sigma2, bias, groups, spatial, where)
    if log_alpha is not None:
        check_device(log_alpha, "log_alpha", x.device, where)
        log_alpha = _log_alpha(log_alpha, mu, where)
    kernel = mu.shape[2:]
    strides = _sizes(stride, spatial, 1, "stride", where)
    dilations = _sizes(dilation, spatial, 1, "dilation", where)
    both, beyond = _padding(padding, kernel, strides, dilations, where)
    if any(beyond):  # 'same' with an even reach pads the far side once more, as torch does
        x = F.pad(x, [n for side in reversed(beyond) for n in (0, side)])
    if x.ndim == spatial + 1:
        x = x[None]
    for size, k, s, p, d in zip(x.shape[2:], kernel, strides, both, dilations, strict=True):
        if out_size(size, k, s, p, d) < 1:
            raise ValueError(
                f"{where}: the kernel {tuple(kernel)} with dilation {dilations} does not fit into x "
                f"{tuple(x.shape)} with padding {both}"
            )
    if spatial == 1:
        x, mu = x[:, :, None], mu[:, :, None]
        log_sigma2 = None if log_sigma2 is None else log_sigma2[:, :, None]
        log_alpha = None if log_alpha is None else log_alpha[:, :, None]
        strides, both, dilations = (1, *strides), (0, *both), (1, *dilations)
    geometry = (*strides, *both, *dilations, groups)
    seed = as_seed(seed, x.device, where)
    return Conv(x, mu, log_sigma2, log_alpha, bias, seed, geometry)  # type: ignore[arg-type]
