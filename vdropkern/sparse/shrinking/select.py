"""The part of its input's units that a layer reads, where they cannot be removed at their source."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Select"]


class Select(torch.nn.Module):
    """y = x at some of its units: `vdropkern.shrink` puts it before layers that read few of a net's inputs.

    Args:
        num_units: units of x.
        count: how many of them are read, between 0 and num_units.
        dim: which dimension they are, counted from the end, < 0.
        device: of the indices.

    State dict: ``indices`` [count], int64.

    Shapes: x [..., num_units, ...] -> y [..., count, ...].

    Raises:
        ValueError: a number is out of range.
    """

    indices: Tensor

    def __init__(
        self, num_units: int, count: int, dim: int = -1, device: torch.device | str | None = None
    ) -> None:
        super().__init__()
        if not 0 <= count <= num_units or dim >= 0:
            raise ValueError(
                "Select: count must lie between 0 and num_units, and dim be < 0, "
                f"got {count}, {num_units} and {dim}"
            )
        self.num_units, self.count, self.dim = num_units, count, dim
        self.register_buffer("indices", torch.arange(count, device=device))

    @classmethod
    def of(cls, keep: Tensor, dim: int) -> Select:
        """Those that are True in `keep`, bool [num_units]."""
        select = cls(keep.numel(), int(keep.sum()), dim, keep.device)
        select.indices = keep.nonzero().reshape(-1)
        return select

    def check(self, indices: Tensor) -> None:
        """Raise ValueError unless these are indices of units."""
        if indices.shape != (self.count,) or indices.dtype != torch.int64:
            raise ValueError(
                f"indices must be int64 [{self.count}], got {indices.dtype} {list(indices.shape)}"
            )
        if self.count and not 0 <= int(indices.min()) <= int(indices.max()) < self.num_units:
            raise ValueError(
                f"indices must lie in [0, {self.num_units}), got {int(indices.min())} to {int(indices.max())}"
            )

    def extra_repr(self) -> str:
        return f"{self.count} of {self.num_units}, dim={self.dim}"

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  the name in torch.nn
        return input.index_select(self.dim, self.indices)
