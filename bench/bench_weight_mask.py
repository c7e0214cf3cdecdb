"""weight_mask: targeted dropout of a layer's weights, forward and backward, against sorting every row."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

import vdropkern as vdk
from vdropkern import functional as vF

from .gate import compare
from .specs import Contender, Size

_GAMMA, _ALPHA, _SEED = 0.75, 0.66, 0x5EED


def _weights(size: Size) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    w, g = (torch.randn(size.rows, size.cols, generator=generator) for _ in range(2))
    return (w / math.sqrt(size.cols)).requires_grad_(), g


def _both_ways(mask: Callable[[Tensor], Tensor], size: Size) -> Callable[[], None]:
    w, g = _weights(size)

    def run() -> None:
        mask(w).backward(g)
        w.grad = None

    return run


def by_sorting(w: Tensor) -> Tensor:
    """As the paper's code: sort, compare, draw, multiply."""
    magnitude = w.detach().abs()
    threshold = magnitude.sort(1).values[:, int(_GAMMA * w.shape[1])]
    keep = (magnitude >= threshold[:, None]) | (torch.rand_like(w) >= _ALPHA)
    return w * keep


def by_kthvalue(w: Tensor) -> Tensor:
    """The same by torch's own selection."""
    magnitude = w.detach().abs()
    threshold = magnitude.kthvalue(int(_GAMMA * w.shape[1]) + 1, 1).values
    keep = (magnitude >= threshold[:, None]) | (torch.rand_like(w) >= _ALPHA)
    return w * keep


CONTENDERS = {
    "sort": Contender("sort, rand, multiply", lambda s: _both_ways(by_sorting, s), core=True),
    "vdropkern": Contender(
        "vdropkern weight_mask",
        lambda s: _both_ways(lambda w: vF.weight_mask(w, _GAMMA, _ALPHA), s),
        core=True,
    ),
    "vdropkern-prune": Contender(
        "vdropkern weight_mask, alpha = 1", lambda s: _both_ways(lambda w: vF.weight_mask(w, _GAMMA), s)
    ),
    "vdropkern-unit": Contender(
        "vdropkern weight_mask, units",
        lambda s: _both_ways(lambda w: vF.weight_mask(w, _GAMMA, _ALPHA, granularity="unit"), s),
    ),
    "kthvalue": Contender("kthvalue, rand, multiply", lambda s: _both_ways(by_kthvalue, s), core=True),
    "compile": Contender(
        "torch.compile(sort, ...)", lambda s: _both_ways(torch.compile(by_sorting, dynamic=False), s)
    ),
}


def gate(size: Size) -> list[str]:
    """Masked weights and gradients against the reference in float64, and the share that is dropped."""
    results = []
    for backend, dtype in (("auto", torch.float32), ("reference", torch.float64)):
        w, g = _weights(size)
        w = w.detach().to(dtype).requires_grad_()
        with vdk.use_backend(backend):
            masked = vF.weight_mask(w, _GAMMA, _ALPHA, seed=_SEED)
            masked.backward(g.to(dtype))
        assert w.grad is not None
        results.append({"weights": masked.detach(), "gradient": w.grad})
    wrong = compare(*results, 1)
    share = (results[0]["weights"] == 0).double().mean().item()
    expected = int(_GAMMA * size.cols) / size.cols * _ALPHA
    if abs(share - expected) > 5 * math.sqrt(0.25 / (size.rows * size.cols)):
        wrong.append(f"a share of {share:.4f} is dropped instead of {expected:.4f}")
    return wrong


def test_weight_mask(timed: Callable[[], None]) -> None:
    timed()
