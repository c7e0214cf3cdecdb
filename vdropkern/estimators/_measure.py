"""How good an estimate of a gradient is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._net import Loss, Params

NORMALISE = ("tensor", "all", "none")


def _by_layer(names: Sequence[str]) -> dict[str, list[str]]:
    layers: dict[str, list[str]] = {}
    for name in names:
        layers.setdefault(name.rpartition(".")[0] or name, []).append(name)
    return layers


def cosines(a: Params, b: Params) -> dict[str, float]:
    """Cosine of the angle between two gradients in each layer (parameters of one prefix), and ``total``.

    NaN where one of them is zero.
    """
    if a.keys() != b.keys():
        raise ValueError(f"cosines: the gradients must be of one net, got {list(a)} and {list(b)}")

    def cosine(names: Sequence[str]) -> float:
        u, v = (torch.cat([g[n].double().reshape(-1) for n in names]) for g in (a, b))
        return float(u @ v / (u.norm() * v.norm()))

    found = {layer: cosine(names) for layer, names in _by_layer(list(a)).items()}
    return found | {"total": cosine(list(a))}


def step(params: Params, gradient: Params, lr: float, normalise: str = "tensor") -> dict[str, Tensor]:
    """params - lr g, each tensor of g divided by its own norm (``tensor``), by that of all, or by none."""
    if normalise not in NORMALISE:
        raise ValueError(f"step: unknown normalise {normalise!r}; accepted: {', '.join(NORMALISE)}")
    whole = torch.stack([g.norm() for g in gradient.values()]).norm() + 1e-8
    moved = {}
    for name, p in params.items():
        g = gradient[name]
        size = g.norm() + 1e-8 if normalise == "tensor" else whole if normalise == "all" else 1.0
        moved[name] = p - lr * g / size
    return moved


@torch.no_grad()
def loss_decrease(
    loss: Loss, params: Params, gradient: Params, lrs: Sequence[float], normalise: str = "tensor"
) -> list[float]:
    """L(w) - L(w - lr g) on the loss's own batch, for each lr; see `step` for g."""
    start = loss(params)
    return [float(start - loss(step(params, gradient, lr, normalise))) for lr in lrs]
