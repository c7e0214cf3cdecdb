"""Several dropout masks at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .._method import Enters, Method

__all__ = ["MultiSampleDropout"]


@dataclass(frozen=True)
class MultiSampleDropout(Method):
    """Multi-sample dropout of the layer's inputs: M masks, one computation of the features below.

    Inoue 2019 (arXiv 1905.09788), section 3: the classifier's head sees M differently dropped copies of the
    features, and the loss is the mean of M losses, so that a step learns from M samples at the price of the
    head alone. A layer by itself has no loss; it can only average its outputs, y = 1/M sum_i (x * xi_i) W^T
    + b, which is dropout of 1/M the variance. The mean of losses, which is the paper's method, takes
    `vdropkern.nn.MultiSampleHead`. No KL, nothing is pruned.

    Args:
        samples: M >= 1, at most 1024. 8 is the paper's usual choice; it gains little beyond.
        p: probability of dropping an input, in [0, 0.999].

    Raises:
        ValueError: an argument out of range.
    """

    name: ClassVar[str] = "multi-sample"
    enters: ClassVar[Enters] = "input"
    paper: ClassVar[str] = "Inoue 2019, arXiv 1905.09788"
    formula: ClassVar[str] = "y = 1/M sum_i (x * xi_i) W^T + b; with MultiSampleHead the mean of M losses"

    samples: int = 8
    p: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_number("samples", 1, 1024)
        if not isinstance(self.samples, int):
            raise ValueError(f"MultiSampleDropout: samples must be an int, got {self.samples!r}")
        self._check_number("p", 0.0, 0.999)

    @property
    def drop_probability(self) -> float:
        return self.p

    @property
    def alpha(self) -> float:
        return self.p / (1 - self.p) / self.samples

    @property
    def says_scale(self) -> str:
        return "fixed p, M masks"
