"""Every method on one layer: its training step, KL and penalty included, against the dense layer's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

import vdropkern as vdk
from vdropkern import nn as vnn
from vdropkern.methods import METHODS, Method

from .gate import compare
from .specs import Contender, Layer
from .step import Step


def _problem(spec: Layer) -> tuple[nn.Linear | nn.Conv2d, Tensor, Tensor]:
    """The dense layer, its input and the gradient of its output."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        if spec.image is None:
            dense: nn.Linear | nn.Conv2d = nn.Linear(spec.width, spec.width)
            shape: tuple[int, ...] = (spec.batch, spec.width)
        else:
            dense = nn.Conv2d(spec.width, spec.width, 3, padding=1)
            shape = (spec.batch, spec.width, spec.image, spec.image)
        return dense, torch.randn(shape).relu_().requires_grad_(), torch.randn(shape) / spec.batch


def _dense(spec: Layer) -> Step:
    dense, x, g = _problem(spec)
    return Step(dense, x, g, lambda x: (dense(x), None), noisy=False)


def _layer(spec: Layer, method: Method) -> tuple[nn.Module, Tensor, Tensor]:
    dense, x, g = _problem(spec)
    kind = vnn.Linear if isinstance(dense, nn.Linear) else vnn.Conv2d
    with torch.random.fork_rng():
        torch.manual_seed(3)  # some methods draw their first parameters
        return kind.from_dense(dense, method), x, g  # type: ignore[arg-type]


def _with_kl(module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """The output, and what the method adds to the loss: KL and penalty."""
    with vdk.collect_kl(module) as kl:
        y = module(x)
    return y, kl.total() + vdk.penalty(module)


class _MethodStep(Step):
    """A step whose noise and gradients depend on the method: tests/test_methods.py checks those."""

    def check(self) -> list[str]:
        return []


def _step(spec: Layer, name: str) -> Step:
    module, x, g = _layer(spec, METHODS[name]())
    return _MethodStep(module, x, g, partial(_with_kl, module))


CONTENDERS = {
    "dense": Contender("dense torch layer", _dense, core=True),
    **{name: Contender(name, partial(_step, name=name)) for name in METHODS},
}


def gate(spec: Layer) -> list[str]:
    """Output and gradient of the input against the reference in float64, for every method."""
    wrong = []
    for name, cls in METHODS.items():
        results = []
        for backend, dtype in (("auto", torch.float32), ("reference", torch.float64)):
            module, x, g = _layer(spec, cls())
            module, x, g = module.to(dtype), x.detach().to(dtype).requires_grad_(), g.to(dtype)
            with vdk.use_backend(backend):
                torch.manual_seed(5)
                y, _ = _with_kl(module, x)
                y.backward(g)
            assert x.grad is not None
            results.append({"y": y.detach(), "gradient of x": x.grad})
        wrong += [f"{name}: {line}" for line in compare(*results, 9 * spec.width)]
    return wrong


def test_methods(timed: Callable[[], None]) -> None:
    timed()
