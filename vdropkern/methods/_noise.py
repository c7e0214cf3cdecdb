"""What methods of Gaussian weights share: a choice of how their noise is drawn."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from .._method import NOISE_PLACES, Enters, Granularity, Method, Noise

# where units share their noise: the granularity of its scale
UNIT_NOISES: dict[Noise, Granularity] = {"input": "input", "output": "output"}


@dataclass(frozen=True)
class NoisyWeights(Method):
    """Gaussian weights; `noise`, one of the class's `noises`, says how their noise is drawn."""

    enters: ClassVar[Enters] = "pre-activation"

    noise: Noise = field(default="lrt", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_choice("noise", self.noises)
        # an attribute, not a property: layers read it in every forward pass
        object.__setattr__(self, "enters", NOISE_PLACES[self.noise])
