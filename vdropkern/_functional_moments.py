"""Mean and variance through nonlinearities, which `functional` re-exports."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._validate import check_tensor

__all__ = ["relu_moments"]


def relu_moments(mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of relu(X), X ~ N(mean, var).

    With s = sqrt(var), phi and Phi the standard normal's density and distribution, t = mean / s and
    z = phi(t) - |t| Phi(-|t|),

        E = mean Phi(t) + s phi(t) = relu(mean) + s z,
        Var = (mean^2 + var) Phi(t) + mean s phi(t) - E^2 = var (Phi(t) - |t| z - z^2),

    (Wang & Manning 2013, ICML, who push moments through a net instead of drawing noise). The forms on the
    right do not cancel where mean^2 is far above var. Where var is 0: relu(mean) and 0.

    Args:
        mean, var: one shape and floating dtype; var >= 0.

    Returns:
        (mean, variance), of that shape and dtype; differentiable.

    Raises:
        ValueError: shapes or dtypes differ, or are not floating.
    """
    check_tensor(mean, "mean", "relu_moments")
    check_tensor(var, "var", "relu_moments")
    if mean.shape != var.shape or mean.dtype != var.dtype or not mean.is_floating_point():
        raise ValueError(
            "relu_moments: mean and var must share one shape and floating dtype, "
            f"got {mean.dtype} {tuple(mean.shape)} and {var.dtype} {tuple(var.shape)}"
        )
    some = var > 0
    s = torch.where(some, var, 1.0).sqrt()  # gradients of the branch not taken stay finite
    # beyond 12 standard deviations z is below 1e-33
    t = (mean / s).clamp(-12, 12)
    density = torch.exp(-0.5 * t * t) / math.sqrt(2 * math.pi)
    below, above = (0.5 * torch.erfc(sign * t / math.sqrt(2)) for sign in (-1, 1))  # Phi(t), Phi(-t)
    # by cases rather than by |t| and relu, whose gradients at 0 are not these functions'
    positive = t >= 0
    z = density + torch.where(positive, -t * above, t * below)
    first = torch.where(positive, mean, 0.0) + s * z
    second = below - torch.where(positive, t, -t) * z - z * z
    return torch.where(some, first, mean.relu()), torch.where(some, var * second.clamp(min=0.0), 0.0)
