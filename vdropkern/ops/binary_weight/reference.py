"""Binary weights with a scale a filter (Rastegari et al. 2016, arXiv 1603.05279, section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..mul_noise.reference import compute_dtype

GRADIENTS = ("corrected", "original")


def _signs(w: Tensor) -> Tensor:
    return torch.where(w >= 0, 1.0, torch.where(w < 0, -1.0, w))


def _scale(w: Tensor) -> Tensor:
    """alpha_o = ||w_o||_1 / n, [O, 1]; 0 for a filter without weights."""
    return w.abs().sum(1, keepdim=True) / max(w.shape[1], 1)


def binary_weight(
    w: Tensor,  # [O, n]
) -> tuple[Tensor, Tensor]:
    """(alpha_o sign(w) of w's shape and dtype, alpha [O])."""
    wide = w.to(compute_dtype(w))
    alpha = _scale(wide)
    return (alpha * _signs(wide)).to(w.dtype).contiguous(), alpha[:, 0].to(w.dtype)


def binary_weight_backward(
    grad: Tensor,  # [O, n]
    w: Tensor,  # [O, n]
    gradient: str,
) -> Tensor:
    """With g = grad, the incoming gradient of alpha_o sign(w):

    corrected: dw_i = sign(w_i) / n sum_j g_j sign(w_j) + alpha g_i 1[|w_i| <= 1]
    original:  dw_i = g_i (1 / n + alpha 1[|w_i| <= 1])       (equation 11 of the paper)
    """
    dtype = compute_dtype(w, grad)
    g, wide = grad.to(dtype), w.to(dtype)
    n = max(w.shape[1], 1)
    signs = _signs(wide)
    through_scale = g if gradient == "original" else signs * (g * signs).sum(1, keepdim=True)
    through_sign = torch.where(wide.abs() <= 1, _scale(wide) * g, 0)
    return (through_scale / n + through_sign).to(w.dtype).contiguous()
