"""Noise on the pre-activation: Gaussian weights by local reparameterisation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ._base import Place

if TYPE_CHECKING:
    from ..variational import Variational


class PreActivation(Place):
    """y = x mu^T + b + sqrt(x^2 (sigma^2)^T + 1e-8) e, e ~ N(0, 1), drawn for every element of y."""

    def sample(self, layer: Variational, x: Tensor) -> Tensor:
        log_sigma2, log_alpha = layer._noise()
        collectors = layer._active_collectors()
        if not collectors or not _fuses_kl(layer, x):
            return layer._lrt(x, log_sigma2, log_alpha)
        prior = layer.method.kl_prior
        assert prior is not None
        y, kl = layer._lrt_kl(x, log_sigma2, log_alpha, prior)
        for collector in collectors:
            collector.report(layer, kl)
        return y


def _fuses_kl(layer: Variational, x: Tensor) -> bool:
    """Whether the forward pass can deliver the same KL, with the same gradients, as `kl`."""
    scale = layer.method.scale
    return (
        layer.method.kl_prior is not None
        and scale is not None
        and scale.granularity == "weight"
        # a reentrant checkpoint runs its first pass without gradients
        and torch.is_grad_enabled()
        # autocast hands the op weights rounded to its dtype
        and not torch.is_autocast_enabled(x.device.type)
    )
