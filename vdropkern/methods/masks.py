"""Masks on the weights: targeted dropout and magnitude pruning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import Tensor

from .._method import Enters, Method

__all__ = ["MagnitudePruning", "TargetedDropout"]

Targets = Literal["weight", "unit"]


@dataclass(frozen=True)
class MaskedWeights(Method):
    """Weights of which a share `gamma`, the smallest, are dropped with probability `alpha`.

    Attributes:
        final_shares: (gamma, alpha), at the end of a ramp where there is one.
        straight_through: whether dropped weights get the gradient of the mask's output.
        mask_granularity: that of `functional.weight_mask`.
        prune_share: share pruned in eval mode; None: nothing.
        prunes_as_it_trains: whether that share follows the ramp.
    """

    enters: ClassVar[Enters] = "mask"

    targets: Targets = field(default="weight", kw_only=True)
    ramp_steps: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_choice("targets", ("weight", "unit"))
        steps = self.ramp_steps
        if not isinstance(steps, int) or isinstance(steps, bool) or steps < 0:
            raise ValueError(f"{type(self).__name__}: ramp_steps must be an int >= 0, got {steps!r}")

    @property
    def mask_granularity(self) -> str:
        return self.targets

    @property
    def final_shares(self) -> tuple[float, float]:
        raise NotImplementedError(f"{type(self).__name__} must define final_shares")

    @property
    def straight_through(self) -> bool:
        return False

    @property
    def prune_share(self) -> float | None:
        return self.final_shares[0]

    @property
    def prunes_as_it_trains(self) -> bool:
        return True

    def shares(self, step: Tensor) -> tuple[Tensor, Tensor | float]:
        """(gamma, alpha) at a step of the ramp."""
        raise NotImplementedError(f"{type(self).__name__} must define shares()")

    @property
    def says_eval(self) -> str:
        return "the weights" if self.prune_share is None else "the weights, pruned ones at zero"


@dataclass(frozen=True)
class TargetedDropout(MaskedWeights):
    """Targeted dropout: the smallest weights, or outputs, are dropped at random.

    So a net learns to do without them, and can be pruned afterwards: Gomez et al. 2019 (arXiv 1905.13678),
    sections 2 and 3. Candidates are the share gamma of smallest |w| of each output, or the outputs of
    smallest L2 norm; each is dropped with probability alpha, a draw a forward pass. What stays is not
    rescaled, and gradients pass through it alone. No KL.

    Args:
        gamma: share of candidates, in [0, 1].
        alpha: probability of dropping a candidate, in [0, 1]. The paper pairs (gamma, alpha) = (0.5, 0.5),
            (0.33, 0.75), (0.66, 0.75).
        targets: ``weight`` or ``unit`` (whole outputs).
        granularity: with units, whether a ``column`` (an output's weights) is dropped as a whole, as in the
            paper, or each ``element`` of a candidate by itself, as in the authors' code.
        ramp_steps: T > 0: gamma rises to 0.95 gamma over the first T / 2 steps and to gamma over the
            others, alpha linearly over all T (the paper's "ramping targeted dropout"; the authors take
            T = 40,000 with gamma = alpha = 0.99). Steps are calls of `vdropkern.project_`.
        eval_prune: what eval mode prunes: None (nothing), ``gamma`` (all candidates of the moment, as the
            authors' code does) or a share in [0, 1], as the paper's tables.

    Raises:
        ValueError: an argument out of range.
    """

    name: ClassVar[str] = "targeted-dropout"
    paper: ClassVar[str] = "Gomez et al. 2019, arXiv 1905.13678"
    formula: ClassVar[str] = "y = x (m * W)^T + b, m = 1 - [|w| < k-th smallest] Bernoulli(alpha)"

    gamma: float = 0.5
    alpha: float = 0.5  # another alpha than that of Gaussian noise
    granularity: Literal["column", "element"] = field(default="column", kw_only=True)
    eval_prune: Literal["gamma"] | float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_number("gamma", 0.0, 1.0)
        self._check_number("alpha", 0.0, 1.0)
        self._check_choice("granularity", ("column", "element"))
        if self.eval_prune is not None and self.eval_prune != "gamma":
            self._check_number("eval_prune", 0.0, 1.0)

    @property
    def mask_granularity(self) -> str:
        return "unit-element" if self.targets == "unit" and self.granularity == "element" else self.targets

    @property
    def final_shares(self) -> tuple[float, float]:
        return self.gamma, self.alpha

    @property
    def prune_share(self) -> float | None:
        return self.gamma if self.eval_prune == "gamma" else self.eval_prune

    @property
    def prunes_as_it_trains(self) -> bool:
        return self.eval_prune == "gamma"

    def shares(self, step: Tensor) -> tuple[Tensor, Tensor | float]:
        t = (step.double() / self.ramp_steps).clamp(max=1.0)
        early, late = (2 * t).clamp(max=1.0), (2 * t - 1).clamp(min=0.0)
        return self.gamma * (0.95 * early + 0.05 * late), self.alpha * t

    @property
    def says_scale(self) -> str:
        return "fixed gamma and alpha, or ramps"

    @property
    def says_prunes(self) -> str:
        return (
            "none" if self.prune_share is None else "the smallest, a share of each output or of the outputs"
        )


@dataclass(frozen=True)
class MagnitudePruning(MaskedWeights):
    """Magnitude pruning: the smallest weights, or outputs, take no part, in training and after it.

    Weights by |w| within each output (Han et al. 2015, arXiv 1506.02626, section 3; Zhu & Gupta 2017, arXiv
    1710.01878), outputs by L2 norm (Li et al. 2017, arXiv 1608.08710). No noise, no KL: the mask is taken
    anew in every pass, so that a kept weight that shrinks below a pruned one gives way to it.

    Args:
        fraction: share that is pruned, in [0, 1].
        targets: ``weight`` or ``unit`` (whole outputs).
        gradient: ``masked`` (default): pruned weights get none, as in the papers, and stay as they were when
            they were pruned; ``straight-through``: they get that of the mask's output, so that they can
            come back (Guo et al. 2016, arXiv 1608.04493, dynamic network surgery).
        ramp_steps: T > 0: the share rises as fraction (1 - (1 - t / T)^3) over the first T steps (Zhu &
            Gupta, equation 1). Steps are calls of `vdropkern.project_`.

    Raises:
        ValueError: an argument out of range.
    """

    name: ClassVar[str] = "magnitude-pruning"
    noisy: ClassVar[bool] = False
    paper: ClassVar[str] = "Han et al. 2015, arXiv 1506.02626"
    formula: ClassVar[str] = "y = x (m * W)^T + b, m = [|w| >= k-th smallest]"

    fraction: float = 0.5
    gradient: Literal["masked", "straight-through"] = field(default="masked", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_number("fraction", 0.0, 1.0)
        self._check_choice("gradient", ("masked", "straight-through"))

    @property
    def final_shares(self) -> tuple[float, float]:
        return self.fraction, 1.0

    @property
    def straight_through(self) -> bool:
        return self.gradient == "straight-through"

    def shares(self, step: Tensor) -> tuple[Tensor, Tensor | float]:
        t = (step.double() / self.ramp_steps).clamp(max=1.0)
        return self.fraction * (1 - (1 - t) ** 3), 1.0

    @property
    def says_scale(self) -> str:
        return "fixed fraction, or a ramp"

    @property
    def says_prunes(self) -> str:
        return "the smallest, a share of each output or of the outputs"
