"""The coordinate discrete gradient of BinaryDuo (Kim et al. 2020, arXiv 2002.06517, section 4)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops.sign_mlp import layers_of, outputs_of
from ._net import Loss, Params, SignMlpLoss, flatten, unflatten


@torch.no_grad()
def cdg(
    loss: Loss, params: Params, eps: float = 0.1, *, incremental: bool | None = None
) -> dict[str, Tensor]:
    """(L(w + eps e_i) - L(w - eps e_i)) / (2 eps) for every parameter i, all of the loss's batch each time.

    Args:
        loss: a function of parameters by name.
        params: w, floating tensors by name.
        eps: > 0.
        incremental: for a `SignMlpLoss` (None: there): a parameter of one unit changes the loss only in rows
            where that unit's sign flips, and by the same amount whichever parameter flipped it. So each unit
            is flipped once, in those rows, instead of the whole net run twice a parameter.

    Raises:
        ValueError: eps is not > 0, or incremental is asked for another loss.
    """
    if not eps > 0:
        raise ValueError(f"cdg: eps must be > 0, got {eps}")
    fast = isinstance(loss, SignMlpLoss) if incremental is None else incremental
    if not fast:
        return _brute_force(loss, params, eps)
    if not isinstance(loss, SignMlpLoss):
        raise ValueError(f"cdg: incremental is for SignMlpLoss, got {type(loss).__name__}")
    return _incremental(loss, params, eps)


def _brute_force(loss: Loss, params: Params, eps: float) -> dict[str, Tensor]:
    flat = flatten(params)
    found = torch.empty_like(flat)
    for i in range(flat.numel()):
        ends = []
        for sign in (1, -1):
            moved = flat.clone()
            moved[i] += sign * eps
            ends.append(loss(unflatten(moved, params)))
        found[i] = (ends[0] - ends[1]) / (2 * eps)
    return unflatten(found, params)


def _signs(z: Tensor) -> Tensor:
    return torch.where(z >= 0, 1.0, -1.0).to(z.dtype)


def _incremental(loss: SignMlpLoss, params: Params, eps: float) -> dict[str, Tensor]:
    flat = flatten(params)
    layers = layers_of(flat, loss.width, loss.depth)
    out, before = outputs_of(loss.x, flat, loss.depth)
    error = out - loss.y
    inputs = [loss.x, *(_signs(z) for z in before)]
    found = []
    for layer in range(loss.depth):
        weight, bias = torch.empty_like(layers[layer][0]), torch.empty_like(layers[layer][1])
        reach = inputs[layer].abs().amax(1).clamp_min(1) * eps
        for unit in range(loss.width):
            z = before[layer][:, unit]
            rows = (z.abs() <= reach).nonzero()[:, 0]
            change = _change(loss, layers, inputs, before, error, layer, unit, rows)
            a = torch.nn.functional.pad(inputs[layer][rows], (0, 1), value=1.0)  # the bias's input is 1
            near, positive = z[rows, None], z[rows, None] >= 0
            up, down = (near + eps * a >= 0) != positive, (near - eps * a >= 0) != positive
            slope = change @ (up.to(a.dtype) - down.to(a.dtype)) / (2 * eps)
            weight[unit], bias[unit] = slope[:-1], slope[-1]
        found += [weight, bias]
    # the loss is quadratic in the last layer, whose central difference is the derivative
    found += [2 * (error @ inputs[-1] / len(out))[None], 2 * error.mean()[None]]
    return dict(zip(params, found, strict=True))


def _change(
    loss: SignMlpLoss,
    layers: list[tuple[Tensor, Tensor]],
    inputs: list[Tensor],  # of each layer, [B, n]
    before: list[Tensor],  # what each sign is taken of, [B, n]
    error: Tensor,  # [B]
    layer: int,
    unit: int,
    rows: Tensor,
) -> Tensor:
    """What flipping a unit in some rows adds to the loss, a row each."""
    flip = -2 * inputs[layer + 1][rows, unit]
    step = flip[:, None] * layers[layer + 1][0][:, unit]  # of the next layer's sums
    for later in range(layer + 1, loss.depth):
        h = _signs(before[later][rows] + step)
        step = (h - inputs[later + 1][rows]) @ layers[later + 1][0].T
    moved = error[rows] + step[:, 0]
    return (moved**2 - error[rows] ** 2) / len(error)
