"""How far a result may lie from its float64 truth: one rule, from the dtype and the reduction length.

Notation: u = eps(dtype) / 2 is the unit roundoff. A sum of n products, added in any order, is off by at
most about n u M, where M is the sum of the products' absolute values (Higham, "Accuracy and Stability of
Numerical Algorithms", section 3.1). Roundings are as good as independent, so that bound is never met: with
probability 1 - 2 exp(-LAMBDA^2 / 2) a sum is within LAMBDA sqrt(n) u M (Higham & Mary, SIAM J. Sci. Comput.
41, 2019, theorem 2.4), and the smaller of the two bounds holds. What is done to an element before and after
its sum (an exponential, a logarithm, a root, the noise, a few products) costs no more than `ELEMENTWISE`
further roundings.

The error is taken relative to M and not to the result: where terms cancel, the result is small and the
error is not. With M the tolerance needs no fudge factor and still fails a kernel that, say, rounds its
operands to bfloat16 (u is 65536 times larger) or forgets one term in a hundred.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LAMBDA = 6.0  # 2 exp(-18) = 3e-8 a comparison
ELEMENTWISE = 32


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype an op computes in for inputs of `dtype`: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def tolerance(dtype: torch.dtype, length: int) -> float:
    """Relative error allowed in `dtype` after reductions of `length` terms in all.

    Relative to the sum of the terms' absolute values. `dtype` is the one computed in.
    """
    unit_roundoff = torch.finfo(dtype).eps / 2
    n = max(length, 1)
    return (min(n, LAMBDA * math.sqrt(n)) + ELEMENTWISE) * unit_roundoff


def bound(expected: Tensor, magnitude: Tensor, dtype: torch.dtype, length: int) -> Tensor:
    """Largest |actual - expected| allowed, element by element, for a result stored as `dtype`.

    Args:
        expected: float64 truth.
        magnitude: float64, the same shape, sum of absolute values of the terms behind each element.
        dtype: dtype of the result; half types are computed in float32 and rounded once, at the store.
        length: terms summed for an element, over all sums on the way to it.
    """
    computed = tolerance(compute_dtype(dtype), length) * magnitude
    if dtype in (torch.float32, torch.float64):
        # an exponential or product below the normal range may be flushed to zero
        return computed + torch.finfo(dtype).tiny
    info = torch.finfo(dtype)
    stored = (expected.abs() + computed) * (info.eps / 2) + info.smallest_normal * info.eps
    return computed + stored


def assert_close(
    actual: Tensor, expected: Tensor, magnitude: Tensor | None, length: int, what: str = "result"
) -> None:
    """Fail unless every element of `actual` lies within `bound` of `expected`.

    Args:
        actual: result in its own dtype.
        expected: float64 truth of the same shape.
        magnitude: see `bound`; None: |expected|, for results without cancellation.
        length: see `bound`.
        what: name for the message.
    """
    assert expected.dtype == torch.float64, f"{what}: the truth must be float64, got {expected.dtype}"
    assert actual.shape == expected.shape, f"{what}: shape {tuple(actual.shape)} != {tuple(expected.shape)}"
    if actual.numel() == 0:
        return
    magnitude = expected.abs() if magnitude is None else magnitude.expand_as(expected)
    allowed = bound(expected, magnitude, actual.dtype, length)
    error = (actual.detach().double() - expected).abs()
    wrong = ~(error <= allowed)  # NaN counts as wrong
    if not wrong.any():
        return
    ratio = (error / allowed).nan_to_num(math.inf, math.inf)
    worst = int(ratio.argmax())
    place = tuple(int(i) for i in torch.unravel_index(torch.tensor(worst), ratio.shape))
    raise AssertionError(
        f"{what} ({actual.dtype}, reduction length {length}): {int(wrong.sum())} of {wrong.numel()} elements "
        f"are off; worst at {place}: "
        f"got {actual.reshape(-1)[worst].item():.9g}, expected {expected.reshape(-1)[worst].item():.9g}, "
        f"allowed +-{allowed.reshape(-1)[worst].item():.3g} ({ratio.reshape(-1)[worst].item():.3g} times)"
    )
