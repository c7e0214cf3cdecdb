"""Noise on the weights themselves: one draw a forward pass, shared by the examples of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
