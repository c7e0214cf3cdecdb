"""The local reparameterisation of a convolution (Kingma, Salimans & Welling 2015, section 2.3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input, conv2d_weight

from ..kl import reference as kl_reference
from ..linear_lrt.reference import clipped, sigma2_of, without_autocast
from ..philox_normal.reference import philox_normal


def memory_format_of(x: Tensor, mu: Tensor) -> torch.memory_format:
    """The layout of the results: that of x, and NCHW where x is in neither.

    Where x is in both, as of one channel, its strides and then the weights' tell, as in torch.
    """
    last = x.is_contiguous(memory_format=torch.channels_last)
    if last and x.is_contiguous():
        last = _says_last(x) or _says_last(mu)
    return torch.channels_last if last else torch.contiguous_format


def weight_format_of(t: Tensor) -> torch.memory_format:
    """The layout of a weight's gradient: the weight's, and row-major where it is in neither or in both."""
    last = t.is_contiguous(memory_format=torch.channels_last) and not t.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def _says_last(t: Tensor) -> bool:
    last = t.is_contiguous(memory_format=torch.channels_last)
    made_so = t.stride(1) == 1 and t.stride(3) == t.shape[1]
    return last and made_so and t.shape[1:].numel() > 1


@without_autocast
def conv2d_lrt(
    x: Tensor,  # [N, C, H, W]
    mu: Tensor,  # [O, C / groups, kh, kw]
    log_sigma2: Tensor | None,  # as mu, or None with
    log_alpha: Tensor | None,  # of mu's sizes or 1 in each dimension
    bias: Tensor | None,  # [O]
    seed: Tensor,  # int64 scalar
    stride_h: int,
    stride_w: int,
    padding_h: int,
    padding_w: int,
    dilation_h: int,
    dilation_w: int,
    groups: int,
    prior: str,
    eps: float,
    clip: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """y = conv(x, mean) + bias + sqrt(v + eps) e, r = e / (2 sqrt(v + eps)), and the KL of the weights.

    v = conv(x^2, sigma^2); sigma^2 = exp(log_sigma2) or exp(log_alpha) mu^2; mean = mu where
    log_alpha < clip, else 0. KL is 0 with prior "none".
    """
    dtype = kl_reference.compute_dtype(x, mu, log_sigma2, log_alpha)
    geometry = ((stride_h, stride_w), (padding_h, padding_w), (dilation_h, dilation_w), groups)
    image, m = x.to(dtype), mu.to(dtype)
    y = F.conv2d(image, clipped(m, m, log_sigma2, log_alpha, clip), None, *geometry)  # [N, O, Ho, Wo]
    v = F.conv2d(image**2, sigma2_of(m, log_sigma2, log_alpha), None, *geometry)
    std = torch.sqrt(v + eps)
    rows, cols = y.shape[:2].numel(), y.shape[2:].numel()
    noise = philox_normal(seed, rows, cols, dtype).reshape(y.shape)
    y = y + std * noise
    if bias is not None:
        y = y + bias.to(dtype).reshape(-1, 1, 1)
    kl = y.new_zeros(())
    if prior != "none":
        kl = kl_reference.kl(None if log_alpha is not None else mu, log_sigma2, log_alpha, prior).to(dtype)
    layout = memory_format_of(x, mu)
    r = noise / (2 * std)
    return y.to(x.dtype).contiguous(memory_format=layout), r.contiguous(memory_format=layout), kl


@without_autocast
def conv2d_lrt_backward(
    grad_y: Tensor,  # [N, O, Ho, Wo]
    grad_kl: Tensor | None,  # scalar
    x: Tensor,  # [N, C, H, W]
    mu: Tensor,  # [O, C / groups, kh, kw]
    log_sigma2: Tensor | None,
    log_alpha: Tensor | None,
    r: Tensor,  # [N, O, Ho, Wo]
    stride_h: int,
    stride_w: int,
    padding_h: int,
    padding_w: int,
    dilation_h: int,
    dilation_w: int,
    groups: int,
    prior: str,
    clip: float,
    needs_x: bool,
    needs_weight: bool,
    needs_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, mu, the noise parameter and bias; those not needed are empty.

    With g_v = dy r: dx = conv_T(dy, mean) + 2 x conv_T(g_v, sigma^2), dmu = wgrad(dy, x) where
    log_alpha < clip, else 0, dlog = wgrad(g_v, x^2) sigma^2, and for log_alpha also
    dmu += 2 wgrad(g_v, x^2) alpha mu.
    """
    dtype = r.dtype
    geometry = ((stride_h, stride_w), (padding_h, padding_w), (dilation_h, dilation_w), groups)
    dy, image, m = grad_y.to(dtype), x.to(dtype), mu.to(dtype)
    g_v = dy * r
    sigma2 = sigma2_of(m, log_sigma2, log_alpha)
    noise = log_sigma2 if log_sigma2 is not None else log_alpha
    assert noise is not None
    dx, dmu, dlog, dbias = (t.new_empty(0) for t in (x, mu, noise, r))
    if needs_x:
        mean = clipped(m, m, log_sigma2, log_alpha, clip)
        dx = conv2d_input(x.shape, mean, dy, *geometry)
        dx = dx + 2 * image * conv2d_input(x.shape, sigma2, g_v, *geometry)
        dx = dx.to(x.dtype).contiguous(memory_format=memory_format_of(x, mu))
    if needs_weight:
        dv = conv2d_weight(image**2, mu.shape, g_v, *geometry)  # as mu
        dmu = clipped(conv2d_weight(image, mu.shape, dy, *geometry), m, log_sigma2, log_alpha, clip)
        dlog = dv * sigma2
        if log_alpha is not None:
            dmu = dmu + 2 * dv * log_alpha.to(dtype).exp() * m
            dlog = dlog.sum_to_size(log_alpha.shape)
        if prior != "none" and grad_kl is not None:
            _, kl_dmu, kl_dlog = kl_reference.kl_grad(
                grad_kl.to(dtype),
                None if log_alpha is not None else m,
                None if log_sigma2 is None else log_sigma2.to(dtype),
                None if log_alpha is None else log_alpha.to(dtype),
                prior,
            )
            dmu = dmu + kl_dmu if log_alpha is None else dmu
            dlog = dlog + kl_dlog
        dmu = dmu.to(mu.dtype).contiguous(memory_format=weight_format_of(mu))
        dlog = dlog.to(noise.dtype).contiguous(memory_format=weight_format_of(noise))
    if needs_bias:
        dbias = dy.sum((0, 2, 3))
    return dx, dmu, dlog, dbias
