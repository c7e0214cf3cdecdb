"""Medians and spreads of samples, and ratios of paired rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import Any


@dataclass(frozen=True)
class Spread:
    """Median with the 20th and 80th percentile, of `n` samples."""

    median: float
    p20: float
    p80: float
    n: int

    def inverse(self) -> Spread:
        """The spread of 1 / value."""
        return Spread(1 / self.median, 1 / self.p80, 1 / self.p20, self.n)


def spread(values: Sequence[float]) -> Spread:
    """Median, p20 and p80 of at least one value."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0], 1)
    tenths = quantiles(values, n=10, method="inclusive")
    return Spread(tenths[4], tenths[1], tenths[7], len(values))


def paired_ratio(samples: Mapping[str, Any], baseline: Mapping[str, Any]) -> Spread | None:
    """Spread of the time over the baseline's in the same round; None where they share no round."""
    base = dict(zip(baseline["rounds"], baseline["ms"], strict=True))
    pairs = zip(samples["rounds"], samples["ms"], strict=True)
    ratios = [ms / base[index] for index, ms in pairs if index in base]
    return spread(ratios) if ratios else None
