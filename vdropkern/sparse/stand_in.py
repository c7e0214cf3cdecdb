"""Which saved layer can take the place of which layer of a model."""

from __future__ import annotations

from typing import Any

import torch

from ..nn import Dropout
from .conv import SparseConv2d
from .known import CONV_ARGUMENTS
from .linear import SparseLinear
from .structure import StructureError

__all__ = ["check_stands_in"]

_OTHERS = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.Identity, torch.nn.PReLU, Dropout)


def _geometry(layer: torch.nn.Module | None) -> tuple[str, tuple[Any, ...]] | None:
    """(kind and names, values) of what layers that can stand for each other share; None: not such a layer."""
    bias = getattr(layer, "bias", None) is not None
    if isinstance(layer, (torch.nn.Linear, SparseLinear)):
        return "linear (in_features, out_features, bias)", (layer.in_features, layer.out_features, bias)
    for cls, sparse in ((torch.nn.Conv1d, ()), (torch.nn.Conv2d, SparseConv2d)):
        if isinstance(layer, (cls, sparse)):
            own = {name: getattr(layer, name, None) for name in CONV_ARGUMENTS}
            own |= {"bias": bias, "padding": _padding(layer), "padding_mode": own["padding_mode"] or "zeros"}
            return f"{cls.__name__} ({', '.join(own)})", tuple(own.values())
    return None


def _padding(layer: Any) -> Any:
    """As numbers, which is how sparse convolutions have it, where there are such."""
    if layer.padding == "valid":
        return tuple(0 for _ in layer.kernel_size)
    total = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    if layer.padding == "same" and not any(size % 2 for size in total):
        return tuple(size // 2 for size in total)
    return layer.padding


def check_stands_in(name: str, old: torch.nn.Module | None, new: torch.nn.Module, shrunk: bool) -> None:
    """Raise unless a saved layer `new` can take the place of a model's own `old`.

    Of a shrunk model it may have fewer units and a bias of its own, and be gone altogether.
    """
    what = "nothing" if old is None else f"a {type(old).__name__}"
    if shrunk and old is not None and isinstance(new, _OTHERS):
        gone = type(new) is torch.nn.Identity and not list(old.children()) and _geometry(old) is None
        if type(old) is not type(new) and not gone:
            raise StructureError(f"{name} must be a {type(new).__name__}, the model has {what} there")
        return
    if shrunk and isinstance(new, torch.nn.Sequential):
        new = new[-1]  # behind its Select
    has, saved = _geometry(old), _geometry(new)
    if saved is None:
        raise StructureError(f"{name} is described as a {type(new).__name__}, which has no weight")
    kind, _, names = saved[0].partition(" ")
    if has is None or has[0] != saved[0]:
        raise StructureError(f"{name} must be a {kind} layer, the model has {what} there")
    if has[1] != saved[1] and not (shrunk and _is_smaller(names, has[1], saved[1])):
        raise StructureError(f"{name} must have {names} = {has[1]}, the file's has {saved[1]}")


def _is_smaller(names: str, has: tuple[Any, ...], saved: tuple[Any, ...]) -> bool:
    """Whether units are all that is missing."""
    for name, own, other in zip(names.strip("()").split(", "), has, saved, strict=True):
        if name in ("in_features", "out_features", "in_channels", "out_channels", "groups", "bias"):
            if (name == "bias" and own > other) or (name != "bias" and own < other):
                return False
        elif own != other:
            return False
    return True
