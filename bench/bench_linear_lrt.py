"""linear_lrt: the training step of variational linear layers, against the dense layer's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vdropkern as vdk
from vdropkern import nn as vnn
from vdropkern.methods import SparseVD

from . import peers
from .gate import compare
from .specs import Contender, MissingError, Net
from .step import KL_SCALE, Step, fill, inputs, mlp

_K1, _K2, _K3 = 0.63576, 1.87320, 1.48695  # Molchanov et al. 2017, eq. 14


def eager_kl(mu: Tensor, log_sigma2: Tensor) -> Tensor:
    """The KL of SparseVD as users write it."""
    log_alpha = log_sigma2 - torch.log(mu**2 + 1e-8)
    return (0.5 * F.softplus(-log_alpha) + _K1 * torch.sigmoid(-(_K2 + _K3 * log_alpha))).sum()


class EagerLinear(nn.Linear):
    """SparseVD with local reparameterisation as users write it."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.log_sigma2 = nn.Parameter(torch.full_like(self.weight, -10.0))

    def forward(self, x: Tensor) -> Tensor:
        mean = F.linear(x, self.weight, self.bias)
        variance = F.linear(x * x, self.log_sigma2.exp())
        return mean + torch.sqrt(variance + 1e-8) * torch.randn_like(mean)


def _dense(net: Net, **options: Any) -> Step:
    def layer(mu: Tensor, log_sigma2: Tensor, bias: Tensor) -> nn.Module:
        return fill(nn.Linear(mu.shape[1], mu.shape[0]), weight=mu, bias=bias)

    module = mlp(net, layer)
    return Step(module, *inputs(net), lambda x: (module(x), None), noisy=False, **options)


def _eager(net: Net, **options: Any) -> Step:
    def layer(mu: Tensor, log_sigma2: Tensor, bias: Tensor) -> nn.Module:
        return fill(EagerLinear(mu.shape[1], mu.shape[0]), weight=mu, log_sigma2=log_sigma2, bias=bias)

    module = mlp(net, layer)

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        y = module(x)
        layers = (m for m in module if isinstance(m, EagerLinear))
        return y, torch.stack([eager_kl(layer.weight, layer.log_sigma2) for layer in layers])

    return Step(module, *inputs(net), forward, **options)


def _module(net: Net) -> nn.Sequential:
    def layer(mu: Tensor, log_sigma2: Tensor, bias: Tensor) -> nn.Module:
        made = vnn.Linear(mu.shape[1], mu.shape[0], method=SparseVD())
        return fill(made, weight=mu, log_sigma2=log_sigma2, bias=bias)

    return mlp(net, layer)


def _fused(net: Net, **options: Any) -> Step:
    module = _module(net)

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        with vdk.collect_kl(module) as kl:
            y = module(x)
        return y, kl.total()

    return Step(module, *inputs(net), forward, **options)


def _bf16(net: Net) -> Callable[[], None]:
    if not torch.ops.vdropkern.cpu_bf16_variance.default(-1) & 2:
        raise MissingError("a CPU that multiplies bfloat16 (AVX512_BF16)")
    step = _fused(net)

    def run() -> None:
        with vdk.use_precision(variance="bf16"):
            step()

    return run


def _separate(net: Net, **options: Any) -> Step:
    module = _module(net)
    return Step(module, *inputs(net), lambda x: (module(x), vdk.kl_divergence(module)), **options)


def _reference(net: Net) -> Callable[[], None]:
    step = _fused(net)

    def run() -> None:
        with vdk.use_backend("reference"):
            step()

    return run


CONTENDERS = {
    "dense": Contender("dense torch layer, no KL", _dense, core=True),
    "vdropkern": Contender("vdropkern (KL fused)", _fused, core=True),
    "vdropkern-bf16": Contender("vdropkern (variance in bf16)", _bf16, core=True),
    "vdropkern-separate": Contender("vdropkern (KL separate)", _separate, core=True),
    "compile": Contender("torch.compile(eager)", lambda net: _eager(net, compiled=True)),
    "eager": Contender("eager formula", _eager),
    **peers.LINEAR,
    "dense-compile": Contender("torch.compile(dense)", lambda net: _dense(net, compiled=True)),
    "dense-zeroed": Contender("dense, grads zeroed", lambda net: _dense(net, keep_grads=True)),
    "vdropkern-zeroed": Contender(
        "vdropkern, grads zeroed",
        lambda net: _fused(net, keep_grads=True),
        baseline="dense-zeroed",
    ),
    "reference": Contender("vdropkern, reference backend", _reference, default=False),
}


def _results(step: Step) -> dict[str, Tensor]:
    """y, the KL and every gradient of one step, with the noise of a fixed torch seed."""
    torch.manual_seed(3)
    y, kl = step.forward(step.x)
    assert kl is not None
    ((y * step.g).sum() + kl * KL_SCALE).backward()
    found = {"y": y.detach(), "KL": kl.detach()}
    for name, tensor in (*step.module.named_parameters(), ("x", step.x)):
        if tensor.grad is not None:
            found[f"gradient of {name}"] = tensor.grad
    return found


def gate(net: Net) -> list[str]:
    """Both ways to the KL against the reference in float64: outputs, KL and every gradient."""
    truth = _fused(net)
    truth.module.double()
    truth.x, truth.g = truth.x.detach().double().requires_grad_(net.input_grad), truth.g.double()
    with vdk.use_backend("reference"):
        expected = _results(truth)
    reduction = max(*net.dims, net.batch)
    wrong = []
    for name, make in (("vdropkern", _fused), ("vdropkern-separate", _separate)):
        wrong += [f"{name}: {line}" for line in compare(_results(make(net)), expected, reduction)]
    return wrong


def test_linear_lrt(timed: Callable[[], None]) -> None:
    timed()
