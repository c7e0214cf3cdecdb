"""Noise on the weights themselves: one draw a forward pass, or one for each example."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ... import functional as F
from ..._method import logit
from ...methods import DropConnect
from ._base import Place

if TYPE_CHECKING:
    from ..variational import Variational


class Weight(Place):
    """y = x W^T + b with W = mu + sigma e or mu m / (1 - p); by flipout decorrelated between examples."""

    def sample(self, layer: Variational, x: Tensor) -> Tensor:
        method = layer.method
        if isinstance(method, DropConnect):
            if method.inference == "gaussian" and not layer.training:
                return layer._lrt(x, None, layer._constant(logit(method.p)))
            if method.draws == "example":
                return _dropped_each(layer, x, method.p)
            return layer._dense(x, F.weight_noise(layer.weight, p=method.p), layer.bias)
        log_sigma2, log_alpha = layer._noise()
        if method.noise == "flipout":  # type: ignore[attr-defined]  # methods of Gaussian weights have one
            # the channels of a convolution's input stand before its positions, batched or not
            positions = layer.weight.ndim - 2
            return F.flipout(
                x,
                layer.weight,
                log_sigma2,
                layer.bias,
                log_alpha=log_alpha,
                product=layer._dense,
                channel_dim=x.ndim - 1 - positions if positions else -1,
            )
        noisy = F.weight_noise(layer.weight, log_sigma2, log_alpha=log_alpha)
        return layer._dense(x, noisy, layer.bias)


def _dropped_each(layer: Variational, x: Tensor, p: float) -> Tensor:
    """Every example under a mask of its own; a linear layer's examples are all its rows."""
    weight, example = layer.weight, layer.weight.ndim - 1  # dimensions of an example: [I], or [C, *positions]
    n = math.prod(x.shape[: x.ndim - example])
    examples = x.reshape(n, *x.shape[x.ndim - example :])
    if n == 0:
        return layer._dense(x, weight, layer.bias)
    copies = weight.expand(n, *weight.shape).reshape(n * weight.shape[0], *weight.shape[1:])
    noisy = F.weight_noise(copies, p=p)
    y = torch.vmap(layer._dense, in_dims=(0, 0, None))(examples, noisy.reshape(n, *weight.shape), layer.bias)
    return y.reshape(*x.shape[: x.ndim - example], *y.shape[1:])
