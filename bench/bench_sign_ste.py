"""sign_ste: binarised activations, forward and backward, against an autograd Function in eager torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import vdropkern as vdk
from vdropkern import functional as vF

from .gate import compare
from .specs import Contender, Signs

_SEED = 0x5EED


class EagerSte(torch.autograd.Function):
    """Signs or levels forward; backward a formula of the input, which is saved."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, estimator: str) -> Tensor:
        ctx.save_for_backward(x)
        ctx.estimator = estimator
        if estimator == "stochastic":
            return (torch.rand_like(x) < (x + 1) / 2).to(x.dtype) * 2 - 1
        if estimator == "two-bit":
            return torch.round(x.clamp(0, 1) * 3) / 3
        return torch.where(x >= 0, 1.0, -1.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        if ctx.estimator == "polynomial":
            return grad * (2 - 2 * x.abs()).clamp_min(0), None
        if ctx.estimator == "swish":
            u = 5 * x
            return grad * 5 * (2 - u * torch.tanh(u / 2)) / (1 + torch.cosh(u)), None
        low = 0.0 if ctx.estimator == "two-bit" else -1.0
        return grad * ((x >= low) & (x <= 1)), None


def _inputs(size: Signs) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x, g = (torch.randn(size.shape, generator=generator) for _ in range(2))
    return x.requires_grad_(), g


def _both_ways(binarise: Callable[[Tensor], Tensor], size: Signs) -> Callable[[], None]:
    x, g = _inputs(size)

    def run() -> None:
        binarise(x).backward(g)
        x.grad = None

    return run


def _eager(x: Tensor, estimator: str) -> Tensor:
    y: Tensor = EagerSte.apply(x, estimator)
    return y


CONTENDERS = {
    "eager": Contender(
        "autograd.Function in eager torch",
        lambda s: _both_ways(lambda x: _eager(x, s.estimator), s),
        core=True,
    ),
    "vdropkern": Contender(
        "vdropkern sign_ste", lambda s: _both_ways(lambda x: vF.sign_ste(x, s.estimator), s), core=True
    ),
    "compile": Contender(
        "torch.compile(eager)",
        lambda s: _both_ways(torch.compile(lambda x: _eager(x, s.estimator), dynamic=False), s),
    ),
}


def gate(size: Signs) -> list[str]:
    """Values and gradients against the reference in float64."""
    results = []
    # a random sign turns on its probability's last bit
    exact = torch.float32 if size.estimator == "stochastic" else torch.float64
    for backend, dtype in (("auto", torch.float32), ("reference", exact)):
        x, g = _inputs(size)
        x = x.detach().to(dtype).requires_grad_()
        with vdk.use_backend(backend):
            y = vF.sign_ste(x, size.estimator, seed=_SEED if size.estimator == "stochastic" else None)
            y.backward(g.to(dtype))
        assert x.grad is not None
        results.append({"signs": y.detach(), "gradient": x.grad})
    return compare(*results, 1)


def test_sign_ste(timed: Callable[[], None]) -> None:
    timed()
