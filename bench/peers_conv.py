"""The packages users take today for convolutions, as `peers` for linear layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from .peers import load, softplus_inverse
from .specs import Contender, MissingError
from .step import Step, fill

Network = Callable[..., nn.Module]
Inputs = Callable[[Any, nn.Module], tuple[Tensor, Tensor]]


def _shape(weight: Tensor) -> tuple[int, int]:
    """Inputs and outputs of a linear layer."""
    return weight.shape[1], weight.shape[0]


def _arguments(c: Any) -> dict[str, Any]:
    return {"stride": c.stride, "padding": c.padding, "groups": c.groups}


def _cplxmodule(spec: Any, network: Network, inputs: Inputs) -> Step:
    """Conv2dVD: local reparameterisation; KL by `penalties`."""
    relevance = load("cplxmodule.nn.relevance", "cplxmodule scipy")
    module = network(
        spec,
        lambda c, v: fill(relevance.Conv2dVD(c.channels, c.out, c.kernel, **_arguments(c)), **v),
        lambda v: fill(relevance.LinearVD(*_shape(v["weight"])), **v),
    )
    return Step(module, *inputs(spec, module), lambda x: (module(x), sum(relevance.penalties(module))))


def _bayesian_torch(spec: Any, network: Network, inputs: Inputs, kind: str) -> Step:
    """Conv2dReparameterization (one weight sample a batch) or Conv2dFlipout; the forward returns the KL."""
    layers = load("bayesian_torch.layers", "bayesian-torch")

    def values(v: dict[str, Tensor], name: str) -> dict[str, Tensor]:
        rho = softplus_inverse((0.5 * v["log_sigma2"]).exp())
        return {f"mu_{name}": v["weight"], f"rho_{name}": rho, "mu_bias": v["bias"]}

    module = network(
        spec,
        lambda c, v: fill(
            getattr(layers, f"Conv2d{kind}")(c.channels, c.out, c.kernel, **_arguments(c)),
            **values(v, "kernel"),
        ),
        lambda v: fill(getattr(layers, f"Linear{kind}")(*_shape(v["weight"])), **values(v, "weight")),
    )

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        kl = None
        for part in module:  # type: ignore[attr-defined]  # a Sequential
            x = part(x)
            if isinstance(x, tuple):
                x, own = x
                kl = own if kl is None else kl + own
        assert kl is not None
        return x, kl

    class Plain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return forward(x)[0]

    return Step(module, *inputs(spec, Plain()), forward)


def _torchbnn(spec: Any, network: Network, inputs: Inputs) -> Step:
    """BayesConv2d: one weight sample a batch; KL from a normal prior by BKLLoss."""
    torchbnn = load("torchbnn", "torchbnn")
    if spec.layout == "nhwc":
        raise MissingError("torchbnn's KL takes no weights in channels_last")

    def values(v: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"weight_mu": v["weight"], "weight_log_sigma": 0.5 * v["log_sigma2"], "bias_mu": v["bias"]}

    module = network(
        spec,
        lambda c, v: fill(
            torchbnn.BayesConv2d(0, 0.1, c.channels, c.out, c.kernel, **_arguments(c)), **values(v)
        ),
        lambda v: fill(torchbnn.BayesLinear(0, 0.1, *_shape(v["weight"])), **values(v)),
    )
    kl = torchbnn.BKLLoss(reduction="sum")
    return Step(module, *inputs(spec, module), lambda x: (module(x), kl(module)))


def convolutions(network: Network, inputs: Inputs) -> dict[str, Contender]:
    """The contenders, for the networks that `network` makes of their layers."""

    def bayesian(kind: str) -> Callable[[Any], Step]:
        return lambda spec: _bayesian_torch(spec, network, inputs, kind)

    return {
        "cplxmodule-vd": Contender(
            "cplxmodule Conv2dVD", lambda spec: _cplxmodule(spec, network, inputs), package="cplxmodule"
        ),
        "bayesian-torch": Contender(
            "bayesian-torch reparameterization", bayesian("Reparameterization"), package="bayesian-torch"
        ),
        "bayesian-torch-flipout": Contender(
            "bayesian-torch flipout", bayesian("Flipout"), package="bayesian-torch"
        ),
        "torchbnn": Contender("torchbnn", lambda spec: _torchbnn(spec, network, inputs), package="torchbnn"),
    }
