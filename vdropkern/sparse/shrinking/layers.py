"""One linear or convolution layer: constants folded into its bias, and what is cut out of it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..._surgery import WeightLayer
from .units import Units, UnitSets

__all__ = ["Layer"]


class Layer:
    """A layer's weight in float64 while it is worked on; the module itself changes only in `cut`."""

    def __init__(self, name: str, module: WeightLayer, units: Units, sets: UnitSets) -> None:
        self.name, self.module = name, module
        self.groups: int = getattr(module, "groups", 1)
        self.weight = module.weight.detach().to("cpu", torch.float64, copy=True)  # [O, I / groups, ...]
        self.bias = None if module.bias is None else module.bias.detach().to("cpu", torch.float64)
        self.ids_in = units.ids
        self.ids_out = sets.fresh(self.weight.shape[0])
        if self.groups > 1:
            self._join_groups(sets)
        self._fold(units.const)
        self._merge(units.const)

    def _join_groups(self, sets: UnitSets) -> None:
        """Groups must stay of one size: one goes as a whole or not at all."""
        for inputs, outputs in zip(
            self.ids_in.chunk(self.groups), self.ids_out.chunk(self.groups), strict=True
        ):
            sets.join(inputs, inputs[:1])
            sets.join(outputs, inputs[:1])

    def _taps(self) -> Tensor:
        """The weight as [O, I / groups, taps]."""
        return self.weight.reshape(*self.weight.shape[:2], math.prod(self.weight.shape[2:]))

    def _constants(self, const: Tensor) -> Tensor:
        """The constants of the inputs that each row reads, [O, I / groups]."""
        return const.reshape(self.groups, -1).repeat_interleave(self.weight.shape[0] // self.groups, 0)

    def _pads_with_zeros(self) -> bool:
        """Whether an input that is the same everywhere is another one beyond the border."""
        module: Any = self.module
        if isinstance(module, torch.nn.Linear) or module.padding_mode != "zeros" or module.padding == "valid":
            return False
        if module.padding == "same":
            return any(size > 1 for size in module.kernel_size)
        return any(padding > 0 for padding in module.padding)

    def _fold(self, const: Tensor) -> None:
        """Move what constant inputs contribute into the bias."""
        const = torch.where(const.isfinite(), const, torch.nan)
        if self._pads_with_zeros():
            const = torch.where(const == 0, const, torch.nan)
        per_row = self._constants(const)
        known = ~per_row.isnan()
        taps = self._taps().sum(2)
        shift = torch.where(known & (taps != 0), taps * per_row, 0.0).sum(1)
        if bool((shift != 0).any()):
            self.bias = shift if self.bias is None else self.bias + shift
        self.weight[known] = 0

    def _merge(self, const: Tensor) -> None:
        """Let one constant input stand for all.

        Beyond a border of zeros a constant is none, so it cannot move into the bias; but all of them are
        multiples of one.
        """
        if self.groups > 1 or not self._pads_with_zeros():
            return
        read = (self._taps() != 0).any(2).any(0) & const.isfinite()
        if int(read.sum()) < 2:
            return
        one = int(torch.where(read, const, 0.0).abs().argmax())
        share = torch.where(read, const / const[one], 0.0)
        merged = torch.einsum("oi...,i->o...", self.weight[:, read], share[read])
        self.weight[:, read] = 0
        self.weight[:, one] = merged

    def const_out(self) -> Tensor:
        """[O]: the bias of rows without a weight, NaN elsewhere. As the layer itself will round it."""
        empty = (self._taps() == 0).all(2).all(1)
        bias = torch.zeros(len(empty), dtype=torch.float64) if self.bias is None else self.bias
        return torch.where(empty, bias.to(self.module.weight.dtype).double(), torch.nan)

    def reads(self, rows: Tensor) -> Tensor:
        """bool [I]: the inputs that these outputs (bool [O]) read. Grouped ones are told by their sets."""
        if self.groups > 1:
            return torch.zeros(len(self.ids_in), dtype=torch.bool)
        return (self._taps()[rows] != 0).any(2).any(0)

    @torch.no_grad()
    def cut(self, rows: Tensor, columns: Tensor) -> None:
        """Keep these outputs (bool [O]) and inputs (bool [I]), in the module itself."""
        weight = self.weight[rows]
        if self.groups == 1:
            weight = weight[:, columns]
        module: Any = self.module
        old = module.weight
        module.weight = torch.nn.Parameter(weight.to(old), requires_grad=old.requires_grad)
        if self.bias is not None:
            grad = old.requires_grad if module.bias is None else module.bias.requires_grad
            self.bias = self.bias[rows]
            module.bias = torch.nn.Parameter(self.bias.to(old), requires_grad=grad)
        if isinstance(module, torch.nn.Linear):
            module.out_features, module.in_features = weight.shape
        else:
            if self.groups > 1:
                module.groups = self.groups * int(columns.sum()) // len(columns)
            module.out_channels, module.in_channels = weight.shape[0], weight.shape[1] * module.groups
        self.weight = weight
