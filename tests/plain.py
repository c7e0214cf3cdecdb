"""The truth: the papers' formulas in float64, differentiated by autograd, and how ill-conditioned they are.

Nothing of the ops' own arithmetic is used but the noise, which tests/ops/test_philox_normal.py holds against
its definition: gradients come from autograd, the exact KL from quadrature of Dawson's function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vdropkern.ops.philox_normal.reference import philox_normal

from . import plain_conv
from .cases import SEED, Case

K1, K2, K3 = 0.63576, 1.87320, 1.48695
C1, C2, C3 = 1.16145124, -1.50204118, 0.58629921
EPS = 1e-8
_SERIES_TERMS = 160  # of the reference's exact prior: part of its reduction length


class Truth(NamedTuple):
    """What a result must be; see tests/tolerance.py for the last two."""

    expected: Tensor
    magnitude: Tensor
    length: int


def _exact_value(u: np.ndarray) -> np.ndarray:
    """2 int_0^sqrt(u) Dawson(t) dt by Gauss-Legendre, in t up to 1 and in ln t above."""
    from scipy.special import dawsn

    node, weight = np.polynomial.legendre.leggauss(200)
    node, weight = (node + 1) / 2, weight / 2
    root = np.sqrt(u)[..., None]
    low, high = np.minimum(root, 1), np.log(np.maximum(root, 1))
    t = np.exp(high * node)
    return 2 * ((dawsn(low * node) * low) @ weight + (dawsn(t) * t * high) @ weight)


class _Exact(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, la: Tensor) -> Tensor:
        ctx.save_for_backward(la)
        return torch.from_numpy(_exact_value(0.5 * np.exp(-la.detach().numpy())))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        from scipy.special import dawsn

        root = np.sqrt(0.5 * np.exp(-ctx.saved_tensors[0].numpy()))
        return -grad * torch.from_numpy(root * dawsn(root))


def kl_terms(la: Tensor, prior: str) -> Tensor:
    """KL of each weight, as the papers print it (plus the constants documented in docs/ops/kl.md)."""
    if prior == "log-uniform":
        return 0.5 * torch.log1p(torch.exp(-la)) + K1 * torch.sigmoid(-(K2 + K3 * la))
    if prior == "log-uniform-kingma":
        a = la.exp()
        return C1 + C2 + C3 - (0.5 * la + C1 * a + C2 * a**2 + C3 * a**3)
    if prior == "ard":
        return 0.5 * torch.log1p(torch.exp(-la))
    assert prior == "log-uniform-exact"
    return _Exact.apply(la)


def normal_sd(prior: str) -> float | None:
    """s of N(0, s^2), where that is the prior."""
    if not prior.startswith("normal"):
        return None
    return float(prior.removeprefix("normal").strip("()") or 1)


def kl_each(tensors: Mapping[str, Tensor], prior: str) -> Tensor:
    """KL of each weight."""
    sd = normal_sd(prior)
    if sd is None:
        return kl_terms(log_alpha(tensors), prior)
    zero = torch.zeros((), dtype=torch.float64)
    q = torch.distributions.Normal(tensors["mu"], tensors["log_sigma2"].exp().sqrt())
    return torch.distributions.kl_divergence(q, torch.distributions.Normal(zero, zero + sd))


def log_alpha(tensors: Mapping[str, Tensor]) -> Tensor:
    if "log_alpha" in tensors:
        return tensors["log_alpha"]
    return tensors["log_sigma2"] - torch.log(tensors["mu"] ** 2 + EPS)


def _alpha_2d(la: Tensor, mu: Tensor) -> Tensor:
    if la.ndim == 1 and la.numel() == mu.shape[0] != mu.shape[1]:
        la = la[:, None]
    return la.exp().expand(mu.shape)


def linear_lrt(
    tensors: Mapping[str, Tensor], noise: Tensor, eps: float, clip: float | None = None
) -> tuple[Tensor, Tensor]:
    """(y, std) of y = x M^T + b + sqrt(x^2 S^T + eps) e, with S = exp(log_sigma2) or alpha mu^2.

    M is mu, without the weights of log_alpha >= clip.
    """
    x, mean = tensors["x"], tensors["mu"]
    sigma2 = sigma2_of(tensors)
    std = torch.sqrt(x**2 @ sigma2.T + eps)
    if clip is not None:
        with torch.no_grad():
            alpha = (
                sigma2 / (mean**2 + EPS) if "log_sigma2" in tensors else _alpha_2d(tensors["log_alpha"], mean)
            )
        mean = mean * (alpha.log() < clip)
    y = x @ mean.T + std * noise.reshape(std.shape)
    return (y + tensors["bias"] if "bias" in tensors else y), std


def sigma2_of(tensors: Mapping[str, Tensor]) -> Tensor:
    if "log_sigma2" in tensors:
        return tensors["log_sigma2"].exp()
    return _alpha_2d(tensors["log_alpha"], tensors["mu"]) * tensors["mu"] ** 2


def truth(case: Case, tensors: Mapping[str, Tensor], grads: tuple[Tensor, ...]) -> dict[str, Truth]:
    """Outputs (``y``, ``kl``) and gradients (``d_x``, ...) of a case, given the outputs' gradients.

    `tensors` and `grads` may have any dtype; they are taken as exact.
    """
    exact = {k: t.detach().double().contiguous().requires_grad_() for k, t in tensors.items()}
    upstream = [g.double() for g in grads]
    seed = torch.tensor(case.options.get("seed", SEED))
    prior = case.options.get("prior", "log-uniform")
    outputs: dict[str, Tensor] = {}
    if case.noisy:
        outputs["y"], std, noise = _sampled(case, exact, seed, upstream[0])
    if case.with_kl:
        outputs["kl"] = kl_each(exact, prior).sum()
    d = torch.autograd.grad(list(outputs.values()), list(exact.values()), upstream)
    expected = outputs | {f"d_{k}": g for k, g in zip(exact, d, strict=True)}
    with torch.no_grad():
        sizes = {k: torch.zeros_like(t) for k, t in expected.items()}
        lengths = dict.fromkeys(expected, 1)
        if case.noisy:
            sizes_of: Callable[..., None] = partial(plain_conv.magnitudes, options=case.options)
            if case.op.startswith("linear_lrt"):
                sizes_of = _linear_magnitudes
            sizes_of(
                exact, upstream[0].abs(), noise.abs().reshape(std.shape), std, sizes=sizes, lengths=lengths
            )
        if case.with_kl:
            _kl_magnitudes(exact, prior, upstream[-1].abs(), sizes, lengths)
    return {k: Truth(t.detach(), sizes[k], lengths[k]) for k, t in expected.items()}


def _sampled(
    case: Case, exact: Mapping[str, Tensor], seed: Tensor, like_y: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(y, std, noise) of a case with noise."""
    if case.op.startswith("conv2d_lrt"):
        noise = philox_normal(seed, like_y.shape[:2].numel(), like_y.shape[2:].numel(), torch.float64)
        return (*plain_conv.conv2d_lrt(exact, noise, case.options), noise)
    rows, out = exact["x"].shape[:-1].numel(), exact["mu"].shape[0]
    noise = philox_normal(seed, rows, out, torch.float64)
    eps, clip = case.options.get("eps", 1e-8), case.options.get("clip_log_alpha")
    return (*linear_lrt(exact, noise, eps, clip), noise)


