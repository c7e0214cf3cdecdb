"""Targeted dropout (Gomez et al. 2019, arXiv 1905.13678): the smallest weights, dropped at random."""

from __future__ import annotations

import torch
from torch import Tensor

from ..philox_bits.reference import philox_bits

GRANULARITIES = ("weight", "unit", "unit-element")
MEANT = 1 + 2.0**-22  # 0.29 of 100 are 29, and 0.53 of 100 are 53, though rounding left gamma short of them


def rank(gamma: Tensor, n: int) -> Tensor:
    """int(gamma n), an int64 scalar in [0, n]."""
    return (gamma.double() * n * MEANT).floor().clamp(0, n).long()


def word_bound(alpha: Tensor) -> Tensor:
    """int(alpha 2^32), an int64 scalar: words below it drop what is a candidate."""
    return (alpha.double() * 2.0**32).floor().clamp(0, 2.0**32).long()


def kth_smallest(magnitude: Tensor, gamma: Tensor) -> Tensor:
    """Along the last dimension the magnitude of index int(gamma n) in rising order, infinity from n on.

    NaN counts as infinite.
    """
    n = magnitude.shape[-1]
    index = rank(gamma, n)
    rising = magnitude.nan_to_num(nan=torch.inf, posinf=torch.inf).sort(-1).values
    padded = torch.cat([rising, torch.full_like(rising[..., :1], torch.inf)], -1) if n else rising
    return padded.index_select(-1, index.reshape(1)).squeeze(-1)


def thresholds(w: Tensor, gamma: Tensor, granularity: str) -> Tensor:
    """[O]: weights of row o below it in magnitude are candidates.

    ``weight``: the k-th smallest magnitude of each row. Units: infinity for rows whose L2 norm is below the
    k-th smallest norm, 0 for all others. So what is not finite, or lies in a row that is not, is never a
    candidate.
    """
    wide = w.abs().double()
    if w.numel() == 0:
        return w.new_zeros(w.shape[0], dtype=compute_dtype(w))
    if granularity == "weight":
        return kth_smallest(wide, gamma).to(compute_dtype(w))
    norm = (
        wide.square().sum(1).sqrt().to(compute_dtype(w))
    )  # [O]; in double, so that any order of summing is right
    smaller = norm < kth_smallest(norm, gamma)
    return torch.where(smaller, torch.inf, 0.0).to(compute_dtype(w))


def compute_dtype(w: Tensor) -> torch.dtype:
    return torch.float64 if w.dtype == torch.float64 else torch.float32


def dropped(w: Tensor, threshold: Tensor, alpha: Tensor, seed: Tensor, granularity: str) -> Tensor:
    """bool [O, I]: candidates whose word is below alpha 2^32, one word an element, or a row for ``unit``."""
    rows, cols = w.shape
    bits = philox_bits(seed, 1, rows).T if granularity == "unit" else philox_bits(seed, rows, cols)
    return (w.abs().to(threshold.dtype) < threshold[:, None]) & (bits < word_bound(alpha))


def weight_mask(
    w: Tensor, gamma: Tensor, alpha: Tensor, seed: Tensor, granularity: str
) -> tuple[Tensor, Tensor]:
    """(w without what is dropped, thresholds [O])."""
    threshold = thresholds(w, gamma, granularity)
    return weight_mask_grad(w, w, threshold, alpha, seed, granularity), threshold


def weight_mask_grad(
    grad: Tensor, w: Tensor, threshold: Tensor, alpha: Tensor, seed: Tensor, granularity: str
) -> Tensor:
    """grad, 0 where w was dropped: the mask is a constant."""
    return grad.masked_fill(dropped(w, threshold, alpha, seed, granularity), 0.0).contiguous()
