"""Linear layers of every kind of method, for the tests of layers."""

from __future__ import annotations

import pytest
import torch

from vdropkern import nn as vnn
from vdropkern.methods import (
    ARD,
    Bernoulli,
    GaussianS,
    GaussianW,
    HierarchicalVD,
    Method,
    NoDropout,
    SparseVD,
    VariationalA,
    VariationalB,
)

FREE_ALPHA = HierarchicalVD(parameterisation="log_alpha")
ALL = [
    NoDropout(),
    Bernoulli(),
    GaussianS(),
    GaussianW(),
    VariationalA(),
    VariationalB(),
    SparseVD(),
    ARD(),
    HierarchicalVD(),
    FREE_ALPHA,
    *(VariationalB(granularity) for granularity in ("layer", "input", "output")),
]
LEARNED = [m for m in ALL if m.scale is not None and m.scale.bounds is not None]
NOISY = [m for m in ALL if m.enters == "pre-activation"]


def each(methods: list[Method]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("method", methods, ids=str)


def layer(method: Method, inp: int = 7, out: int = 5, **kwargs: object) -> vnn.Linear:
    """A layer whose noise parameter is spread over its range, so that some weights are to be pruned."""
    made = vnn.Linear(inp, out, method=method, **kwargs)  # type: ignore[arg-type]
    noise = made.noise_parameter()
    if noise is not None:
        with torch.no_grad():
            noise.copy_(
                torch.linspace(
                    -6, 4 if noise is made._parameters.get("log_sigma2") else 0, noise.numel()
                ).view_as(noise)
            )
            made.weight[0, 0] = 0.0
    return made


def net(method: Method) -> torch.nn.Sequential:
    return torch.nn.Sequential(layer(method, 6, 8), torch.nn.ReLU(), layer(method, 8, 3))
