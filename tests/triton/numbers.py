"""Numbers that numpy lacks, and what some instructions make of numbers, for tests/triton/interpreter.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def widen(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def narrow(values: np.ndarray) -> np.ndarray:
    u = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype(np.uint16)  # to nearest, ties to even
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded).reshape(np.shape(values))


def tf32(values: np.ndarray, truncate: bool) -> np.ndarray:
    """float32 with 13 bits fewer; to nearest with ties away from zero, as cvt.rna, or cut."""
    u = np.ascontiguousarray(values, np.float32).view(np.uint32)
    cut = ((u if truncate else u + 0x1000) & np.uint32(0xFFFFE000)).view(np.float32)
    return np.where(np.isfinite(values), cut, values).reshape(np.shape(values))


# inline assembly by a model for each instruction
def _bits_set(x: np.ndarray) -> np.ndarray:
    """Of 32-bit words, in fields of ever more bits (numpy counts them since 2.0 alone)."""
    x = x.view(np.uint32)
    x = x - (x >> 1 & 0x55555555)
    x = (x & 0x33333333) + (x >> 2 & 0x33333333)
    x = x + (x >> 4) & 0x0F0F0F0F
    return (x * np.uint32(0x01010101) >> 24).astype(np.int32)


ASSEMBLY: dict[str, Callable[..., np.ndarray]] = {
    "mov.b32 $0, $1;": lambda x: x,
    "cvt.rna.tf32.f32 $0, $1;": lambda x: tf32(x, truncate=False),
    "clz.b32 $0, $1;": lambda x: (32 - np.frexp(x.astype(np.float64))[1]).astype(np.int32),
    "popc.b32 $0, $1;": _bits_set,
    "shf.l.clamp.b32 $0, 0x80000000, $1, $2;": lambda high, n: (
        (((high.astype(np.uint64) << 32 | 0x80000000) << n.astype(np.uint64)) >> 32)
        .astype(np.uint32)
        .view(np.int32)
    ),
}
