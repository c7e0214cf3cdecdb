"""Layers that multiply each unit by a number and add another: normalisation in evaluation, gates of units."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from ..._surgery import PLAIN, plain_class, why_not_plain
from ...nn import Dropout
from .tables import IDENTITIES, NORMS, first_input
from .trace import Traced

__all__ = ["cut_units", "fold_into_layers", "scale_and_shift", "unit_axis"]


def unit_axis(module: torch.nn.Module, dimensions: int) -> int:
    """The dimension of a module's units in a tensor of so many dimensions."""
    if isinstance(module, torch.nn.Linear):
        return dimensions - 1
    if isinstance(module, Dropout):
        return dimensions + module.channel_dim
    return dimensions - module.weight.ndim + 1 if isinstance(module, PLAIN) else 1


def scale_and_shift(module: Any) -> tuple[Tensor, Tensor] | None:
    """(s, t), both [C], of y = x s + t in evaluation; None where they depend on x, or are drawn."""
    if isinstance(module, Dropout):
        if module.method.noisy:
            return None
        scale = module.pruned_weight().detach().reshape(-1)
        return scale, torch.zeros_like(scale)
    if module.running_mean is None:
        return None
    scale = (module.running_var.double() + module.eps).rsqrt()
    if module.weight is not None:
        scale = scale * module.weight.detach().double()
    shift = -module.running_mean.double() * scale
    return scale, shift if module.bias is None else shift + module.bias.detach().double()


def fold_into_layers(traced: Traced, shapes: dict[fx.Node, torch.Size]) -> dict[torch.nn.Module, str]:
    """Fold what follows a linear or convolution layer into its weight and bias, in place.

    Returns:
        the modules that have nothing left to do, and where they went.
    """
    folded: dict[torch.nn.Module, str] = {}
    for node in traced.graph.nodes:
        module = traced.module(node) if node.op == "call_module" else None
        if type(module) not in (*NORMS, Dropout) or not traced.alone(node):
            continue
        fixed = scale_and_shift(module)
        source = _source(traced, node, folded)
        if fixed is None or source is None:
            continue
        layer: Any = traced.module(source)
        if unit_axis(layer, len(shapes[source])) != unit_axis(module, len(shapes[source])):  # type: ignore[arg-type]
            continue
        _scale_rows(layer, *fixed)
        folded[module] = str(source.target)  # type: ignore[index]
    return folded


def _source(traced: Traced, node: fx.Node, folded: dict[torch.nn.Module, str]) -> fx.Node | None:
    """The layer whose result, and nothing else, the node reads, and nothing else reads."""
    while True:
        before = first_input(node)
        if not isinstance(before, fx.Node) or len(before.users) != 1 or before.op != "call_module":
            return None
        node, module = before, traced.module(before)
        if isinstance(module, PLAIN):
            plain = type(module) is plain_class(module) and why_not_plain(module) is None
            return node if plain and traced.alone(node) else None
        if traced.hooked(module) or not (type(module) in IDENTITIES or module in folded):
            return None


@torch.no_grad()
def _scale_rows(layer: Any, scale: Tensor, shift: Tensor) -> None:
    weight = layer.weight
    rows = scale.double().reshape(-1, *(1,) * (weight.ndim - 1))
    bias = shift.double() if layer.bias is None else layer.bias.double() * scale.double() + shift.double()
    grad = weight.requires_grad if layer.bias is None else layer.bias.requires_grad
    # gated rows become zeros, whatever was in them
    scaled = torch.where(rows == 0, 0.0, weight.double() * rows)
    layer.weight = torch.nn.Parameter(scaled.to(weight.dtype), weight.requires_grad)
    if layer.bias is not None or bool((bias != 0).any()):
        layer.bias = torch.nn.Parameter(bias.to(weight.dtype), grad)


@torch.no_grad()
def cut_units(module: Any, keep: Tensor) -> None:
    """Keep these units (bool [C]) of a module with parameters and buffers of one number a unit, in place."""
    if isinstance(module, Dropout):
        module.weight = module.weight[:, keep.to(module.weight.device)]
        module.num_units = module.weight.shape[1]
        return
    for name, value in (*module._parameters.items(), *module._buffers.items()):
        if value is None or value.ndim == 0:
            continue
        left = value.detach()[keep.to(value.device)]
        if name in module._parameters:
            left = torch.nn.Parameter(left, value.requires_grad)
        setattr(module, name, left)
    name = "num_parameters" if isinstance(module, torch.nn.PReLU) else "num_features"
    setattr(module, name, int(keep.sum()))
