"""What the CUDA kernels of sparse layers read beside the layer's own rows (CSR): the order of the rows."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._backend import native_on_gpu
from ..ops._register import functorch_active
from ..ops.spmm.csr import by_length
from ._watch import Watch

__all__ = ["Ordered", "may_order", "ordered"]


class Ordered(NamedTuple):
    """Made of row_offsets and, where values stand in int8, of values and scales."""

    watch: Watch
    values: Tensor | None  # in float, where the layer's own are in int8
    order: Tensor


def may_order(op: str, layer: Any, x: Tensor) -> bool:
    """Whether the CUDA kernel of `op` may take this input of a sparse layer."""
    if torch.compiler.is_compiling() or not native_on_gpu(op, x):
        return False
    if layer.wants_grad() or (torch.is_grad_enabled() and x.requires_grad):
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
    tensors = (layer.row_offsets, layer.values if int8 else None, layer.scales)
    if held is not None and held.watch.is_of(tensors):
        return held
    watch = Watch(tensors)
    return Ordered(watch, layer.float_values().detach() if int8 else None, by_length(layer.row_offsets))
