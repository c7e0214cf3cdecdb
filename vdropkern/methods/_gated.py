"""What methods with a factor a unit share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from .._method import Enters, Method

__all__ = ["GateParameter", "Gated", "GatedDraws", "GatedUnits"]

Units = Literal["input", "output"]


class GateParameter(NamedTuple):
    """First values of a gate's parameter, drawn uniformly or from a normal, and its bounds."""

    init: float
    spread: float = 0.0  # of the normal, or half the uniform's width
    bounds: tuple[float, float] = (-1e4, 1e4)
    uniform: bool = False


@dataclass(frozen=True)
class Gated(Method):
    """A factor theta for each unit of the layer's input or of its output before the bias.

    kind: the distribution, as `functional.gate` calls it. Parameters: ``gate_location`` and, where the kind
    has two, ``gate_log_sigma2``, one value a unit, or one for all where `shared`.
    """

    enters: ClassVar[Enters] = "gate"
    kind: ClassVar[str]
    shared: ClassVar[bool] = False

    @property
    def gate_units(self) -> Units:
        """Which units have gates."""
        return "input"

    @property
    def gate_per_sample(self) -> bool:
        """Whether each sample draws its own, or the whole batch one set."""
        return True

    @property
    def gate_parameters(self) -> dict[str, GateParameter]:
        """The layer's parameters beside weight, bias and `scale`'s."""
        raise NotImplementedError(f"{type(self).__name__} must define gate_parameters")

    @property
    def gate_prior(self) -> str | None:
        """Prior of normal gates, one of `functional.PRIORS`."""
        return None

    @property
    def gate_prune_at(self) -> float | None:
        """Units of normal gates are pruned from this log_alpha on."""
        return None

    @property
    def masks_in_training(self) -> bool:
        """Whether units that would be pruned are already off in training."""
        return False

    @property
    def temperature(self) -> float | None:
        """Of the concrete kinds."""
        return None

    @property
    def says_scale(self) -> str:
        return " and ".join(self.gate_parameters) + (" of the layer" if self.shared else " of each unit")

    @property
    def says_eval(self) -> str:
        return "mean weights times mean gates, pruned units at zero"


@dataclass(frozen=True)
class GatedUnits(Gated):
    """Gates whose units are an argument."""

    units: Units = "output"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_choice("units", ("input", "output"))

    @property
    def gate_units(self) -> Units:
        return self.units


@dataclass(frozen=True)
class GatedDraws(GatedUnits):
    """Gates whose draws are an argument as well."""

    per_sample: bool = False

    @property
    def gate_per_sample(self) -> bool:
        return self.per_sample
