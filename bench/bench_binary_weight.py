"""binary_weight: alpha sign(w) and its corrected gradient, against eager torch."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

import vdropkern as vdk
from vdropkern import functional as vF

from .bench_sign_ste import EagerSte
from .gate import compare
from .specs import Contender, Size


def _inputs(size: Size) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    w, g = (torch.randn(size.rows, size.cols, generator=generator) for _ in range(2))
    return (w / math.sqrt(size.cols)).requires_grad_(), g


def _both_ways(binary: Callable[[Tensor], Tensor], size: Size) -> Callable[[], None]:
    w, g = _inputs(size)

    def run() -> None:
        binary(w).backward(g)
        w.grad = None

    return run


def eager(w: Tensor) -> Tensor:
    """By autograd, through the mean magnitude and a hard-tanh sign."""
    signs: Tensor = EagerSte.apply(w, "hard-tanh")
    return w.abs().mean(1, keepdim=True) * signs


CONTENDERS = {
    "eager": Contender("abs, mean, sign, multiply", lambda s: _both_ways(eager, s), core=True),
    "vdropkern": Contender(
        "vdropkern binary_weight", lambda s: _both_ways(lambda w: vF.binary_weight(w)[0], s), core=True
    ),
    "compile": Contender(
        "torch.compile(eager)", lambda s: _both_ways(torch.compile(eager, dynamic=False), s)
    ),
}


def gate(size: Size) -> list[str]:
    """Weights and gradients against the reference in float64."""
    results = []
    for backend, dtype in (("auto", torch.float32), ("reference", torch.float64)):
        w, g = _inputs(size)
        w = w.detach().to(dtype).requires_grad_()
        with vdk.use_backend(backend):
            binary, alpha = vF.binary_weight(w)
            binary.backward(g.to(dtype))
        assert w.grad is not None
        results.append({"weights": binary.detach(), "alpha": alpha, "gradient": w.grad})
    return compare(*results, size.cols)


def test_binary_weight(timed: Callable[[], None]) -> None:
    timed()
