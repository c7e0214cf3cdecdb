"""Dropout with a fixed rate."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from .._method import Enters, Method, Scale, logit

__all__ = ["Bernoulli", "GaussianW"]


@dataclass(frozen=True)
class Bernoulli(Method):
    """Dropout of the layer's inputs: y = (x * xi) W^T + b, xi ~ Bernoulli(1 - p) / (1 - p) iid.

    Srivastava et al. 2014 (JMLR 15), section 4, in the inverted form of `torch.nn.Dropout`, so that eval
    needs no rescaling. No KL, nothing is pruned.

    Args:
        p: probability of dropping an input, in [0, 0.999]. 0.5 is the paper's choice for hidden layers;
            for a network's input it advises about 0.2.

    Raises:
        ValueError: p or eval_mode out of range.
    """

    name: ClassVar[str] = "bernoulli"
    enters: ClassVar[Enters] = "input"
    paper: ClassVar[str] = "Srivastava et al. 2014, JMLR 15"

    p: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_number("p", 0.0, 0.999)

    @property
    def drop_probability(self) -> float:
        return self.p


@dataclass(frozen=True)
class GaussianW(Method):
    """Gaussian dropout of the weights: w ~ N(mu, alpha mu^2) iid, alpha = p / (1 - p) fixed.

    Wang & Manning 2013 (ICML): a sum of Bernoulli-dropped inputs is close to a normal of the same mean and
    variance; Kingma et al. 2015 (arXiv 1506.02557), section 3.1, read it as noise on the weights. By local
    reparameterisation y = x mu^T + b + sqrt(x^2 (alpha mu^2)^T + eps) e. No KL, nothing is pruned.

    Args:
        p: rate of the Bernoulli dropout it imitates, in [1e-6, 0.999]. 0.5 makes alpha = 1.

    Raises:
        ValueError: p or eval_mode out of range.
    """

    name: ClassVar[str] = "gaussian-w"
    enters: ClassVar[Enters] = "pre-activation"
    paper: ClassVar[str] = "Wang & Manning 2013, ICML"

    p: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_number("p", 1e-6, 0.999)

    @cached_property
    def scale(self) -> Scale:
        return Scale("log_alpha", "layer", logit(self.p), bounds=None)
