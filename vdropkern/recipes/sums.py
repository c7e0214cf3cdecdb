"""Running sums of an epoch, kept where the net is: reading a number back would make a GPU wait."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class EpochSums:
    """NLL, KL and penalty of an epoch's steps, weighted by their examples.

    Attributes:
        seen: examples so far.
    """

    def __init__(self, device: torch.device) -> None:
        self.seen = 0
        self._nll, self._kl, self._penalty = (torch.zeros((), device=device) for _ in range(3))

    def add(self, examples: int, nll: Tensor, kl: Tensor, penalty: Tensor | None) -> None:
        """Take in a step: the means over its examples, and what belongs to the weights."""
        self._nll.add_(nll, alpha=examples)
        self._kl.add_(kl.detach(), alpha=examples)
        if penalty is not None:
            self._penalty.add_(penalty.detach(), alpha=examples)
        self.seen += examples

    def means(self) -> tuple[float, float, float]:
        """NLL, KL and penalty, averaged."""
        seen = max(self.seen, 1)
        return float(self._nll) / seen, float(self._kl) / seen, float(self._penalty) / seen

    def reset(self) -> None:
        self.seen = 0
        for total in (self._nll, self._kl, self._penalty):
            total.zero_()

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen, "sums": torch.stack([self._nll, self._kl, self._penalty])}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]
        for total, value in zip((self._nll, self._kl, self._penalty), state["sums"], strict=True):
            total.copy_(value)
