"""Which max pooling runs as op ``max_pool2d``."""

from __future__ import annotations

import torch

from ..ops.max_pool2d import PoolGeometry

__all__ = ["pool_geometry", "pool_key"]


def _pair(size: int | tuple[int, ...]) -> tuple[int, ...]:
    return (size, size) if isinstance(size, int) else tuple(size)


def pool_key(pool: torch.nn.MaxPool2d) -> tuple[object, ...]:
    """What the geometry is made of: while this is equal, so is that."""
    d = pool.__dict__
    return (d["kernel_size"], d["stride"], d["padding"], d["dilation"], d["ceil_mode"], d["return_indices"])


def pool_geometry(pool: torch.nn.MaxPool2d) -> PoolGeometry | None:
    """The windows as the op takes them; None where the places are wanted too."""
    if pool.return_indices:
        return None
    pairs = [_pair(size) for size in (pool.kernel_size, pool.stride, pool.padding, pool.dilation)]
    if any(len(pair) != 2 for pair in pairs):
        return None  # torch says what is wrong with it
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = pairs
    return PoolGeometry(kh, kw, sh, sw, ph, pw, dh, dw, bool(pool.ceil_mode))
