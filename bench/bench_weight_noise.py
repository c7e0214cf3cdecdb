"""weight_noise: a noisy copy of a layer's weights, forward and backward, against the formula users write."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

import vdropkern as vdk
from vdropkern import functional as vF

from .gate import compare
from .specs import Contender, Size

_SEED = 0x5EED


def _weights(size: Size, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """mu, log_sigma2, and the gradient of the noisy weights."""
    generator = torch.Generator().manual_seed(4)
    mu, log_sigma2, g = (torch.randn(size.rows, size.cols, generator=generator) for _ in range(3))
    mu, log_sigma2 = mu / math.sqrt(size.cols), log_sigma2 - 6
    return mu.to(dtype).requires_grad_(), log_sigma2.to(dtype).requires_grad_(), g.to(dtype)


def _both_ways(noise: Callable[[Tensor, Tensor], Tensor], size: Size) -> Callable[[], None]:
    mu, log_sigma2, g = _weights(size)

    def run() -> None:
        noise(mu, log_sigma2).backward(g)
        mu.grad = log_sigma2.grad = None

    return run


def eager(mu: Tensor, log_sigma2: Tensor) -> Tensor:
    return mu + torch.exp(0.5 * log_sigma2) * torch.randn_like(mu)


CONTENDERS = {
    "eager": Contender("eager formula", lambda s: _both_ways(eager, s), core=True),
    "vdropkern": Contender("vdropkern weight_noise", lambda s: _both_ways(vF.weight_noise, s), core=True),
    "vdropkern-p": Contender(
        "vdropkern weight_noise, DropConnect",
        lambda s: _both_ways(lambda mu, _: vF.weight_noise(mu, p=0.5), s),
    ),
    "compile": Contender(
        "torch.compile(eager)", lambda s: _both_ways(torch.compile(eager, dynamic=False), s)
    ),
}


def gate(size: Size) -> list[str]:
    """Noisy weights and both gradients against the reference in float64."""
    results = []
    for backend, dtype in (("auto", torch.float32), ("reference", torch.float64)):
        mu, log_sigma2, g = _weights(size, dtype)
        with vdk.use_backend(backend):
            noisy = vF.weight_noise(mu, log_sigma2, seed=_SEED)
            noisy.backward(g)
        assert mu.grad is not None and log_sigma2.grad is not None
        found = {"weights": noisy.detach(), "gradient of mu": mu.grad}
        results.append(found | {"gradient of log_sigma2": log_sigma2.grad})
    return compare(*results, 1)


def test_weight_noise(timed: Callable[[], None]) -> None:
    timed()
