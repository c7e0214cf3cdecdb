"""Masks on the weights: the smallest ones, at random or all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ... import functional as F
from ...methods.masks import MaskedWeights
from ...ops.weight_mask.reference import thresholds
from ._base import Place

if TYPE_CHECKING:
    from ..variational import Variational


class Mask(Place):
    """y = x (m * W)^T + b; what the mask may take is chosen by magnitude, anew in every pass.

    Where a method ramps its shares, the layer counts its steps in the buffer ``mask_step``.
    """

    def init(self, layer: Variational) -> None:
        if _method(layer).ramp_steps:
            layer.register_buffer("mask_step", torch.zeros((), dtype=torch.int64, device=layer.weight.device))

    def reset(self, layer: Variational) -> None:
        if _method(layer).ramp_steps:
            _step(layer).zero_()

    def sample(self, layer: Variational, x: Tensor) -> Tensor:
        method = _method(layer)
        gamma, alpha = method.shares(_step(layer)) if method.ramp_steps else method.final_shares
        weight = F.weight_mask(layer.weight, gamma, alpha, granularity=method.mask_granularity)
        if method.straight_through:
            weight = layer.weight + (weight - layer.weight).detach()  # to the bit: w + 0 or w - w
        return layer._dense(x, weight, layer.bias)

    def keep_mask(self, layer: Variational) -> Tensor:
        method, weight = _method(layer), layer.weight.detach()
        gamma: Tensor | float | None = method.prune_share
        if gamma is None:
            return torch.ones_like(weight, dtype=torch.bool)
        if method.prunes_as_it_trains and method.ramp_steps:
            gamma, _ = method.shares(_step(layer))
        granularity = method.mask_granularity
        if torch.compiler.is_exporting():  # the same numbers by plain ATen
            share = torch.as_tensor(gamma, dtype=torch.float64, device=weight.device)
            bound = thresholds(weight.flatten(1), share, granularity)
        else:
            bound = F.weight_thresholds(weight, gamma, granularity=granularity)
        return ~(weight.abs() < bound.reshape(-1, *(1,) * (weight.ndim - 1)))

    def effective_weight(self, layer: Variational) -> Tensor:
        if _method(layer).prune_share is None:
            return layer.weight
        return torch.where(self.keep_mask(layer), layer.weight, 0.0)

    @torch.no_grad()
    def project_(self, layer: Variational) -> None:
        if _method(layer).ramp_steps:
            _step(layer).add_(1)


def _method(layer: Variational) -> MaskedWeights:
    assert isinstance(layer.method, MaskedWeights)
    return layer.method


def _step(layer: Variational) -> Tensor:
    step: Tensor = layer.mask_step  # type: ignore[assignment]  # a buffer
    return step
