"""Noise on the weights themselves: Bayes by Backprop and DropConnect."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from .._method import LOG_ALPHA_BOUNDS, LOG_SIGMA2_BOUNDS, Cached, Enters, Method, Noise, Scale
from ._noise import NoisyWeights

__all__ = ["BayesByBackprop", "DropConnect"]


@dataclass(frozen=True)
class BayesByBackprop(NoisyWeights):
    """Bayes by Backprop: w ~ N(mu, sigma^2) under a fixed normal prior N(0, s^2).

    Blundell et al. 2015 (arXiv 1505.05424), sections 3.2 and 3.3, with a prior of one component, whose KL is
    exact, and log sigma^2 for their rho, sigma = log(1 + exp(rho)). They draw weights once a batch
    (``weights``); the same posterior trains with less noisy gradients by local reparameterisation (``lrt``,
    Kingma et al. 2015, arXiv 1506.02557, section 2.3) or flipout (Wen et al. 2018, arXiv 1803.04386).

    Args:
        prior_sd: s of the prior, in [1e-4, 1e4].
        init_log_sigma2: first log variance, in [-20, 4]. -6 is a noise of 0.05; the paper starts near there.
        threshold: weights with log_alpha at or above it are pruned: those of a signal-to-noise ratio
            |mu| / sigma of exp(-threshold / 2) or less (their section 5.1). None (default): none are.
        noise: how it is drawn: ``lrt`` (default), ``weights`` or ``flipout``.

    Raises:
        ValueError: an argument out of range.
    """

    name: ClassVar[str] = "bayes-by-backprop"
    noises: ClassVar[tuple[Noise, ...]] = ("lrt", "weights", "flipout")
    paper: ClassVar[str] = "Blundell et al. 2015, arXiv 1505.05424"
    formula: ClassVar[str] = "y = x mu^T + b + sqrt(x^2 (sigma^2)^T + eps) e"

    prior_sd: float = 1.0
    init_log_sigma2: float = -6.0
    threshold: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_number("prior_sd", 1e-4, 1e4)
        self._check_number("init_log_sigma2", *LOG_SIGMA2_BOUNDS)
        if self.threshold is not None:
            self._check_number("threshold", *LOG_ALPHA_BOUNDS)

    @Cached
    def scale(self) -> Scale:
        return Scale("log_sigma2", "weight", self.init_log_sigma2, LOG_SIGMA2_BOUNDS)

    @property
    def kl_prior(self) -> str:
        return "normal" if self.prior_sd == 1 else f"normal({float(self.prior_sd)!r})"

    @property
    def prune_at(self) -> float | None:
        return self.threshold

    @property
    def says_prior(self) -> str:
        return f"N(0, {self.prior_sd:g}^2)"


@dataclass(frozen=True)
class DropConnect(Method):
    """DropConnect: every weight is dropped with probability p, W = mu m / (1 - p).

    Wan et al. 2013 (ICML), section 3, in the inverted form, so that eval needs no rescaling. No KL, nothing
    is pruned.

    Args:
        p: probability of dropping a weight, in [1e-6, 0.999]; 0.5 is the paper's.
        inference: what eval modes ``sample`` and `MC` draw from. ``weights`` (default): as in training.
            ``gaussian``: the normal of the same mean and variance for each pre-activation, z + sqrt(x^2
            (alpha mu^2)^T) e with alpha = p / (1 - p), the paper's inference (its section 3.2 and algorithm
            2), an average over draws. Eval mode ``mean`` takes the mean weights, which is cheaper.
        draws: ``batch`` (default): one mask a forward pass, shared by all examples. ``example``: a mask for
            each example, as in the paper, at the cost of a copy of the weights for each.

    Raises:
        ValueError: an argument out of range.
    """

    name: ClassVar[str] = "drop-connect"
    enters: ClassVar[Enters] = "weight"
    paper: ClassVar[str] = "Wan et al. 2013, ICML"
    formula: ClassVar[str] = "y = x (mu * m / (1 - p))^T + b, m ~ Bernoulli(1 - p)"

    p: float = 0.5
    inference: Literal["weights", "gaussian"] = field(default="weights", kw_only=True)
    draws: Literal["batch", "example"] = field(default="batch", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_number("p", 1e-6, 0.999)
        self._check_choice("inference", ("weights", "gaussian"))
        self._check_choice("draws", ("batch", "example"))

    @property
    def says_scale(self) -> str:
        return "fixed p"
