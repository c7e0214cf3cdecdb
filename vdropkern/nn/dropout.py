"""Noise as a module of its own, before or after a layer."""

from __future__ import annotations

import torch
from torch import Tensor

from ..methods import Method, NoDropout
from .variational import Variational, check_method

__all__ = ["Dropout"]


class Dropout(Variational):
    """Multiplicative noise of mean 1 on units, with the noise's scale learned per unit: y = x * xi.

    What a layer with noise at its input does, without the layer: for one rate a unit between any two modules,
    such as channels before a flatten (`channel_dim` -3) or C H W features after it (-1). The `method`'s noise
    must enter at the input (`Bernoulli`, `GaussianS`, `VariationalA`, `SparseVD(noise="input")`,
    `HierarchicalVD(noise="input")`, ...) or be a gate of units. In eval mode ``mean`` x passes through, with
    pruned units at zero.

    Args:
        num_units: C, the size of dimension `channel_dim` of x.
        method: a `vdropkern.methods.Method`.
        channel_dim: from the end: -1 for features, -2 for [*, C, L], -3 for [*, C, H, W].
        device, dtype: of the method's parameters.

    Shapes: x [*, C] or [*, C, ...] -> y as x; log_alpha [1, C] (or [1, 1] for granularity ``layer``).

    Raises:
        TypeError: `method` is no Method.
        ValueError: the method's noise enters elsewhere, or its KL needs a layer's weights; num_units < 1 or
            channel_dim > -1.
    """

    bias = None
    _dense_state = ()

    def __init__(
        self,
        num_units: int,
        method: Method,
        channel_dim: int = -1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_method(method)
        if method.enters not in ("nowhere", "input", "gate"):
            raise ValueError(
                "Dropout: method must have its noise at the input or in a gate of units, as VariationalA() "
                f"or SparseVD(noise='input'), got {method}, whose noise enters at: {method.enters}"
            )
        if method.needs_weights:
            raise ValueError(f"Dropout: the KL of {method} is one of a layer's weights; use it in the layer")
        if num_units < 1:
            raise ValueError(f"Dropout: num_units must be >= 1, got {num_units}")
        if channel_dim > -1:
            raise ValueError(f"Dropout: channel_dim must be counted from the end, <= -1, got {channel_dim}")
        super().__init__()
        self.num_units, self.channel_dim = num_units, channel_dim
        # what each unit is multiplied by; a buffer, so that it moves and is saved with the module
        self.register_buffer("weight", torch.ones(1, num_units, device=device, dtype=dtype))
        self._init_noise(method)
        self.requires_grad_()

    def unit_shape_in(self, per_unit: Tensor) -> Tensor:
        return per_unit.reshape(-1, *(1,) * (-self.channel_dim - 1))

    def unit_shape_weight(self, per_unit: Tensor, of: str) -> Tensor:
        return per_unit.reshape(1, -1)

    def unit_shape_out(self, per_unit: Tensor) -> Tensor:
        return self.unit_shape_in(per_unit)

    @property
    def out_units(self) -> int:
        return self.num_units

    def _dense(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return x * self.unit_shape_in(weight).to(x.dtype)

    def _plain(self, x: Tensor) -> Tensor:
        # ones, save in what to_dense makes
        return x if self.method.noisy else self._dense(x, self.weight, None)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  the name in torch.nn
        if input.ndim < -self.channel_dim or input.shape[self.channel_dim] != self.num_units:
            raise ValueError(
                f"Dropout: x must have {self.num_units} units in dimension {self.channel_dim}, "
                f"got {tuple(input.shape)}"
            )
        return super().forward(input)

    def reset_parameters(self) -> None:
        """The method's first values; every unit counts once."""
        with torch.no_grad():
            self.weight.fill_(1.0)
        self.reset_noise()

    def to_dense(self) -> torch.nn.Module:
        """The same module without noise: x times what is left of each unit."""
        dense = Dropout(self.num_units, NoDropout(), self.channel_dim, self.weight.device, self.weight.dtype)
        with torch.no_grad():
            dense.weight.copy_(self.pruned_weight())
        return dense.train(self.training)

    def extra_repr(self) -> str:
        return f"{self.num_units}, channel_dim={self.channel_dim}, method={self.method}"
