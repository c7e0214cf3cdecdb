"""What the CUDA kernels of sparse layers read beside the layer's own rows (CSR): the order of the rows."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._backend import native_on_gpu
from ..ops._register import functorch_active
from ..ops.spmm.csr import by_length

__all__ = ["Ordered", "may_order", "ordered", "version"]


class Seen(NamedTuple):
    """A tensor as it was: how often changed in place, and where it lay."""

    tensor: Tensor
    version: int
    memory: Tensor  # kept alive, so that no other tensor can come to lie there

    def is_still(self, t: Tensor | None) -> bool:
        if t is not self.tensor or t.data_ptr() != self.memory.data_ptr():
            return False
        return self.version < 0 or t._version == self.version


class Ordered(NamedTuple):
    """Made of `made_of`: row_offsets and, where values stand in int8, values and scales."""

    made_of: tuple[Seen, ...]
    values: Tensor | None  # in float, where the layer's own are in int8
    order: Tensor

    def is_of(self, tensors: tuple[Tensor, ...]) -> bool:
        """Whether these tensors would make the same again."""
        same = len(tensors) == len(self.made_of)
        return same and all(seen.is_still(t) for seen, t in zip(self.made_of, tensors, strict=True))


def version(t: Tensor | None) -> int:
    """How often a tensor was changed in place; -1 for those made under inference_mode, which do not count."""
    return -1 if t is None or t.is_inference() else t._version


def may_order(op: str, layer: torch.nn.Module, x: Tensor) -> bool:
    """Whether the CUDA kernel of `op` may take this input of a sparse layer."""
    if torch.compiler.is_compiling() or not native_on_gpu(op, x):
        return False
    if torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in layer.parameters())):
        return False
    values = layer._parameters.get("values")
    return (
        values is not None  # pruning computes them at every call
        and x.is_floating_point()
        and torch.float64 not in (x.dtype, values.dtype)
        and values.device == x.device
        and not torch.is_autocast_enabled(x.device.type)
        and not functorch_active()
    )


@torch.inference_mode(False)
@torch.no_grad()
def ordered(layer: Any, held: Ordered | None) -> Ordered:
    """`held`, if it is still what the layer's tensors make; else made anew."""
    int8 = layer.scales is not None
    tensors = (layer.row_offsets, layer.values, layer.scales) if int8 else (layer.row_offsets,)
    if held is not None and held.is_of(tensors):
        return held
    made_of = tuple(Seen(t, version(t), t.data) for t in tensors)
    return Ordered(made_of, layer.float_values().detach() if int8 else None, by_length(layer.row_offsets))
