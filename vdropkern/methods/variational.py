"""Variational dropout of Kingma, Salimans and Welling: learned rates of at most 1/2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from .._method import ALPHA_AT_MOST_ONE, Cached, Enters, Granularity, Method, Noise, Scale, logit
from ._noise import UNIT_NOISES, NoisyWeights

__all__ = ["VariationalA", "VariationalB"]

_PRIORS = ("log-uniform-kingma", "log-uniform", "log-uniform-exact")


@dataclass(frozen=True)
class VariationalA(Method):
    """Variational dropout of type A: inputs times xi ~ N(1, alpha) with alpha <= 1 learned.

    Kingma et al. 2015 (arXiv 1506.02557), section 3.2, "correlated weight noise": all weights of an input
    share its noise. y = (x * xi) W^T + b; on images one alpha a channel, fresh noise for every pixel. The KL
    (their equation 14) counts once an input, not once a weight. alpha <= 1 by projection, as in
    `VariationalB`. Nothing is pruned.

    Args:
        granularity: one alpha for each ``input`` feature or channel (default), or for the ``layer``.
        p: first rate, alpha = p / (1 - p), in [1e-6, 0.5].
        prior: ``log-uniform-kingma``, or ``log-uniform`` or ``log-uniform-exact``, which approximate the
            same KL more closely.

    Raises:
        ValueError: an argument out of range.
    """

    name: ClassVar[str] = "variational-a"
    enters: ClassVar[Enters] = "input"
    paper: ClassVar[str] = "Kingma, Salimans & Welling 2015, arXiv 1506.02557"
    formula: ClassVar[str] = "y = (x * xi) W^T + b, xi ~ N(1, alpha), alpha <= 1"
    rows: ClassVar[tuple[str, ...]] = (
        "VariationalA, fc: in the linear layer after the flatten, C H W rates",
        "VariationalA, conv: `vdropkern.nn.Dropout` of C channels before the flatten",
    )

    granularity: Literal["input", "layer"] = "input"
    p: float = 0.5
    prior: str = "log-uniform-kingma"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_choice("granularity", ("input", "layer"))
        self._check_number("p", 1e-6, 0.5)
        self._check_choice("prior", _PRIORS)

    @Cached
    def scale(self) -> Scale:
        return Scale("log_alpha", self.granularity, logit(self.p), ALPHA_AT_MOST_ONE)

    @property
    def kl_prior(self) -> str:
        return self.prior


@dataclass(frozen=True)
class VariationalB(NoisyWeights):
    """Variational dropout of type B: w ~ N(mu, alpha mu^2) with alpha <= 1 learned.

    Kingma et al. 2015 (arXiv 1506.02557), sections 3.1, 3.3 and 3.4. The prior is log-uniform, its KL their
    cubic in alpha (equation 14), counted once a weight however many weights share an alpha. The cubic holds
    for alpha <= 1 only, so log_alpha is kept in [-20, 0] by a projection after the optimiser's step: a clamp
    inside the forward pass would leave a value beyond the bound without gradient for ever. Nothing is
    pruned, since alpha <= 1 says that every weight carries signal.

    Args:
        granularity: which weights share one alpha: those of the ``layer``, of an ``input``, of an
            ``output``, or none (``weight``, default, whose KL the layer's op computes along the way).
        p: first rate, alpha = p / (1 - p), in [1e-6, 0.5]. 0.5, dropout's usual rate, starts at the bound
            alpha = 1, where the gradient still points inward.
        prior: ``log-uniform-kingma``, or ``log-uniform`` or ``log-uniform-exact``, which approximate the
            same KL more closely.
        noise: how it is drawn: ``lrt`` (default), by local reparameterisation of the weights' noise;
            ``output``, on the layer's output, y = (x mu^T + b)(1 + sqrt(alpha) e), with one alpha an output
            (or for the ``layer``) and the KL once an output, which is another posterior; ``weights``, one
            draw of the weights a batch; ``flipout``, such a draw, decorrelated between examples.

    Raises:
        ValueError: an argument out of range.
    """

    name: ClassVar[str] = "variational-b"
    noises: ClassVar[tuple[Noise, ...]] = ("lrt", "output", "weights", "flipout")
    paper: ClassVar[str] = "Kingma, Salimans & Welling 2015, arXiv 1506.02557"
    formula: ClassVar[str] = "y = x mu^T + b + sqrt(x^2 (alpha mu^2)^T + eps) e, alpha <= 1"
    rows: ClassVar[tuple[str, ...]] = ("VariationalB, on W", "VariationalB, on B: noise='output'")

    granularity: Granularity = "weight"
    p: float = 0.5
    prior: str = "log-uniform-kingma"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_choice("granularity", get_args(Granularity))
        self._check_number("p", 1e-6, 0.5)
        self._check_choice("prior", _PRIORS)
        if self.noise == "output" and self.granularity == "input":
            raise ValueError(
                "VariationalB: noise 'output' has no alpha an input; accepted: 'output', 'layer'"
            )

    @Cached
    def scale(self) -> Scale:
        granularity = self.granularity
        if self.granularity == "weight":
            granularity = UNIT_NOISES.get(self.noise, "weight")
        return Scale("log_alpha", granularity, logit(self.p), ALPHA_AT_MOST_ONE)

    @property
    def kl_prior(self) -> str:
        return self.prior
