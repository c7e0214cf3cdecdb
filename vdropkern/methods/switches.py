"""Gates with a price: L0 by hard-concrete gates, Smallify's switches, and dropout that learns its rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from .._method import Cached, logit
from ._gated import Gated, GatedDraws, GatedUnits, GateParameter

__all__ = ["ConcreteDropout", "L0HardConcrete", "Smallify"]


@dataclass(frozen=True)
class L0HardConcrete(GatedDraws):
    """L0 regularisation by hard-concrete gates: z = clamp(1.2 s - 0.1, 0, 1), s a concrete variable.

    Louizos et al. 2018 (arXiv 1712.01312): gates that are exactly 0 or 1 with positive probability, so that
    the expected number of weights in use is differentiable. The penalty, added to the mean loss as it is
    (`vdropkern.penalty`), is `strength` times that number: P(z > 0) counted once for each weight behind a
    gate. In use the gate is clamp(1.2 sigmoid(location) - 0.1, 0, 1); units whose gate is 0 are pruned.

    Args:
        units: ``output`` (default) or ``input``, which the authors' linear layers have.
        per_sample: whether each sample draws gates of its own or the batch one set (default).
        strength: lambda, price of one weight, >= 0 and at most 1e6; the paper's nets use about 0.1 / N.
        drop: share of closed gates at first, in [0.01, 0.99].
        temperature: of the concrete distribution, in [0.01, 10]; 2/3 is the paper's.

    Raises:
        ValueError: an argument out of range.
    """

    name: ClassVar[str] = "l0-hard-concrete"
    kind: ClassVar[str] = "hard-concrete"
    paper: ClassVar[str] = "Louizos, Welling & Kingma 2018, arXiv 1712.01312"
    formula: ClassVar[str] = "y = (x W^T) * z + b, z = clamp(1.2 sigmoid((logit u + a) / t) - 0.1, 0, 1)"

    strength: float = 1e-6
    drop: float = 0.2
    temperature: float = 2 / 3

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_number("strength", 0.0, 1e6)
        self._check_number("drop", 0.01, 0.99)
        self._check_number("temperature", 0.01, 10.0)

    @Cached
    def gate_parameters(self) -> dict[str, GateParameter]:
        # the authors' bounds, log 0.01 and log 100: further out a gate's gradient vanishes
        bounds = (-math.log(100), math.log(100))
        return {"gate_location": GateParameter(logit(1 - self.drop), 0.01, bounds)}

    @property
    def says_prior(self) -> str:
        return "penalty: expected L0 norm"

    @property
    def says_prunes(self) -> str:
        return "units whose gate is 0"


@dataclass(frozen=True)
class Smallify(GatedUnits):
    """Switches that shrink a net while it trains: y = (x W^T) * beta + b, with a penalty on |beta|.

    Leclerc et al. 2018 (arXiv 1806.03723): an L1 penalty, `strength` times the sum of |beta| (added to the
    mean loss as it is, `vdropkern.penalty`), drives switches towards 0, where their sign flips; a unit whose
    sign's running variance reaches `threshold` is off for good. `vdropkern.project_` keeps these averages,
    so call it after each step. There is no noise.

    Args:
        units: ``output`` (default) or ``input``.
        strength: lambda, >= 0 and at most 1e6.
        momentum: of the running mean and variance, in [0, 0.9999].
        threshold: in [0, 4]; with momentum 0.9 a sign that alternates reaches 0.5 after three flips.

    Raises:
        ValueError: an argument out of range.
    """

    name: ClassVar[str] = "smallify"
    kind: ClassVar[str] = "switch"
    noisy: ClassVar[bool] = False
    paper: ClassVar[str] = "Leclerc et al. 2018, arXiv 1806.03723"
    formula: ClassVar[str] = "y = (x W^T) * beta + b"

    strength: float = 1e-4
    momentum: float = 0.9
    threshold: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_number("strength", 0.0, 1e6)
        self._check_number("momentum", 0.0, 0.9999)
        self._check_number("threshold", 0.0, 4.0)

    @property
    def gate_parameters(self) -> dict[str, GateParameter]:
        return {"gate_location": GateParameter(0.5, 0.5, uniform=True)}

    @property
    def masks_in_training(self) -> bool:
        return True

    @property
    def says_prior(self) -> str:
        return "penalty: sum of |beta|"

    @property
    def says_prunes(self) -> str:
        return f"units whose switch's sign has variance >= {self.threshold:g}, in training too"


@dataclass(frozen=True)
class ConcreteDropout(Gated):
    """Dropout of the inputs whose rate p is learned, by a concrete relaxation.

    Gal, Hron & Kendall 2017 (arXiv 1705.07832): x (1 - z) / (1 - p), z = sigmoid((logit p + logit u) / t);
    features are dropped one by one, images by channels. The KL is
    l^2 / 2 ||W||^2 / (1 - p) - K H(p), K the number of input units; divide it by N as any KL. It may be
    negative, its constant is left out. In use nothing is dropped; nothing is pruned.

    Args:
        p: first rate, in [0.001, 0.999].
        length_scale: l of the weights' prior N(0, 1 / l^2), in [1e-12, 1e6]; 1e-4 is the authors' value.
        temperature: of the relaxation, in [0.01, 10]; 0.1 is the authors' value.

    Raises:
        ValueError: an argument out of range.
    """

    name: ClassVar[str] = "concrete-dropout"
    needs_weights: ClassVar[bool] = True
    kind: ClassVar[str] = "concrete"
    shared: ClassVar[bool] = True
    paper: ClassVar[str] = "Gal, Hron & Kendall 2017, arXiv 1705.07832"
    formula: ClassVar[str] = "y = (x * (1 - z) / (1 - p)) W^T + b, z = sigmoid((logit p + logit u) / t)"

    p: float = 0.1
    length_scale: float = 1e-4
    temperature: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_number("p", 0.001, 0.999)
        self._check_number("length_scale", 1e-12, 1e6)
        self._check_number("temperature", 0.01, 10.0)

    @property
    def gate_parameters(self) -> dict[str, GateParameter]:
        return {"gate_location": GateParameter(logit(self.p), bounds=(logit(0.001), logit(0.999)))}

    @property
    def says_scale(self) -> str:
        return "logit of p, one a layer"

    @property
    def says_prior(self) -> str:
        return "weights N(0, 1 / l^2), entropy of p"

    @property
    def says_eval(self) -> str:
        return "mean weights"
