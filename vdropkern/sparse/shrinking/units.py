"""Units: the features or channels along one dimension of a tensor, and which of them must go together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["UnitSets", "Units"]


@dataclass(frozen=True)
class Units:
    """What is known of a tensor's units.

    `const` is what a unit is at every place of every input, where that is known; NaN elsewhere.
    """

    axis: int
    ids: Tensor  # [C], int64
    const: Tensor  # [C], float64

    def with_const(self, const: Tensor | None) -> Units:
        """The same units of which other constants are known; None: of which none is."""
        return Units(self.axis, self.ids, torch.full_like(self.const, torch.nan) if const is None else const)


class UnitSets:
    """Sets of units that can only be removed together, as the channels that a residual sum adds up."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._pinned: list[Tensor] = []

    def fresh(self, count: int) -> Tensor:
        """New units, each in a set of its own."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return torch.arange(start, start + count)

    def _find(self, unit: int) -> int:
        while self._parent[unit] != unit:
            self._parent[unit] = unit = self._parent[self._parent[unit]]
        return unit

    def join(self, a: Tensor, b: Tensor) -> None:
        """Let each unit of `a` share a set with that of `b` at its place."""
        for left, right in set(zip(a.tolist(), b.expand_as(a).tolist(), strict=True)):
            self._parent[self._find(left)] = self._find(right)

    def pin(self, ids: Tensor) -> None:
        """Let nothing remove these."""
        self._pinned.append(ids)

    def roots(self) -> Tensor:
        """For each unit the one that names its set, [units]."""
        return torch.tensor([self._find(unit) for unit in range(len(self._parent))], dtype=torch.int64)

    def pinned(self) -> Tensor:
        """The units that stay."""
        return torch.cat(self._pinned) if self._pinned else torch.empty(0, dtype=torch.int64)
