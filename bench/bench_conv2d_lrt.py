"""conv2d_lrt: the training step of variational convolutions, against the dense one's in that layout."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

import vdropkern as vdk
from vdropkern import functional as vF
from vdropkern import nn as vnn
from vdropkern.functional import LRT_EPS
from vdropkern.methods import SparseVD

from .bench_linear_lrt import EagerLinear, eager_kl
from .gate import compare
from .peers_conv import convolutions
from .specs import Contender, Conv, ConvNet
from .step import KL_SCALE, Step, fill

Spec = Conv | ConvNet
Layer = Callable[[Conv, dict[str, Tensor]], nn.Module]

_LENET_5 = (Conv(1, 20, 28, 0, kernel=5), Conv(20, 50, 12, 0, kernel=5))  # max-pooled by two each
_LENET_5_DIMS = (800, 500, 10)


def _values(generator: torch.Generator, *shape: int) -> dict[str, Tensor]:
    """Parameters of one layer: weight, log_sigma2 and bias, the same for every contender."""
    bound = 1 / math.sqrt(math.prod(shape[1:]))
    return {
        "weight": torch.empty(shape).uniform_(-bound, bound, generator=generator),
        "log_sigma2": torch.empty(shape).normal_(-8.0, 1.0, generator=generator),
        "bias": torch.empty(shape[0]).uniform_(-bound, bound, generator=generator),
    }


def _memory_format(spec: Spec) -> torch.memory_format:
    return torch.channels_last if spec.layout == "nhwc" else torch.contiguous_format


def network(spec: Spec, conv: Layer, linear: Callable[[dict[str, Tensor]], nn.Module]) -> nn.Module:
    """One convolution, or LeNet-5, of the layers that the two functions make."""
    generator = torch.Generator().manual_seed(1)

    def made(c: Conv) -> nn.Module:
        return conv(c, _values(generator, c.out, c.channels // c.groups, c.kernel, c.kernel))

    if isinstance(spec, Conv):
        module: nn.Module = nn.Sequential(made(spec))
    else:
        parts: list[nn.Module] = []
        for c in _LENET_5:
            parts += [made(c), nn.ReLU(), nn.MaxPool2d(2)]
        parts.append(nn.Flatten())
        for i, o in itertools.pairwise(_LENET_5_DIMS):
            parts += [linear(_values(generator, o, i)), nn.ReLU()]
        module = nn.Sequential(*parts[:-1])
    return module.to(memory_format=_memory_format(spec))


def inputs(spec: Spec, module: nn.Module) -> tuple[Tensor, Tensor]:
    """(x, about half of it exactly zero as after a ReLU; g, the fixed gradient of the output)."""
    generator = torch.Generator().manual_seed(2)
    first = spec if isinstance(spec, Conv) else replace(_LENET_5[0], batch=spec.batch)
    x = torch.randn(first.batch, first.channels, first.size, first.size, generator=generator).relu_()
    x = x.contiguous(memory_format=_memory_format(spec))
    with torch.no_grad():
        y = module(x)
    y = y[0] if isinstance(y, tuple) else y
    g = torch.randn(y.shape, generator=generator) / first.batch
    if g.ndim == 4:
        g = g.contiguous(memory_format=_memory_format(spec))
    return x.requires_grad_(isinstance(spec, Conv)), g


def _arguments(c: Conv) -> dict[str, Any]:
    return {
        "in_channels": c.channels,
        "out_channels": c.out,
        "kernel_size": c.kernel,
        "stride": c.stride,
        "padding": c.padding,
        "groups": c.groups,
    }


class EagerConv(nn.Conv2d):
    """SparseVD with local reparameterisation as users write it."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.log_sigma2 = nn.Parameter(torch.full_like(self.weight, -10.0))

    def forward(self, x: Tensor) -> Tensor:
        mean = self._conv_forward(x, self.weight, self.bias)
        variance = self._conv_forward(x * x, self.log_sigma2.exp(), None)
        return mean + torch.sqrt(variance + 1e-8) * torch.randn_like(mean)


def _dense(spec: Spec, **options: Any) -> Step:
    def weights(values: dict[str, Tensor]) -> dict[str, Tensor]:
        return {k: v for k, v in values.items() if k != "log_sigma2"}

    module = network(
        spec,
        lambda c, v: fill(nn.Conv2d(**_arguments(c)), **weights(v)),
        lambda v: fill(nn.Linear(v["weight"].shape[1], v["weight"].shape[0]), **weights(v)),
    )
    return Step(module, *inputs(spec, module), lambda x: (module(x), None), noisy=False, **options)


