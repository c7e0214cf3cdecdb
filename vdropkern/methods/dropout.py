"""Dropout with a fixed rate, or none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .._method import Cached, Enters, Method, Noise, Scale, logit
from ._noise import NoisyWeights

__all__ = ["Bernoulli", "GaussianS", "GaussianW", "NoDropout"]


@dataclass(frozen=True)
class NoDropout(Method):
    """No noise: the dense layer, as the baseline of comparisons. No KL, nothing is pruned."""

    name: ClassVar[str] = "none"
    enters: ClassVar[Enters] = "nowhere"
    noisy: ClassVar[bool] = False
    paper: ClassVar[str] = "the dense layer"
    formula: ClassVar[str] = "y = x W^T + b"
    rows: ClassVar[tuple[str, ...]] = ("None",)


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
    formula: ClassVar[str] = "y = (x * xi) W^T + b, xi ~ Bernoulli(1 - p) / (1 - p)"
    rows: ClassVar[tuple[str, ...]] = ("Bernoulli",)

    p: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_number("p", 0.0, 0.999)

    @property
    def drop_probability(self) -> float:
        return self.p

    @property
    def alpha(self) -> float:
        return self.p / (1 - self.p)

    @property
    def says_scale(self) -> str:
        return "fixed p"


@dataclass(frozen=True)
class GaussianS(Method):
    """Gaussian dropout of the layer's inputs: y = (x * xi) W^T + b, xi ~ N(1, alpha) iid.

    Srivastava et al. 2014 (JMLR 15), section 10, with alpha = p / (1 - p), the variance of Bernoulli dropout
    at rate p. No KL, nothing is pruned.

    Args:
        p: rate of the Bernoulli dropout it imitates, in [1e-6, 0.999]. 0.5 makes alpha = 1.

    Raises:
        ValueError: p or eval_mode out of range.
    """

    name: ClassVar[str] = "gaussian-s"
    enters: ClassVar[Enters] = "input"
    paper: ClassVar[str] = "Srivastava et al. 2014, JMLR 15"
    formula: ClassVar[str] = "y = (x * xi) W^T + b, xi ~ N(1, alpha)"
    rows: ClassVar[tuple[str, ...]] = ("GaussianS",)

    p: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_number("p", 1e-6, 0.999)

    @Cached
    def scale(self) -> Scale:
        return Scale("log_alpha", "layer", logit(self.p), bounds=None)

    @property
    def alpha(self) -> float:
        return self.p / (1 - self.p)


@dataclass(frozen=True)
class GaussianW(NoisyWeights):
    """Gaussian dropout of the weights: w ~ N(mu, alpha mu^2) iid, alpha = p / (1 - p) fixed.

    Wang & Manning 2013 (ICML, "fast dropout"): a sum of Bernoulli-dropped inputs is close to a normal of the
    same mean and variance; Kingma et al. 2015 (arXiv 1506.02557), section 3.1, read it as noise on the
    weights. By local reparameterisation y = x mu^T + b + sqrt(x^2 (alpha mu^2)^T + eps) e. No KL, nothing is
    pruned. `vdropkern.propagate_moments` pushes mean and variance through a whole net instead of noise.

    Args:
        p: rate of the Bernoulli dropout it imitates, in [1e-6, 0.999]. 0.5 makes alpha = 1.
        noise: how it is drawn: ``lrt`` (default), by local reparameterisation; ``output``, on the layer's
            output, y = (x mu^T + b)(1 + sqrt(alpha) e), which is another distribution; ``weights``, one draw
            of the weights a batch; ``flipout``, such a draw, decorrelated between examples.

    Raises:
        ValueError: an argument out of range.
    """

    name: ClassVar[str] = "gaussian-w"
    noises: ClassVar[tuple[Noise, ...]] = ("lrt", "output", "weights", "flipout")
    paper: ClassVar[str] = "Wang & Manning 2013, ICML"
    formula: ClassVar[str] = "y = x mu^T + b + sqrt(x^2 (alpha mu^2)^T + eps) e"
    rows: ClassVar[tuple[str, ...]] = ("GaussianW (first table)", "GaussianW (second table): noise='output'")

    p: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_number("p", 1e-6, 0.999)

    @Cached
    def scale(self) -> Scale:
        return Scale("log_alpha", "layer", logit(self.p), bounds=None)

    @property
    def alpha(self) -> float:
        return self.p / (1 - self.p)
