"""In what arithmetic the kernels multiply: one rule for the means, one for the variances.

The mean path follows torch's own switch (`torch.backends.cuda.matmul.fp32_precision`, which
`torch.set_float32_matmul_precision` and `allow_tf32` set too). The variance path only scales noise and may be
cheaper; `set_precision` says how. Sums are in float32 always, and so are noise, KL and standard deviations.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import torch

from . import _devices

MEANS = ("torch", "ieee", "tf32x3", "tf32")
VARIANCES = ("auto", "ieee", "tf32x3", "tf32", "bf16")


class Precision(NamedTuple):
    """Arithmetic of a pair of products: ``ieee``, ``tf32x3``, ``tf32``, ``bf16``; ``native``: half inputs."""

    mean: str
    variance: str


_chosen = Precision("torch", "auto")


def get_precision() -> Precision:
    """What `set_precision` was last told: ("torch", "auto") unless it was."""
    return _chosen


def set_precision(mean: str | None = None, variance: str | None = None) -> None:
    """Choose the arithmetic of the products, for the process.

    ========  ====================================================================  ==================
    name      operands                                                              relative error each
    ========  ====================================================================  ==================
    ieee      float32, multiplied without tensor cores                              2^-24
    tf32x3    float32 as a sum of two tf32, three products                          about 2^-21
    tf32      float32 rounded to 11 significant bits                                2^-11 (2^-12 on average)
    bf16      rounded to 8 significant bits, the range of float32                   2^-8 (2^-9 on average)
    ========  ====================================================================  ==================

    A variance made of operands that are off by u each is off by at most 2u, and its root, the standard
    deviation of the noise, by u: with bf16 one part in 256, with tf32 one in 2048.

    Args:
        mean: of the mean products of float32 inputs. ``torch`` (the default) takes tf32 where
            `torch.backends.cuda.matmul.fp32_precision` is "tf32", else ieee. Half inputs multiply as they
            are.
        variance: of the variance products. ``auto`` (the default): as the mean for float32 inputs, bf16 for
            half inputs. float16 could not hold them: x^2 sigma^2 is often below its range.

    None leaves a choice as it is. On a CPU only ``variance="bf16"`` makes a difference, and only where it has
    the instructions (AVX512_BF16: Zen 4, Sapphire Rapids and later): the variance product then takes half the
    time. The reference computes in float32, or float64, whatever is chosen here.

    Raises:
        ValueError: unknown name; nothing is changed.
    """
    global _chosen
    new = Precision(
        _chosen.mean if mean is None else mean, _chosen.variance if variance is None else variance
    )
    for what, name, accepted in (("mean", new.mean, MEANS), ("variance", new.variance, VARIANCES)):
        if name not in accepted:
            raise ValueError(f"set_precision: unknown {what} {name!r}; accepted: {', '.join(accepted)}")
    _chosen = new
    if _devices.library_error is None:
        torch.ops.vdropkern.cpu_bf16_variance.default(int(new.variance == "bf16"))


@contextlib.contextmanager
def use_precision(mean: str | None = None, variance: str | None = None) -> Iterator[None]:
    """`set_precision` for a block; a backward pass takes what holds when it runs."""
    before = _chosen
    set_precision(mean, variance)
    try:
        yield
    finally:
        set_precision(*before)


def resolve(dtype: torch.dtype) -> Precision:
    """The arithmetic for inputs of `dtype` as things stand: no ``torch`` or ``auto`` in it."""
    mean, variance = _chosen
    half = dtype in (torch.float16, torch.bfloat16)
    if half:
        mean = "native"
    elif mean == "torch":
        mean = "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"
    if variance == "auto":
        variance = "bf16" if half else mean
    return Precision(mean, variance)
