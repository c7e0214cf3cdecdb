"""Binarised activations and the surrogates of their derivatives ("straight-through estimators")."""

from __future__ import annotations

import torch
from torch import Tensor

from ..mul_noise.reference import compute_dtype, layout_of, rows_and_cols
from ..philox_bits.reference import philox_bits

# the estimators, and the levels of [0, 1] that an activation takes: 0 means the signs -1 and +1
ESTIMATORS = {
    "identity": 0,
    "hard-tanh": 0,
    "steep": 0,
    "swish": 0,
    "polynomial": 0,
    "stochastic": 0,
    "clipped": 1,
    "ternary": 2,
    "two-bit": 3,
}
BOXES = ("hard-tanh", "steep", "stochastic", "clipped", "ternary", "two-bit")  # a constant on an interval
SMOOTH = ("swish", "polynomial")  # those whose derivative needs x itself
WORD = 64  # flags in an int64


def in_memory_order(x: Tensor) -> Tensor:
    """x's elements as the results lie in memory."""
    if layout_of(x) == torch.channels_last:
        x = x.permute(0, 2, 3, 1)
    return x.reshape(-1)


def pack_bits(flags: Tensor) -> Tensor:
    """bool [*, n] -> int64 [*, ceil(n / 64)]; flag i is bit i % 64 of word i // 64, those beyond n are 0."""
    n = flags.shape[-1]
    words = -(-n // WORD)
    bits = torch.nn.functional.pad(flags.to(torch.int64), (0, words * WORD - n))
    shifts = torch.arange(WORD, device=flags.device)
    return (bits.reshape(*flags.shape[:-1], words, WORD) << shifts).sum(-1)


def unpack_bits(words: Tensor, n: int) -> Tensor:
    """The inverse of `pack_bits`."""
    shifts = torch.arange(WORD, device=words.device)
    bits = (words[..., None] >> shifts & 1).bool()
    return bits.reshape(*words.shape[:-1], words.shape[-1] * WORD)[..., :n]


def _sign(x: Tensor) -> Tensor:
    """sign(0) = +1, NaN stays NaN."""
    return torch.where(x >= 0, 1.0, torch.where(x < 0, -1.0, x))


def _levels(x: Tensor, n: int) -> Tensor:
    """x in [0, 1] rounded to the nearest k / n, halves upwards; outside it is clipped."""
    reached = sum((x >= (2 * i - 1) / (2 * n)).to(x.dtype) for i in range(1, n + 1))
    assert isinstance(reached, Tensor)
    return torch.where(x == x, reached / n, x)


def _stochastic(x: Tensor, seed: Tensor) -> Tensor:
    """+1 with probability (x + 1) / 2, clipped to [0, 1], by the upper 24 bits of a random word."""
    uniform = (philox_bits(seed, *rows_and_cols(x)) >> 8).to(x.dtype) * 2.0**-24
    return torch.where(uniform.reshape(x.shape) < (x + 1) / 2, 1.0, torch.where(x == x, -1.0, x))


def passes(x: Tensor, estimator: str, strength: float) -> Tensor:
    """Where a box lets the gradient through."""
    if ESTIMATORS[estimator]:
        return (x >= 0) & (x <= 1)
    return x.abs() <= (1 / strength if estimator == "steep" else 1.0)


def slope(x: Tensor, estimator: str, strength: float) -> Tensor:
    """The derivative of the two smooth surrogates.

    swish: beta (2 - u tanh(u / 2)) / (1 + cosh u), u = beta x. polynomial: 2 - 2 |x| within [-1, 1].
    """
    if estimator == "polynomial":
        return (2 - 2 * x.abs()).clamp_min(0)
    half = (x.abs() * strength / 2).clamp_max(40)  # beyond, nothing is left in float32; half^2 stays finite
    return strength * (1 - half * half.tanh()) / half.cosh() ** 2


def sign_ste(
    x: Tensor, seed: Tensor | None, estimator: str, strength: float, needs_gate: bool
) -> tuple[Tensor, Tensor]:
    """(y of x's shape and dtype, the gate: a bit an element, or empty where it is not asked for)."""
    wide = x.to(compute_dtype(x))
    if estimator == "stochastic":
        assert seed is not None
        y = _stochastic(wide, seed)
    elif levels := ESTIMATORS[estimator]:
        y = _levels(wide, levels)
    else:
        y = _sign(wide)
    gate = torch.empty(0, dtype=torch.int64, device=x.device)
    if needs_gate and estimator in BOXES:
        gate = pack_bits(in_memory_order(passes(wide, estimator, strength)))
    return y.to(x.dtype).contiguous(memory_format=layout_of(x)), gate


def sign_ste_backward(
    grad: Tensor, x: Tensor | None, gate: Tensor | None, estimator: str, strength: float, channels_last: bool
) -> Tensor:
    """dx = dy g(x), with g from x or from the gate, in the memory format the result had."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    dy = grad.to(compute_dtype(grad)).contiguous(memory_format=layout)
    if x is not None:
        dx = dy * slope(x.to(compute_dtype(x)), estimator, strength)
    else:
        assert gate is not None
        passed = unpack_bits(gate, dy.numel())
        if channels_last:
            n, c, h, w = dy.shape
            passed = passed.reshape(n, h, w, c).permute(0, 3, 1, 2)
        factor = strength if estimator == "steep" else 1.0
        dx = torch.where(passed.reshape(dy.shape), dy * factor, 0)
    return dx.to(grad.dtype).contiguous(memory_format=layout)
