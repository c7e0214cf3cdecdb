"""Noise on the layer's input, one for each element of x."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ._base import Place

if TYPE_CHECKING:
    from ..variational import Variational


class Input(Place):
    """y = (x * xi) W^T + b, xi of mean 1, drawn for every element of x."""

    def sample(self, layer: Variational, x: Tensor) -> Tensor:
        dropped = torch.nn.functional.dropout(x, layer.method.drop_probability)
        return layer._dense(dropped, layer.weight, layer.bias)
