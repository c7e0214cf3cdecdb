"""Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) in torch integers."""

from __future__ import annotations

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox4x32(counter: tuple[Tensor, ...], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Ten rounds on four counter words and two key words, each an int64 tensor holding 32 bits."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # int64 products wrap modulo 2^64, which keeps all 64 bits of the unsigned product
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        hi0, lo0 = (p0 >> 32) & _MASK, p0 & _MASK
        hi1, lo1 = (p1 >> 32) & _MASK, p1 & _MASK
        c0, c1, c2, c3 = hi1 ^ c1 ^ k0, lo1, hi0 ^ c3 ^ k1, lo0
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def philox_bits(seed: Tensor, rows: int, cols: int) -> Tensor:
    """bits[r, c] = word c % 4 of Philox(key = seed, counter = r * ceil(cols / 4) + c // 4)."""
    groups = (cols + 3) // 4  # a row is padded to whole groups of four, so no group straddles rows
    g = torch.arange(rows * groups, dtype=torch.int64, device=seed.device)
    zero = torch.zeros_like(g)
    words = philox4x32((g & _MASK, g >> 32, zero, zero), (seed & _MASK, (seed >> 32) & _MASK))
    return torch.stack(words, dim=-1).reshape(rows, groups * 4)[:, :cols].contiguous()  # [rows, cols]
