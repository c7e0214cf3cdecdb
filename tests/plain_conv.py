"""The truth of `conv2d_lrt`: float64, differentiated by autograd, and the size of every result's terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-8  # of log_alpha = log_sigma2 - log(mu^2 + EPS)


def convolve(x: Tensor, weight: Tensor, options: Mapping[str, Any]) -> Tensor:
    """`torch.nn.functional.conv2d`, which warns of padding='same' with even kernels: so zeros come first."""
    shared = {k: options[k] for k in ("stride", "padding", "dilation", "groups") if k in options}
    if shared.get("padding") == "same":
        total = [k - 1 for k in weight.shape[2:]]
        x = F.pad(x, [n for t in reversed(total) for n in (t // 2, t - t // 2)])
        shared["padding"] = 0
    return F.conv2d(x, weight, **shared)


def _view(la: Tensor, mu: Tensor) -> Tensor:
    if la.ndim == 1:
        return la.reshape((-1, 1, 1, 1) if la.numel() == mu.shape[0] else (1, -1, 1, 1))
    return la


def _alpha(la: Tensor, mu: Tensor) -> Tensor:
    return _view(la, mu).exp().expand(mu.shape)


def sigma2_of(tensors: Mapping[str, Tensor]) -> Tensor:
    if "log_sigma2" in tensors:
        return tensors["log_sigma2"].exp()
    return _alpha(tensors["log_alpha"], tensors["mu"]) * tensors["mu"] ** 2


def conv2d_lrt(
    tensors: Mapping[str, Tensor], noise: Tensor | float, options: Mapping[str, Any]
) -> tuple[Tensor, Tensor]:
    """(y, std) of y = conv(x, M) + b + sqrt(conv(x^2, S) + eps) e; `noise` in y's order, any shape."""
    x, mean = tensors["x"], tensors["mu"]
    sigma2 = sigma2_of(tensors)
    std = torch.sqrt(convolve(x**2, sigma2, options) + options.get("eps", 1e-8))
    clip = options.get("clip_log_alpha")
    if clip is not None:
        with torch.no_grad():
            alpha = (
                sigma2 / (mean**2 + EPS) if "log_sigma2" in tensors else _alpha(tensors["log_alpha"], mean)
            )
        mean = mean * (alpha.log() < clip)
    e = noise.reshape(std.shape) if isinstance(noise, Tensor) else noise
    y = convolve(x, mean, options) + std * e
    return (y + tensors["bias"].reshape(-1, 1, 1) if "bias" in tensors else y), std


def magnitudes(
    tensors: Mapping[str, Tensor],
    dy: Tensor,  # |dL/dy|, [N, O, Ho, Wo]
    noise: Tensor,  # |e|, of y's shape
    std: Tensor,  # of y's shape
    options: Mapping[str, Any],
    sizes: dict[str, Tensor],
    lengths: dict[str, int],
) -> None:
    """Add the absolute values of the terms behind every result."""
    x, mu, sigma2 = tensors["x"].abs(), tensors["mu"].abs(), sigma2_of(tensors)
    fan_in, pixels = mu[0].numel(), dy[:, 0].numel()
    sizes["y"] += convolve(x, mu, options) + std * noise
    g_v = dy * noise / (2 * std)
    sizes["d_x"] += _input(x, mu, dy, options) + 2 * x * _input(x, sigma2, g_v, options)
    sizes["d_mu"] += _weight(x, mu, dy, options)
    d_sigma2 = _weight(x**2, mu, g_v, options) * sigma2  # of log_sigma2
    lengths |= {"y": fan_in, "d_x": fan_in + mu[:, 0].numel(), "d_mu": fan_in + pixels}
    if "bias" in tensors:
        sizes["y"] += tensors["bias"].abs().reshape(-1, 1, 1)
        sizes["d_bias"] += dy.sum((0, 2, 3))
        lengths["d_bias"] = pixels
    if "log_sigma2" in tensors:
        sizes["d_log_sigma2"] += d_sigma2
        lengths["d_log_sigma2"] = fan_in + pixels
        return
    la = tensors["log_alpha"]
    sizes["d_mu"] += 2 * torch.where(mu > 0, d_sigma2 / mu, 0)
    sizes["d_log_alpha"] += d_sigma2.sum_to_size(_view(la, mu).shape).reshape(la.shape)
    lengths["d_log_alpha"] = fan_in + pixels + mu.numel() // max(la.numel(), 1)


def _input(x: Tensor, weight: Tensor, dy: Tensor, options: Mapping[str, Any]) -> Tensor:
    """conv_T(dy, weight)."""
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(convolve(leaf, weight.detach(), options), leaf, dy)[0]


def _weight(x: Tensor, weight: Tensor, dy: Tensor, options: Mapping[str, Any]) -> Tensor:
    leaf = weight.detach().requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(convolve(x, leaf, options), leaf, dy)[0]
