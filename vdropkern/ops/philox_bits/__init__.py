"""``philox_bits``: 32 random bits an element, a pure function of (seed, element index)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..._backend import choose
from .._register import register
from . import reference

SCHEMA = "philox_bits(Tensor seed, SymInt rows, SymInt cols) -> Tensor"

TRITON = f"{__name__}.triton"


def _fake(seed: Tensor, rows: int, cols: int) -> Tensor:
    return seed.new_empty((rows, cols), dtype=torch.int64)


_op = register(SCHEMA, reference.philox_bits, _fake, triton=TRITON)


def philox_bits(seed: Tensor, rows: int, cols: int) -> Tensor:
    """seed: int64 scalar tensor -> int64 [rows, cols], each in [0, 2^32)."""
    bits: Tensor = choose(_op, seed)(seed, rows, cols)
    return bits
