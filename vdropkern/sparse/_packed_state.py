"""Modules that hold packed forms in their state dict, which kernels trust: loading one checks them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..ops.spmm.check import check_packed

__all__ = ["PackedState"]


class PackedState(torch.nn.Module):
    """Its buffers of bytes are packed forms."""

    def __prepare_scriptable__(self) -> Any:
        raise TypeError(
            f"torch.jit.script does not know {type(self).__name__}; use torch.jit.trace, or script what "
            "vdropkern.sparse.to_dense makes"
        )

    def check(self, name: str, tensor: Tensor) -> None:
        """Raise ValueError unless the tensor may become the buffer of that name."""
        own = self._buffers.get(name)
        if own is not None and own.dtype == torch.uint8:
            try:
                check_packed(tensor)
            except ValueError as err:
                raise ValueError(f"{name}: {err}") from None

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        errors: list[str] = rest[-1]
        for name in self._buffers:
            tensor = state_dict.get(f"{prefix}{name}")
            if isinstance(tensor, Tensor) and not tensor.is_meta:
                try:
                    self.check(name, tensor)
                except ValueError as err:
                    errors.append(f"{prefix}{err}")
                    return
        super()._load_from_state_dict(state_dict, prefix, *rest)
