"""Noise on the layer's input, one for each element of x."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ... import functional as F
from ...methods import MultiSampleDropout
from ..multi_sample import mean_dropped
from ._base import Place

if TYPE_CHECKING:
    from ..variational import Variational


class Input(Place):
    """y = (x * xi) W^T + b, xi of mean 1, drawn for every element of x.

    All weights of an input share its noise, so the KL counts once an input.
    """

    def sample(self, layer: Variational, x: Tensor) -> Tensor:
        scale = layer.method.scale
        if isinstance(layer.method, MultiSampleDropout):
            noisy = mean_dropped(x, layer.method.samples, layer.method.p)
        elif scale is None:
            noisy = F.mul_noise(x, layer.method.drop_probability)
        elif scale.bounds is None:
            noisy = F.mul_noise(x, layer.method.alpha, noise="gaussian")
        else:
            noisy = F.mul_noise(x, log_alpha=layer.unit_shape_in(getattr(layer, scale.name)))
        return layer._plain(noisy)

    def kl_terms(self, layer: Variational) -> int:
        return layer.in_units