def _linear_magnitudes(
    tensors: Mapping[str, Tensor],
    dy: Tensor,  # |dL/dy|, [*, O]
    noise: Tensor,  # |e|, [*, O]
    std: Tensor,  # [*, O]
    sizes: dict[str, Tensor],
    lengths: dict[str, int],
) -> None:
    """Add the absolute values of the terms behind every result of `linear_lrt`."""
    out, inp = tensors["mu"].shape
    x, mu, sigma2 = tensors["x"].abs(), tensors["mu"].abs(), sigma2_of(tensors)
    rows = x.shape[:-1].numel()
    sizes["y"] += x @ mu.T + std * noise
    g_v = dy * noise / (2 * std)
    sizes["d_x"] += dy @ mu + 2 * x * (g_v @ sigma2)
    d_mean = dy.reshape(rows, out).T @ x.reshape(rows, inp)  # [O, I]
    d_sigma2 = (g_v.reshape(rows, out).T @ x.reshape(rows, inp) ** 2) * sigma2  # [O, I], of log_sigma2
    sizes["d_mu"] += d_mean
    lengths |= {"y": inp, "d_x": inp + out, "d_mu": inp + rows}
    if "bias" in tensors:
        sizes["y"] += tensors["bias"].abs()
        sizes["d_bias"] += dy.reshape(rows, out).sum(0)
        lengths["d_bias"] = rows
    if "log_sigma2" in tensors:
        sizes["d_log_sigma2"] += d_sigma2
        lengths["d_log_sigma2"] = inp + rows
        return
    la = tensors["log_alpha"]
    sizes["d_mu"] += 2 * torch.where(mu > 0, d_sigma2 / mu, 0)
    per_output = la.ndim == 1 and la.numel() == out != inp
    sizes["d_log_alpha"] += d_sigma2.sum_to_size((out, 1) if per_output else la.shape).reshape(la.shape)
    lengths["d_log_alpha"] = inp + rows + out * inp // max(la.numel(), 1)


