"""``philox_normal``: standard normal noise, a pure function of (seed, element index)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..._backend import choose
from .._register import register
from . import reference

SCHEMA = "philox_normal(Tensor seed, SymInt rows, SymInt cols, ScalarType dtype) -> Tensor"

TRITON = f"{__name__}.triton"


def _fake(seed: Tensor, rows: int, cols: int, dtype: torch.dtype) -> Tensor:
    return seed.new_empty((rows, cols), dtype=dtype)


_op = register(SCHEMA, reference.philox_normal, _fake, triton=TRITON)


def philox_normal(seed: Tensor, rows: int, cols: int, dtype: torch.dtype) -> Tensor:
    """seed: int64 scalar tensor -> `dtype` [rows, cols]."""
    noise: Tensor = choose(_op, seed)(seed, rows, cols, dtype)
    return noise
