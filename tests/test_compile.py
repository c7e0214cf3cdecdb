"""The ops under torch.compile: one graph, no recompiles, the numbers of eager mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from vdropkern._backend import use_backend

from .cases import CASES, Case, leaves

# torch warns of itself: Dynamo makes instances of autograd Functions, inductor imports torch.jit
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
]

COMPILED = (
    "linear_lrt-odd",
    "linear_lrt-no_bias",
    "linear_lrt-log_alpha[11]",
    "linear_lrt_kl-odd-log-uniform",
    "linear_lrt_kl-log_alpha-ard",
)


@pytest.fixture(autouse=True)
def _one_capture() -> Iterator[None]:
    """Forget what other tests captured, and raise where a graph would be captured a second time."""
    torch._dynamo.reset()
    with torch._dynamo.config.patch(error_on_recompile=True):
        yield


def compiled(case: Case, backend: str = "aot_eager") -> Callable[..., Any]:
    return torch.compile(case.call, fullgraph=True, dynamic=True, backend=backend)


@pytest.mark.parametrize("name", COMPILED)
def test_compile(name: str) -> None:
    check(CASES[name])


def test_compile_of_the_forced_reference() -> None:
    """Here the op is no node of the graph: Dynamo walks through its formula."""
    with use_backend("reference"):
        check(CASES["linear_lrt_kl-odd-log-uniform"])


def check(case: Case) -> None:
    """One graph, captured once for all batch sizes; the same numbers and gradients as in eager mode."""
    run = compiled(case)
    tensors = leaves(case)
    inp = tensors["x"].shape[-1]
    for batch in (5, 7, 33):
        tensors["x"] = torch.randn(batch, inp, requires_grad=True)
        outputs, expected = run(tensors), case.call(tensors)
        for found, e in zip(outputs, expected, strict=True):
            assert torch.equal(found, e)
        found_d = torch.autograd.grad([t.sum() for t in outputs], list(tensors.values()))
        expected_d = torch.autograd.grad([t.sum() for t in expected], list(tensors.values()))
        for name, found, e in zip(tensors, found_d, expected_d, strict=True):
            torch.testing.assert_close(found, e, rtol=1e-6, atol=1e-6, msg=name)


@pytest.mark.parametrize("name", ["kl-odd-log-uniform", "kl-free-ard"])
def test_compile_kl(name: str) -> None:
    case = CASES[name]
    run = compiled(case)
    tensors = leaves(case)
    (found,), (expected,) = run(tensors), case.call(tensors)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        torch.autograd.grad(found, list(tensors.values())),
        torch.autograd.grad(expected, list(tensors.values())),
        rtol=1e-5,
        atol=1e-7,
    )


def test_compile_draws_its_seed_inside_the_graph() -> None:
    """Without a seed each call of the compiled function draws a new one, and manual_seed repeats them."""
    case = CASES["linear_lrt-odd"]
    run = compiled(case)
    tensors = case.make()
    torch.manual_seed(4)
    first, second = run(tensors, seed=None)[0], run(tensors, seed=None)[0]
    torch.manual_seed(4)
    again = run(tensors, seed=None)[0]
    assert not torch.equal(first, second)
    assert torch.equal(first, again)


def test_inductor() -> None:
    case = CASES["linear_lrt_kl-odd-log-uniform"]
    run = compiled(case, "inductor")
    tensors = leaves(case)
    outputs, expected = run(tensors), case.call(tensors)
    torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        torch.autograd.grad([t.sum() for t in outputs], list(tensors.values())),
        torch.autograd.grad([t.sum() for t in expected], list(tensors.values())),
        rtol=1e-4,
        atol=1e-4,
    )
