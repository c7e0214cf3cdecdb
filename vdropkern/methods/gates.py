"""Structured pruning by Gaussian and log-normal gates: one random factor a unit, and units that can go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .._method import LOG_ALPHA_BOUNDS, LOG_SIGMA2_BOUNDS, Cached, Scale
from ._gated import Gated, GatedDraws, GateParameter

__all__ = ["SBP", "GroupNormalJeffreys", "HierarchicalGate"]

# A gate sampled from its prior looks like exp of anything between -20 and 0, and needs sigma of e^5 for it
_LOG_NORMAL_MU = (-20.0, 5.0)
_LOG_NORMAL_LOG_SIGMA2 = (-40.0, 10.0)


@dataclass(frozen=True)
class SBP(GatedDraws):
    """Structured Bayesian pruning: y = (x W^T) * theta + b, log theta ~ N(mu, sigma^2) on [-20, 0].

    Neklyudov et al. 2017 (arXiv 1705.07283), sections 4 and 5: a truncated log-normal gate for each neuron
    or filter under a log-uniform prior on the same interval, whose KL is exact. A gate that the data do not
    hold becomes flat, its signal-to-noise ratio E[theta] / sqrt(Var[theta]) falls, and units of at most 1
    are pruned. In use E[theta] is multiplied into the weights. The bias comes after the gate, so it is never
    pruned with a unit.

    Args:
        units: ``output`` (default: neurons or filters, as in the paper) or ``input``.
        per_sample: whether each sample draws gates of its own (as the paper derives it) or the batch one set
            (default, as the authors' code does).
        init_log_sigma2: first log variance of log theta, in [-40, 10]. -10 is the authors' value.
        init_mu: first mu, in [-20, 5]; 0 is the authors' value: theta near 1.

    Raises:
        ValueError: an argument out of range.
    """

    name: ClassVar[str] = "sbp"
    kind: ClassVar[str] = "log-normal"
    paper: ClassVar[str] = "Neklyudov et al. 2017, arXiv 1705.07283"
    formula: ClassVar[str] = "y = (x W^T) * theta + b, log theta ~ N(mu, sigma^2) cut to [-20, 0]"

    init_log_sigma2: float = -10.0
    init_mu: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_number("init_log_sigma2", *_LOG_NORMAL_LOG_SIGMA2)
        self._check_number("init_mu", *_LOG_NORMAL_MU)

    @property
    def gate_parameters(self) -> dict[str, GateParameter]:
        return {
            "gate_location": GateParameter(self.init_mu, bounds=_LOG_NORMAL_MU),
            "gate_log_sigma2": GateParameter(self.init_log_sigma2, bounds=_LOG_NORMAL_LOG_SIGMA2),
        }

    @property
    def says_prior(self) -> str:
        return "log-uniform on the gate's interval"

    @property
    def says_prunes(self) -> str:
        return "units of signal-to-noise ratio <= 1"


@dataclass(frozen=True)
class GroupNormalJeffreys(Gated):
    """Bayesian compression with a normal-Jeffreys prior: w_oi = z_i v_oi, both Gaussian.

    Louizos et al. 2017 (arXiv 1705.08665), section 3.1: a gate z_i ~ N(mu_z, sigma_z^2) for each input unit,
    drawn for every sample, under the log-uniform (Jeffreys) prior, over weights v ~ N(mu, sigma^2) under
    N(0, 1), drawn by local reparameterisation: y = (x * z) mu^T + b + sqrt((x * z)^2 (sigma^2)^T + eps) e.
    Input units of log alpha_z = log sigma_z^2 - log mu_z^2 >= `threshold` are pruned. The bias has no
    posterior here.

    Args:
        init_log_sigma2: first log variance of weights and gates, in [-20, 4]; -9 is the authors' value.
            First gates are drawn from N(1, 0.01^2).
        threshold: in [-20, 20].

    Raises:
        ValueError: an argument out of range.
    """

    name: ClassVar[str] = "group-normal-jeffreys"
    needs_weights: ClassVar[bool] = True
    kind: ClassVar[str] = "normal"
    paper: ClassVar[str] = "Louizos, Ullrich & Welling 2017, arXiv 1705.08665"
    formula: ClassVar[str] = "y = (x * z) mu^T + b + noise of the weights, z ~ N(mu_z, sigma_z^2)"

    init_log_sigma2: float = -9.0
    threshold: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_number("init_log_sigma2", *LOG_SIGMA2_BOUNDS)
        self._check_number("threshold", *LOG_ALPHA_BOUNDS)

    @Cached
    def scale(self) -> Scale:
        return Scale("log_sigma2", "weight", self.init_log_sigma2, LOG_SIGMA2_BOUNDS)

    @property
    def kl_prior(self) -> str:
        return "normal"

    @property
    def gate_parameters(self) -> dict[str, GateParameter]:
        return {
            "gate_location": GateParameter(1.0, 0.01),
            "gate_log_sigma2": GateParameter(self.init_log_sigma2, bounds=LOG_SIGMA2_BOUNDS),
        }

    @property
    def gate_prior(self) -> str:
        return "log-uniform"

    @property
    def gate_prune_at(self) -> float:
        return self.threshold

    @property
    def says_scale(self) -> str:
        return "log_sigma2 of each weight; " + super().says_scale

    @property
    def says_prior(self) -> str:
        return "log-uniform of the gates, N(0, 1) of the weights"

    @property
    def says_prunes(self) -> str:
        return f"input units of log alpha_z >= {self.threshold:g}"


@dataclass(frozen=True)
class HierarchicalGate(Gated):
    """The hierarchical prior on structured gates: y = (x * theta) W^T + b, theta ~ N(mu, sigma^2).

    The layer that the authors of Liu et al. 2019 (arXiv 1811.07533) published: one gate for each input unit,
    one draw for the whole batch, KL = 1/2 log(1 + mu^2 / sigma^2), and units of log_alpha >= `threshold`
    off in training too.

    Args:
        init_log_sigma2: first log variance, in [-20, 4]; -9 is the authors' value. First gates are drawn
            from N(1, 0.01^2).
        threshold: in [-20, 20]; 0 is the authors' value, alpha = 1.

    Raises:
        ValueError: an argument out of range.
    """

    name: ClassVar[str] = "hierarchical-gate"
    kind: ClassVar[str] = "normal"
    paper: ClassVar[str] = "Liu et al. 2019, arXiv 1811.07533, the authors' code"
    formula: ClassVar[str] = "y = (x * theta) W^T + b, theta ~ N(mu, sigma^2), one draw a batch"

    init_log_sigma2: float = -9.0
    threshold: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_number("init_log_sigma2", *LOG_SIGMA2_BOUNDS)
        self._check_number("threshold", *LOG_ALPHA_BOUNDS)

    @property
    def gate_per_sample(self) -> bool:
        return False

    @property
    def gate_parameters(self) -> dict[str, GateParameter]:
        return {
            "gate_location": GateParameter(1.0, 0.01),
            "gate_log_sigma2": GateParameter(self.init_log_sigma2, bounds=LOG_SIGMA2_BOUNDS),
        }

    @property
    def gate_prior(self) -> str:
        return "ard"

    @property
    def gate_prune_at(self) -> float:
        return self.threshold

    @property
    def masks_in_training(self) -> bool:
        return True

    @property
    def says_prior(self) -> str:
        return "normal, its variance learned, of the gates"

    @property
    def says_prunes(self) -> str:
        return f"input units of log_alpha >= {self.threshold:g}, in training too"
