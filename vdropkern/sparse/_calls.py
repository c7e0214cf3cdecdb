"""What a call of sparse layers may do: run on packed forms, without gradients, traced or not."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, is_autocast_enabled, is_grad_enabled  # called at every call: found at once
from torch._C import _are_functorch_transforms_active as are_functorch_transforms_active
from torch._C import _get_tracing_state as tracing_state
from torch.compiler import is_compiling

from .._backend import native_on_cpu

__all__ = [
    "are_functorch_transforms_active",
    "has_gradients",
    "may_pack_without_grad",
    "tracing_state",
    "untraced",
]

_PACKED_INPUTS = frozenset((torch.float32, torch.bfloat16, torch.float16))


def may_pack_without_grad(x: Tensor) -> bool:
    """Whether a kernel on a packed form may take this input, as far as its layer and gradients allow.

    Small layers feel every check in it.
    """
    return (
        native_on_cpu()
        and x.is_cpu
        and x.dtype in _PACKED_INPUTS
        and not is_compiling()
        and not are_functorch_transforms_active()
        and not is_autocast_enabled("cpu")
    )


def has_gradients(x: Tensor, layers: Collection[Any]) -> bool:
    """Whether a call of these layers with x has any. In eval mode torch.jit.trace gets one without."""
    if not is_grad_enabled() or (tracing_state() is not None and not any(m.training for m in layers)):
        return False
    return x.requires_grad or any(layer.wants_grad() for layer in layers)


@contextlib.contextmanager
def untraced() -> Iterator[None]:
    """Let torch.jit.trace take for constant what is computed in here."""
    state = tracing_state()
    torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch._C._set_tracing_state(state)  # type: ignore[attr-defined]
