"""Multiplicative noise and multi-sample dropout under torch.compile: one graph, the numbers of eager mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from vdropkern import functional as F

# torch warns of itself: Dynamo makes instances of autograd Functions
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


@pytest.fixture(autouse=True)
def _one_capture() -> Iterator[None]:
    """Forget what other tests captured, and raise where a graph would be captured a second time."""
    torch._dynamo.reset()
    with torch._dynamo.config.patch(error_on_recompile=True):
        yield


def check(loss: Callable[..., Tensor], *leaves: Tensor) -> None:
    run = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for t in leaves:
        t.requires_grad_()
    for _ in range(2):
        found, expected = run(*leaves), loss(*leaves)
        torch.testing.assert_close(found, expected)
        for a, b in zip(
            torch.autograd.grad(found, leaves), torch.autograd.grad(expected, leaves), strict=True
        ):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_mul_noise(memory_format: torch.memory_format) -> None:
    z = torch.randn(2, 3, 4, 5).contiguous(memory_format=memory_format)
    g = torch.randn(2, 3, 4, 5)

    def loss(z: Tensor, log_alpha: Tensor, bias: Tensor) -> Tensor:
        y = F.mul_out_noise(z, log_alpha, bias, seed=5)
        return (F.mul_noise(y, 0.3, seed=6) * g).sum()

    check(loss, z, torch.zeros(3, 1, 1), torch.randn(3, 1, 1))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_multi_sample_head(reduction: str) -> None:
    target = torch.randint(4, (5,))

    def loss(h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.multi_sample_head(h, weight, bias, target, 6, seed=5, reduction=reduction).sum()

    check(loss, torch.randn(5, 12), torch.randn(4, 12), torch.randn(4))
