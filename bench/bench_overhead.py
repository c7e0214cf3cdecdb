"""What one eager call costs where the arithmetic costs nothing: Python, dispatcher, autograd, seed."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

import vdropkern as vdk
from vdropkern import functional as vF
from vdropkern import nn as vnn
from vdropkern.methods import SparseVD

from .bench_linear_lrt import EagerLinear, eager_kl
from .bench_linear_lrt import gate as linear_gate
from .specs import Call, Contender, Net
from .step import KL_SCALE


def _timed(call: Call, parameters: list[Tensor], forward: Callable[[], Tensor]) -> Callable[[], object]:
    """`forward` under the case's mode; it returns the scalar loss where there is a backward pass."""
    if call.mode == "no-grad":

        def no_grad() -> None:
            with torch.no_grad():
                forward()

        return no_grad
    if call.mode == "forward":
        return forward

    def backward() -> None:
        forward().sum().backward()
        for parameter in parameters:
            parameter.grad = None

    return backward


def _x(call: Call) -> Tensor:
    return torch.randn(call.batch, call.inputs, generator=torch.Generator().manual_seed(2))


def _dense(call: Call) -> Callable[[], object]:
    x, layer = _x(call), torch.nn.Linear(call.inputs, call.outputs)
    return _timed(call, list(layer.parameters()), lambda: layer(x))


def _eager(call: Call) -> Callable[[], object]:
    x, layer = _x(call), EagerLinear(call.inputs, call.outputs)
    return _timed(call, list(layer.parameters()), lambda: layer(x))


def _eager_kl(call: Call) -> Callable[[], object]:
    x, layer = _x(call), EagerLinear(call.inputs, call.outputs)

    def forward() -> Tensor:
        return layer(x).sum() + eager_kl(layer.weight, layer.log_sigma2) * KL_SCALE

    return _timed(call, list(layer.parameters()), forward)


def _layer(call: Call) -> Callable[[], object]:
    x, layer = _x(call), vnn.Linear(call.inputs, call.outputs, method=SparseVD())
    return _timed(call, list(layer.parameters()), lambda: layer(x))


def _layer_kl(call: Call) -> Callable[[], object]:
    x, layer = _x(call), vnn.Linear(call.inputs, call.outputs, method=SparseVD())

    def forward() -> Tensor:
        with vdk.collect_kl(layer) as kl:
            y = layer(x)
        return y.sum() + kl.total() * KL_SCALE

    return _timed(call, list(layer.parameters()), forward)


def _function(call: Call) -> Callable[[], object]:
    x = _x(call)
    mu = torch.randn(call.outputs, call.inputs).requires_grad_()
    log_sigma2 = torch.full_like(mu, -8.0).requires_grad_()
    bias = torch.zeros(call.outputs).requires_grad_()
    return _timed(call, [mu, log_sigma2, bias], lambda: vF.linear_lrt(x, mu, log_sigma2, bias))


def _bare_linear(call: Call) -> Callable[[], object]:
    x, layer = _x(call), torch.nn.Linear(call.inputs, call.outputs)
    weight, bias = layer.weight, layer.bias
    return _timed(call, [weight, bias], lambda: F.linear(x, weight, bias))


CONTENDERS = {
    "dense": Contender("torch.nn.Linear", _dense, core=True),
    "vdropkern": Contender("vdropkern.nn.Linear", _layer, core=True),
    "vdropkern-kl": Contender("vdropkern.nn.Linear with collect_kl", _layer_kl, core=True),
    "vdropkern-function": Contender("functional.linear_lrt", _function, core=True),
    "dense-function": Contender("torch F.linear", _bare_linear, core=True),
    "eager": Contender("eager formula", _eager, core=True),
    "eager-kl": Contender("eager formula with KL", _eager_kl, core=True),
}


def gate(call: Call) -> list[str]:
    """The training step's gate on the tiny shape."""
    return linear_gate(Net((call.inputs, call.outputs), call.batch, input_grad=True))


def test_overhead(timed: Callable[[], None]) -> None:
    timed()
