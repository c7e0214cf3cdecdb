"""The methods of the field, as data: where the noise enters, how its scale is parameterised, its prior.

| method           | noise enters   | its scale                                | prior of the weights     |
|------------------|----------------|------------------------------------------|--------------------------|
| `Bernoulli`      | input          | fixed p                                  | none                     |
| `GaussianW`      | pre-activation | fixed alpha = p / (1 - p)                | none                     |
| `VariationalB`   | pre-activation | log_alpha a layer, input, output, weight | log-uniform, alpha <= 1  |
| `SparseVD`       | pre-activation | log_sigma2 a weight                      | log-uniform              |
| `ARD`            | pre-activation | log_sigma2 a weight                      | normal, variance learned |
| `HierarchicalVD` | pre-activation | log_sigma2 or log_alpha a weight         | hierarchical: ARD's KL   |

Layers, KL, conversion and files read these attributes and nothing else, so a new method is a new class here
(and an op folder only where it needs new arithmetic). mu is a weight's mean, alpha = sigma^2 / mu^2.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Literal, get_args

from ._method import MC, Enters, EvalMode, Granularity, Method, Scale, logit

__all__ = [
    "ARD",
    "MC",
    "METHODS",
    "Bernoulli",
    "EvalMode",
    "GaussianW",
    "HierarchicalVD",
    "Method",
    "Scale",
    "SparseVD",
    "VariationalB",
]

# exp(-20) is noise of 4.5e-5, less than float32 training notices; exp(4) is far above any weight that is kept
LOG_SIGMA2_BOUNDS = (-20.0, 4.0)
LOG_ALPHA_BOUNDS = (-20.0, 20.0)
ALPHA_AT_MOST_ONE = (-20.0, 0.0)


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


@dataclass(frozen=True)
class _Additive(Method):
    """w ~ N(mu, sigma^2) with a free variance a weight, pruned by log_alpha."""

    enters: ClassVar[Enters] = "pre-activation"

    init_log_sigma2: float = -10.0
    threshold: float = 3.0
    train_clip: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_number("init_log_sigma2", *LOG_SIGMA2_BOUNDS)
        self._check_number("threshold", *LOG_ALPHA_BOUNDS)

    @cached_property
    def scale(self) -> Scale:
        return Scale("log_sigma2", "weight", self.init_log_sigma2, LOG_SIGMA2_BOUNDS)

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
        train_clip: whether weights that would be pruned already train with mean 0 (their noise stays), as
            in the authors' LeNet scripts: the net gets used to their absence, and more of them go.
        prior: ``log-uniform``, the approximation of equation 14 (error <= 0.007 nats a weight), or
            ``log-uniform-exact``.

    Raises:
        ValueError: an argument out of range.
    """

    name: ClassVar[str] = "sparse-vd"
    paper: ClassVar[str] = "Molchanov, Ashukha & Vetrov 2017, arXiv 1701.05369"

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
        init_log_sigma2, threshold, train_clip: as `SparseVD`.

    Raises:
        ValueError: an argument out of range.
    """

    name: ClassVar[str] = "ard"
    paper: ClassVar[str] = "Kharitonov, Molchanov & Vetrov 2018, arXiv 1811.00596"


@dataclass(frozen=True)
class HierarchicalVD(_Additive):
    """Variational Bayesian dropout with a hierarchical prior, type B: w ~ N(0, gamma), gamma ~ uniform.

    Liu et al. 2019 (arXiv 1811.07533, CVPR): a proper prior in place of the log-uniform one. With gamma
    maximised out its KL is term for term that of `ARD`; what this method adds is the choice of parameter.

    Args:
        init_log_sigma2, threshold, train_clip: as `SparseVD`.
        parameterisation: ``log_sigma2`` (default: noise of its own, whose gradients vary less) or
            ``log_alpha`` (the noise is alpha mu^2 and vanishes with mu).
        init_log_alpha: first log_alpha, in [-20, 20]. -4 is what log_sigma2 = -10 means for a weight of
            0.05; 0 is dropout at p = 0.5.

    Raises:
        ValueError: an argument out of range.
    """

    name: ClassVar[str] = "hierarchical-vd"
    paper: ClassVar[str] = "Liu et al. 2019, arXiv 1811.07533"

    parameterisation: Literal["log_sigma2", "log_alpha"] = "log_sigma2"
    init_log_alpha: float = -4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_choice("parameterisation", ("log_sigma2", "log_alpha"))
        self._check_number("init_log_alpha", *LOG_ALPHA_BOUNDS)

    @cached_property
    def scale(self) -> Scale:
        if self.parameterisation == "log_sigma2":
            return Scale("log_sigma2", "weight", self.init_log_sigma2, LOG_SIGMA2_BOUNDS)
        return Scale("log_alpha", "weight", self.init_log_alpha, LOG_ALPHA_BOUNDS)


METHODS: dict[str, type[Method]] = {
    cls.name: cls for cls in (Bernoulli, GaussianW, VariationalB, SparseVD, ARD, HierarchicalVD)
}
