"""What a method tells a layer; the methods themselves are in `methods/`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Generic, Literal, TypeVar, overload

Granularity = Literal["layer", "input", "output", "weight"]
Enters = Literal["nowhere", "input", "pre-activation", "output", "weight", "mask", "gate"]
Noise = Literal["input", "lrt", "output", "weights", "flipout"]

# where noise enters -> the kernel's number in the table of the field, and the ops that draw it
KERNELS: dict[Enters, str] = {
    "nowhere": "none",
    "input": "K1: mul_noise",
    "pre-activation": "K2: linear_lrt, conv2d_lrt",
    "output": "K3: mul_noise of the output",
    "weight": "K4: weight_noise",
    "mask": "K5: weight_mask",
    "gate": "K6: gate",
}
# how the noise of Gaussian weights is drawn -> where it enters
NOISE_PLACES: dict[Noise, Enters] = {
    "input": "input",
    "lrt": "pre-activation",
    "output": "output",
    "weights": "weight",
    "flipout": "weight",
}
PRIOR_NAMES = {
    None: "none",
    "log-uniform": "log-uniform, KL of Molchanov et al.",
    "log-uniform-kingma": "log-uniform, KL of Kingma et al.",
    "log-uniform-exact": "log-uniform, exact KL",
    "ard": "normal, its variance learned",
    "normal": "N(0, 1)",
}


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


T_co = TypeVar("T_co", covariant=True)


class Cached(Generic[T_co]):
    """functools.cached_property, which holds a lock before Python 3.12 that torch.compile cannot trace."""

    def __init__(self, function: Callable[[Any], T_co]) -> None:
        self.function, self.__doc__ = function, function.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Cached[T_co]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T_co: ...
    def __get__(self, instance: object | None, owner: type) -> Cached[T_co] | T_co:
        if instance is None:
            return self
        value = instance.__dict__[self.name] = self.function(instance)
        return value


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

    def shape(self, weight_shape: Sequence[int], groups: int = 1) -> tuple[int, ...]:
        """As many dimensions as the weight, so that per input and per output differ in a square layer too.

        Args:
            weight_shape: [O, I] of a linear layer, [O, I / groups, *kernel] of a convolution.
            groups: of a convolution; one value an input is then [groups, I / groups, 1, ...].
        """
        out, inp, *kernel = weight_shape
        ones = (1,) * len(kernel)
        return {
            "layer": (1, 1, *ones),
            "input": (groups, inp, *ones),
            "output": (out, 1, *ones),
            "weight": (out, inp, *kernel),
        }[self.granularity]


@dataclass(frozen=True)
class Method:
    """Base of all methods: frozen data that a layer reads.

    Attributes:
        name: the method's name in files and on the command line.
        enters: where the noise enters, one of `Enters`; `vdropkern.nn.places` has one object for each.
        noises: what the argument ``noise`` accepts, keys of `NOISE_PLACES`; empty: there is none.
        noisy: whether training draws noise.
        needs_weights: whether its KL is one of a layer's weights even where its noise is not on them.
        paper: where it comes from.
        formula: the training pass in one line, z = x W^T + b being the layer without noise.
        rows: its rows in the comparison of github lumosity4tpj/a-series-of-dropout.
        eval_mode: what a layer does in eval mode. ``mean`` (default): mean weights, pruned ones at zero,
            no noise. ``sample``: noise as in training, nothing pruned. `MC` (K): mean of K such draws.
    """

    name: ClassVar[str]
    enters: ClassVar[Enters]
    noises: ClassVar[tuple[Noise, ...]] = ()
    noisy: ClassVar[bool] = True
    needs_weights: ClassVar[bool] = False
    paper: ClassVar[str]
    formula: ClassVar[str]
    rows: ClassVar[tuple[str, ...]] = ()

    eval_mode: EvalMode = field(default="mean", kw_only=True)

    def __post_init__(self) -> None:
        check_eval_mode(self.eval_mode, type(self).__name__)

    def __str__(self) -> str:
        """As repr, without the fields that have their default."""
        given = [f for f in fields(self) if getattr(self, f.name) != f.default]
        return f"{type(self).__name__}({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in given)})"

    @property
    def drop_probability(self) -> float:
        """Probability with which an input is dropped, where the noise is Bernoulli at the input."""
        return 0.0

    @property
    def alpha(self) -> float:
        """Variance of multiplicative noise of mean 1 where it is fixed; 0 elsewhere."""
        return 0.0

    @Cached
    def scale(self) -> Scale | None:
        """How the noise is parameterised; None where it has neither log_sigma2 nor log_alpha."""
        return None

    @property
    def kl_prior(self) -> str | None:
        """The prior the weights are pulled to, one of `functional.PRIORS`; None: there is no such KL."""
        return None

    @property
    def prune_at(self) -> float | None:
        """Weights with log_alpha at or above this are pruned; None: none are by that rule."""
        return None

    @property
    def clip_at(self) -> float | None:
        """In training, weights with log_alpha at or above this count with mean 0; None: none do."""
        return None

    @property
    def says_scale(self) -> str:
        """The table's words for how the noise's scale is parameterised."""
        if self.scale is None:
            return "none"
        if self.scale.bounds is None:
            return "fixed alpha = p / (1 - p)"
        return f"{self.scale.name} of each {self.scale.granularity}"

    @property
    def says_prior(self) -> str:
        """The table's words for the KL or penalty."""
        return PRIOR_NAMES[self.kl_prior]

    @property
    def says_eval(self) -> str:
        """The table's words for what eval mode ``mean`` computes."""
        return "mean weights" if self.prune_at is None else "mean weights, pruned ones at zero"

    @property
    def says_prunes(self) -> str:
        """The table's words for which weights are pruned."""
        return "none" if self.prune_at is None else f"weights of log_alpha >= {self.prune_at:g}"

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


# exp(-20) is noise of 4.5e-5, less than float32 training notices; exp(4) is far above any weight that is kept
LOG_SIGMA2_BOUNDS = (-20.0, 4.0)
LOG_ALPHA_BOUNDS = (-20.0, 20.0)
ALPHA_AT_MOST_ONE = (-20.0, 0.0)


def logit(p: float) -> float:
    """log_alpha of Gaussian dropout at rate p: alpha = p / (1 - p)."""
    return math.log(p / (1 - p))
