"""What a method tells a layer; the methods themselves are in `methods.py`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import ClassVar, Literal

Granularity = Literal["layer", "input", "output", "weight"]
Enters = Literal["input", "pre-activation"]


@dataclass(frozen=True)
class MC:
    """Monte-Carlo evaluation: a layer returns the mean of `samples` independent noisy outputs.

    The mean is taken layer by layer. For the mean prediction of whole networks drawn from the posterior,
    see `vdropkern.mc_predict`.

    Raises:
        ValueError: `samples` is not an int >= 1.
    """

    samples: int

    def __post_init__(self) -> None:
        if not isinstance(self.samples, int) or isinstance(self.samples, bool) or self.samples < 1:
            raise ValueError(f"MC: samples must be an int >= 1, got {self.samples!r}")


EvalMode = Literal["mean", "sample"] | MC


def check_eval_mode(mode: object, where: str) -> None:
    """Raise ValueError unless `mode` is an `EvalMode`."""
    if not isinstance(mode, MC) and mode not in ("mean", "sample"):
        raise ValueError(f"{where}: eval_mode must be 'mean', 'sample' or MC(K), got {mode!r}")


@dataclass(frozen=True)
class Scale:
    """How the noise's scale is parameterised.

    name: the layer's parameter, ``log_sigma2`` or ``log_alpha``. granularity: which weights share one
    value. init: its first value. bounds: what `vdropkern.project_` keeps it in; None: it is no parameter
    but the constant `init`.
    """

    name: Literal["log_sigma2", "log_alpha"]
    granularity: Granularity
    init: float
    bounds: tuple[float, float] | None

    def shape(self, out_features: int, in_features: int) -> tuple[int, int]:
        """Always two dimensions, so that per input and per output differ in a square layer too."""
        return {
            "layer": (1, 1),
            "input": (1, in_features),
            "output": (out_features, 1),
            "weight": (out_features, in_features),
        }[self.granularity]


@dataclass(frozen=True)
class Method:
    """Base of all methods: frozen data that a layer reads.

    Attributes:
        name: the method's name in files and on the command line.
        enters: ``input`` (the layer's input is dropped out) or ``pre-activation`` (local
            reparameterisation, op ``linear_lrt``).
        paper: where it comes from.
        eval_mode: what a layer does in eval mode. ``mean`` (default): mean weights, pruned ones at zero,
            no noise. ``sample``: noise as in training, nothing pruned. `MC` (K): mean of K such draws.
    """

    name: ClassVar[str]
    enters: ClassVar[Enters]
    paper: ClassVar[str]

    eval_mode: EvalMode = field(default="mean", kw_only=True)

    def __post_init__(self) -> None:
        check_eval_mode(self.eval_mode, type(self).__name__)

    def __str__(self) -> str:
        """As repr, without the fields that have their default."""
        given = [f for f in fields(self) if getattr(self, f.name) != f.default]
        return f"{type(self).__name__}({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in given)})"

    @property
    def drop_probability(self) -> float:
        """Probability with which an input is dropped, where the noise enters at the input."""
        return 0.0

    @cached_property
    def scale(self) -> Scale | None:
        """How the noise is parameterised; None where `drop_probability` says it all."""
        return None

    @property
    def kl_prior(self) -> str | None:
        """The prior the weights are pulled to, one of `functional.PRIORS`; None: there is no KL."""
        return None

    @property
    def prune_at(self) -> float | None:
        """Weights with log_alpha at or above this are pruned; None: the method prunes nothing."""
        return None

    @property
    def clip_at(self) -> float | None:
        """In training, weights with log_alpha at or above this count with mean 0; None: none do."""
        return None

    def _check_number(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(
                f"{type(self).__name__}: {name} must be a number in [{low:g}, {high:g}], got {value!r}"
            )

    def _check_choice(self, name: str, accepted: tuple[str, ...]) -> None:
        value = getattr(self, name)
        if value not in accepted:
            choices = ", ".join(map(repr, accepted))
            raise ValueError(f"{type(self).__name__}: {name} must be one of {choices}, got {value!r}")


def logit(p: float) -> float:
    """log_alpha of Gaussian dropout at rate p: alpha = p / (1 - p)."""
    return math.log(p / (1 - p))
