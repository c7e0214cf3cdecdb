"""Noise on the layer's output, bias included, one for each element of y."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ... import functional as F
from ._base import Place

if TYPE_CHECKING:
    from ..variational import Variational


class Output(Place):
    """y = (x W^T + b) * (1 + sqrt(alpha) e), e ~ N(0, 1), drawn for every element of y."""

    def sample(self, layer: Variational, x: Tensor) -> Tensor:
        _, log_alpha = layer._noise()
        assert log_alpha is not None
        z = layer._dense(x, layer.weight, None)
        bias = None if layer.bias is None else layer.unit_shape_out(layer.bias)
        return F.mul_out_noise(z, layer.unit_shape_out(log_alpha), bias)

    def kl_terms(self, layer: Variational) -> int:
        return layer.out_units
