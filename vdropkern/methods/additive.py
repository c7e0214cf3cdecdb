"""Gaussian weights that are pruned where they are noise: sparse and hierarchical variational dropout, ARD."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from .._method import LOG_ALPHA_BOUNDS, LOG_SIGMA2_BOUNDS, Cached, Noise, Scale
from ._noise import UNIT_NOISES, NoisyWeights

__all__ = ["ARD", "HierarchicalVD", "SparseVD"]


@dataclass(frozen=True)
class _Additive(NoisyWeights):
    """w ~ N(mu, sigma^2) with a free variance a weight, pruned by log_alpha; or noise a unit.

    The arguments are `SparseVD`'s, which documents them.
    """

    noises: ClassVar[tuple[Noise, ...]] = ("lrt", "input", "output", "weights", "flipout")
    formula: ClassVar[str] = "y = x mu^T + b + sqrt(x^2 (sigma^2)^T + eps) e"

    init_log_sigma2: float = -10.0
    threshold: float = 3.0
    train_clip: bool = field(default=False, kw_only=True)
    parameterisation: Literal["log_sigma2", "log_alpha"] = field(default="log_sigma2", kw_only=True)
    init_log_alpha: float = field(default=-4.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_number("init_log_sigma2", *LOG_SIGMA2_BOUNDS)
        self._check_number("threshold", *LOG_ALPHA_BOUNDS)
        self._check_choice("parameterisation", ("log_sigma2", "log_alpha"))
        self._check_number("init_log_alpha", *LOG_ALPHA_BOUNDS)
        if self.train_clip and self.noise != "lrt":
            raise ValueError(f"{type(self).__name__}: train_clip goes with noise 'lrt', got {self.noise!r}")

    @Cached
    def scale(self) -> Scale:
        if self.noise in UNIT_NOISES:
            return Scale("log_alpha", UNIT_NOISES[self.noise], self.init_log_alpha, LOG_ALPHA_BOUNDS)
        if self.parameterisation == "log_sigma2":
            return Scale("log_sigma2", "weight", self.init_log_sigma2, LOG_SIGMA2_BOUNDS)
        return Scale("log_alpha", "weight", self.init_log_alpha, LOG_ALPHA_BOUNDS)

    @property
    def kl_prior(self) -> str:
        return "ard"

    @property
    def prune_at(self) -> float:
        return self.threshold

    @property
    def clip_at(self) -> float | None:
        return self.threshold if self.train_clip else None


@dataclass(frozen=True)
class SparseVD(_Additive):
    """Sparse variational dropout: w ~ N(mu, sigma^2), log_sigma2 free, log-uniform prior, pruning.

    Molchanov et al. 2017 (arXiv 1701.05369), sections 4.1 to 4.3: a noise variance of its own for each
    weight (rather than alpha mu^2) lowers the variance of the gradients enough for alpha > 1 to be learned,
    and a weight whose alpha is large is noise: it can go.

    Args:
        init_log_sigma2: first log variance, in [-20, 4]. -10 is the authors' value for LeNets: noise of
            0.007, small beside fresh or trained weights, so that training starts as the dense net's. -15
            suits a deep pretrained net, -8 to -5 a very small one.
        threshold: weights with log_alpha at or above it are pruned. 3 is the authors': a dropout rate
            alpha / (1 + alpha) above 0.95.
        train_clip: whether weights that would be pruned already train with mean 0 (their noise stays, in
            convolutions too, where the authors' code drops it), as in the authors' LeNet scripts: the net
            gets used to their absence, and more of them go.
        parameterisation: ``log_sigma2`` (default), or ``log_alpha``: the noise is alpha mu^2 and vanishes
            with mu.
        init_log_alpha: first log_alpha where that is the parameter, in [-20, 20]. -4 is what
            log_sigma2 = -10 means for a weight of 0.05; 0 is dropout at p = 0.5.
        noise: how it is drawn: ``lrt`` (default), by local reparameterisation; ``input`` (type A), on the
            inputs, x (1 + sqrt(alpha) e); ``output``, on the outputs, y = (x mu^T + b)(1 + sqrt(alpha) e).
            With these two a unit has one log_alpha, which is the parameter then, the KL counts once a
            unit, and whole units are pruned: all their weights; a bias stays. ``weights``: one draw of the
            weights a batch; ``flipout``: such a draw, decorrelated between examples.
        prior: ``log-uniform``, the approximation of equation 14 (error <= 0.007 nats a weight), or
            ``log-uniform-exact``.

    Raises:
        ValueError: an argument out of range.
    """

    name: ClassVar[str] = "sparse-vd"
    paper: ClassVar[str] = "Molchanov, Ashukha & Vetrov 2017, arXiv 1701.05369"
    rows: ClassVar[tuple[str, ...]] = (
        "SparseVD-B, on W: parameterisation='log_alpha'",
        "SparseVD-B, on B: noise='output'",
        "SparseVD-A: noise='input'",
    )

    prior: str = "log-uniform"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_choice("prior", ("log-uniform", "log-uniform-exact"))

    @property
    def kl_prior(self) -> str:
        return self.prior


@dataclass(frozen=True)
class ARD(_Additive):
    """Automatic relevance determination: SparseVD's noise under the prior w ~ N(0, gamma), gamma learned.

    Kharitonov et al. 2018 (arXiv 1811.00596): with the best gamma of each weight put in,
    KL = 1/2 log(1 + 1 / alpha). It is exact, its prior is proper, and it lies below the log-uniform KL by
    at most 0.636 nats a weight, so its nets come out close to SparseVD's.

    Args:
        init_log_sigma2, threshold, train_clip, parameterisation, init_log_alpha, noise: as `SparseVD`.

    Raises:
        ValueError: an argument out of range.
    """

    name: ClassVar[str] = "ard"
    paper: ClassVar[str] = "Kharitonov, Molchanov & Vetrov 2018, arXiv 1811.00596"


@dataclass(frozen=True)
class HierarchicalVD(_Additive):
    """Variational Bayesian dropout with a hierarchical prior: w ~ N(0, gamma), gamma ~ uniform.

    Liu et al. 2019 (arXiv 1811.07533, CVPR): a proper prior in place of the log-uniform one, and no bound on
    alpha. With gamma maximised out its KL, 1/2 log(1 + 1 / alpha), is term for term that of `ARD`; what this
    method adds are the paper's types: A (``noise="input"``, one alpha an input) and B (one a weight).

    Args:
        init_log_sigma2, threshold, train_clip, parameterisation, init_log_alpha, noise: as `SparseVD`.

    Raises:
        ValueError: an argument out of range.
    """

    name: ClassVar[str] = "hierarchical-vd"
    paper: ClassVar[str] = "Liu et al. 2019, arXiv 1811.07533"
    rows: ClassVar[tuple[str, ...]] = (
        "HierarchicalVD-B, on W: parameterisation='log_alpha'",
        "HierarchicalVD-B, on B: noise='output'",
        "HierarchicalVD-A: noise='input'",
    )
