"""Variational dropout: learned rates below 1/2."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, get_args

from .._method import ALPHA_AT_MOST_ONE, Enters, Granularity, Method, Scale, logit

__all__ = ["VariationalB"]


@dataclass(frozen=True)
class VariationalB(Method):
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

    Raises:
        ValueError: an argument out of range.
    """

    name: ClassVar[str] = "variational-b"
    enters: ClassVar[Enters] = "pre-activation"
    paper: ClassVar[str] = "Kingma, Salimans & Welling 2015, arXiv 1506.02557"

    granularity: Granularity = "weight"
    p: float = 0.5
    prior: str = "log-uniform-kingma"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_choice("granularity", get_args(Granularity))
        self._check_number("p", 1e-6, 0.5)
        self._check_choice("prior", ("log-uniform-kingma", "log-uniform", "log-uniform-exact"))

    @cached_property
    def scale(self) -> Scale:
        return Scale("log_alpha", self.granularity, logit(self.p), ALPHA_AT_MOST_ONE)

    @property
    def kl_prior(self) -> str:
        return self.prior