def _eager(spec: Spec, **options: Any) -> Step:
    module = network(
        spec,
        lambda c, v: fill(EagerConv(**_arguments(c)), **v),
        lambda v: fill(EagerLinear(v["weight"].shape[1], v["weight"].shape[0]), **v),
    )

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        y = module(x)
        layers = (m for m in module.modules() if isinstance(m, (EagerConv, EagerLinear)))
        return y, torch.stack([eager_kl(layer.weight, layer.log_sigma2) for layer in layers])

    return Step(module, *inputs(spec, module), forward, **options)


def _fused(spec: Spec, **options: Any) -> Step:
    module = network(
        spec,
        lambda c, v: fill(vnn.Conv2d(**_arguments(c), method=SparseVD()), **v),
        lambda v: fill(vnn.Linear(v["weight"].shape[1], v["weight"].shape[0], method=SparseVD()), **v),
    )

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        with vdk.collect_kl(module) as kl:
            y = module(x)
        return y, kl.total()

    return Step(module, *inputs(spec, module), forward, **options)


def _other(spec: Spec) -> Spec:
    return replace(spec, layout="nchw" if spec.layout == "nhwc" else "nhwc")


CONTENDERS = {
    "dense": Contender("dense torch layer, no KL", _dense, core=True),
    "vdropkern": Contender("vdropkern (KL fused)", _fused, core=True),
    "dense-other": Contender("dense, the other layout", lambda spec: _dense(_other(spec)), core=True),
    "vdropkern-other": Contender(
        "vdropkern, the other layout",
        lambda spec: _fused(_other(spec)),
        core=True,
        baseline="dense-other",
    ),
    "compile": Contender("torch.compile(eager)", lambda spec: _eager(spec, compiled=True)),
    "eager": Contender("eager formula", _eager),
    **convolutions(network, inputs),
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


def _truth(spec: Spec) -> dict[str, Tensor]:
    truth = _fused(spec)
    truth.module.double()
    truth.x = truth.x.detach().double().requires_grad_(truth.x.requires_grad)
    truth.g = truth.g.double()
    with vdk.use_backend("reference"):
        return _results(truth)


def gate(spec: Spec) -> list[str]:
    """The kernels against the reference in float64: outputs, KL and every gradient."""
    if isinstance(spec, Conv):
        reduction = max(spec.channels * spec.kernel**2, spec.batch * spec.size**2)
    else:
        reduction = spec.batch * 24**2
    return compare(_results(_fused(spec)), _truth(spec), reduction)


def errors(spec: Conv) -> dict[str, float]:
    """Error of mean, variance and every gradient, root mean square over that of the truth.

    About half of the inputs are exactly zero. The mean is seen without a variance; the variance with means of
    0, as the square of y over the noise.
    """
    step, truth = _fused(spec), _truth(spec)
    layer = step.module[0]  # type: ignore[index]
    found = _results(step)

    def moments(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        x, mu, log_sigma2, bias = (
            t.detach().to(dtype) for t in (step.x, layer.weight, layer.log_sigma2, layer.bias)
        )
        options = {"stride": spec.stride, "padding": spec.padding, "groups": spec.groups, "seed": 5}
        mean = vF.conv2d_lrt(x, mu, torch.full_like(log_sigma2, -80.0), bias, eps=0.0, **options)
        noisy = vF.conv2d_lrt(x, torch.zeros_like(mu), log_sigma2, **options)
        noise = vF.philox_normal(5, spec.batch * spec.out, noisy[0, 0].numel(), torch.float64)
        return mean, (noisy / noise.reshape(noisy.shape)) ** 2 - LRT_EPS

    with torch.no_grad():
        mean, variance = moments(torch.float32)
        with vdk.use_backend("reference"):
            true_mean, true_variance = moments(torch.float64)
    pairs = {"m": (mean, true_mean), "v": (variance, true_variance)}
    pairs |= {
        k.replace("gradient of 0.", "d ").replace("gradient of ", "d "): (found[k], truth[k])
        for k in truth
        if k.startswith("gradient")
    }
    return {k: ((a.double() - b).norm() / b.norm()).item() for k, (a, b) in pairs.items()}


def test_conv2d_lrt(timed: Callable[[], None]) -> None:
    timed()
