"""The packages users take today, each timed through its own public API.

They are an optional extra; a contender whose package is not installed is reported as missing.
"""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .specs import Contender, MissingError, Net
from .step import Step, fill, inputs, mlp


def load(module: str, package: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside old packages are not ours to show
            return importlib.import_module(module)
    except ImportError as err:
        raise MissingError(f"pip install {package} ({err})") from err


def softplus_inverse(sigma: Tensor) -> Tensor:
    return sigma + torch.log(-torch.expm1(-sigma))


def _cplxmodule(net: Net, layer_name: str) -> Step:
    """LinearVD or LinearARD: local reparameterisation; KL by `penalties`."""
    relevance = load("cplxmodule.nn.relevance", "cplxmodule scipy")
    layer_type = getattr(relevance, layer_name)

    def layer(mu: Tensor, log_sigma2: Tensor, bias: Tensor) -> nn.Module:
        return fill(layer_type(mu.shape[1], mu.shape[0]), weight=mu, log_sigma2=log_sigma2, bias=bias)

    module = mlp(net, layer)
    return Step(module, *inputs(net), lambda x: (module(x), sum(relevance.penalties(module))))


def _bayesian_torch(net: Net, layer_name: str) -> Step:
    """LinearReparameterization (one weight sample a batch) or LinearFlipout; the forward returns the KL."""
    layers = load("bayesian_torch.layers", "bayesian-torch")
    layer_type = getattr(layers, layer_name)

    def layer(mu: Tensor, log_sigma2: Tensor, bias: Tensor) -> nn.Module:
        made = layer_type(mu.shape[1], mu.shape[0])
        return fill(made, mu_weight=mu, rho_weight=softplus_inverse((0.5 * log_sigma2).exp()), mu_bias=bias)

    module = mlp(net, layer)

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        kl = None
        for part in module:
            if isinstance(part, layer_type):
                x, own = part(x)
                kl = own if kl is None else kl + own
            else:
                x = F.relu(x)
        assert kl is not None
        return x, kl

    return Step(module, *inputs(net), forward)


def _torchbnn(net: Net) -> Step:
    """BayesLinear: one weight sample a batch; KL from a normal prior by BKLLoss."""
    torchbnn = load("torchbnn", "torchbnn")

    def layer(mu: Tensor, log_sigma2: Tensor, bias: Tensor) -> nn.Module:
        made = torchbnn.BayesLinear(0, 0.1, mu.shape[1], mu.shape[0])
        return fill(made, weight_mu=mu, weight_log_sigma=0.5 * log_sigma2, bias_mu=bias)

    module, kl = mlp(net, layer), torchbnn.BKLLoss(reduction="sum")
    return Step(module, *inputs(net), lambda x: (module(x), kl(module)))


def cplxmodule_penalty(rows: int, cols: int) -> Any:
    """A LinearVD of [rows, cols] weights, and the function that gives its penalty."""
    relevance = load("cplxmodule.nn.relevance", "cplxmodule scipy")
    module = relevance.LinearVD(cols, rows, bias=False)
    return module, lambda: sum(relevance.penalties(module))


LINEAR = {
    "cplxmodule-vd": Contender(
        "cplxmodule LinearVD", lambda net: _cplxmodule(net, "LinearVD"), package="cplxmodule"
    ),
    "cplxmodule-ard": Contender(
        "cplxmodule LinearARD", lambda net: _cplxmodule(net, "LinearARD"), package="cplxmodule"
    ),
    "bayesian-torch": Contender(
        "bayesian-torch reparameterization",
        lambda net: _bayesian_torch(net, "LinearReparameterization"),
        package="bayesian-torch",
    ),
    "bayesian-torch-flipout": Contender(
        "bayesian-torch flipout", lambda net: _bayesian_torch(net, "LinearFlipout"), package="bayesian-torch"
    ),
    "torchbnn": Contender("torchbnn", _torchbnn, package="torchbnn"),
}