def _kl_magnitudes(
    tensors: Mapping[str, Tensor], prior: str, grad: Tensor, sizes: dict[str, Tensor], lengths: dict[str, int]
) -> None:
    """Add the absolute terms of KL and its gradients.

    log_alpha is a difference of two numbers that were rounded, so it is off by u (|log_sigma2| +
    |log(mu^2 + eps)|); the value moves by |slope| times that, and the slope by at most three times its own
    size (the steepest is Kingma's alpha^3).
    """
    if (sd := normal_sd(prior)) is not None:
        mu, log_sigma2 = tensors["mu"].abs() / sd, tensors["log_sigma2"]
        ratio = log_sigma2.exp() / sd**2
        sizes["kl"] += (
            ratio * (1 + log_sigma2.abs()) + mu**2 + 1 + log_sigma2.abs() + 2 * abs(math.log(sd))
        ).sum()
        lengths["kl"] += mu.numel()
        sizes["d_mu"] += grad * mu / sd
        sizes["d_log_sigma2"] += grad * (ratio * (1 + log_sigma2.abs()) + 1)
        return
    la = log_alpha(tensors)
    if prior == "log-uniform-kingma":
        a = la.exp()
        value = C1 + 0.5 * la.abs() + C1 * a - C2 * a**2 + C3 * a**3
        slope = 0.5 + C1 * a - 2 * C2 * a**2 + 3 * C3 * a**3
    else:
        leaf = la.detach().requires_grad_()
        with torch.enable_grad():
            terms = kl_terms(leaf, prior)
            slope = torch.autograd.grad(terms.sum(), leaf)[0].abs()
        value = terms.detach()
    length = la.numel() + (_SERIES_TERMS if prior == "log-uniform-exact" else 0)
    condition = la.abs()
    if "log_alpha" not in tensors:
        condition = tensors["log_sigma2"].abs() + torch.log(tensors["mu"] ** 2 + EPS).abs()
    sizes["kl"] += (value + slope * condition).sum()
    slope = grad * slope * (1 + 3 * condition)
    for name in ("log_alpha", "log_sigma2"):
        if name in tensors:
            sizes[f"d_{name}"] += slope
    if "log_sigma2" in tensors:
        mu = tensors["mu"]
        sizes["d_mu"] += 2 * slope * mu.abs() / (mu**2 + EPS)
    for name in lengths:
        lengths[name] += length if name == "kl" else length - la.numel()
