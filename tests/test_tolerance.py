"""The tolerance: wide enough for honest rounding in any order, too narrow for the mistakes kernels make."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from vdropkern._backend import use_backend
from vdropkern.ops import linear_lrt
from vdropkern.ops.linear_lrt import reference

from .cases import CASES
from .test_generic_ops import check
from .tolerance import ELEMENTWISE, LAMBDA, assert_close, bound, compute_dtype, tolerance

LENGTHS = (1, 7, 37, 515, 4099, 20011)


def products(length: int, dtype: torch.dtype) -> Tensor:
    """Terms of 200 sums, [100, length], rounded to `dtype`; they cancel, so sums are far below magnitudes."""
    terms = torch.randn(100, length, dtype=torch.float64) * torch.randn(100, length, dtype=torch.float64)
    return terms.to(dtype)


def one_by_one(terms: Tensor) -> Tensor:
    """The least accurate order: from left to right, rounding each time."""
    total = torch.zeros(terms.shape[0], dtype=terms.dtype)
    for column in terms.T:
        total = total + column
    return total


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_value(dtype: torch.dtype) -> None:
    u = torch.finfo(dtype).eps / 2
    assert tolerance(dtype, 1) == (1 + ELEMENTWISE) * u
    assert tolerance(dtype, 0) == tolerance(dtype, 1)
    assert tolerance(dtype, 10_000) == (LAMBDA * 100 + ELEMENTWISE) * u
    values = [tolerance(dtype, n) for n in LENGTHS]
    assert values == sorted(values)
    assert all(v <= (n + ELEMENTWISE) * u for n, v in zip(LENGTHS, values, strict=True))


def test_compute_dtype() -> None:
    assert compute_dtype(torch.float64) == torch.float64
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert compute_dtype(dtype) == torch.float32


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("order", [one_by_one, lambda t: t.sum(1), lambda t: t.sort(1).values.sum(1)])
def test_honest_sums_pass(order: Callable[[Tensor], Tensor], length: int) -> None:
    terms = products(length, torch.float32)
    exact = terms.double()
    assert_close(order(terms), exact.sum(1), exact.abs().sum(1), length)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_honest_stores_pass(dtype: torch.dtype) -> None:
    """Half types: summed in float32, rounded once, down to subnormals."""
    terms = products(515, dtype)
    for scale in (1.0, 1e-4, 1e-7):
        exact = terms.double() * scale
        stored = (terms.float() * scale).sum(1).to(dtype)
        assert_close(stored, exact.sum(1), exact.abs().sum(1), 515)


MISTAKES: dict[str, Callable[[Tensor], Tensor]] = {
    "last term forgotten": lambda t: t[:, :-1].sum(1),
    "one term twice": lambda t: t.sum(1) + t[:, 0],
    "terms in bfloat16": lambda t: t.bfloat16().float().sum(1),
    "summed in bfloat16": lambda t: t.bfloat16().cumsum(1)[:, -1].float(),
    "off by a thousandth": lambda t: t.abs().sum(1) * 1e-3 + t.sum(1),
    "NaN": lambda t: t.sum(1).index_fill(0, torch.tensor([3]), math.nan),
    "infinity": lambda t: t.sum(1).index_fill(0, torch.tensor([3]), math.inf),
}


@pytest.mark.parametrize("length", [7, 37, 515, 4099])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_fail(mistake: str, length: int) -> None:
    terms = products(length, torch.float32)
    exact = terms.double()
    with pytest.raises(
        AssertionError, match=rf"sum \(torch.float32, reduction length {length}\): .* worst at"
    ):
        assert_close(MISTAKES[mistake](terms), exact.sum(1), exact.abs().sum(1), length, "sum")


def test_shape_and_dtype_of_the_truth_are_checked() -> None:
    with pytest.raises(AssertionError, match="the truth must be float64"):
        assert_close(torch.ones(2), torch.ones(2), None, 1)
    with pytest.raises(AssertionError, match=r"shape \(2,\) != \(3,\)"):
        assert_close(torch.ones(2), torch.ones(3, dtype=torch.float64), None, 1)


def test_bound_of_a_half_result_is_its_rounding() -> None:
    """Where nothing is summed a half result may be off by little more than half an ulp."""
    one = torch.ones((), dtype=torch.float64)
    for dtype in (torch.bfloat16, torch.float16):
        half_ulp = torch.finfo(dtype).eps / 2
        assert half_ulp < bound(one, one, dtype, 1) < 1.01 * half_ulp


def mutate_forward(change: Callable[..., Any]) -> Callable[..., Any]:
    plain = reference.linear_lrt

    def run(x: Tensor, mu: Tensor, *rest: Any) -> Any:
        return change(plain, x, mu, *rest)

    return run


def mutate_backward(index: int, change: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    plain = reference.linear_lrt_backward

    def run(*args: Any) -> Any:
        results = list(plain(*args))
        results[index] = change(results[index])
        return tuple(results)

    return run


def bfloat16(t: Tensor) -> Tensor:
    return t.bfloat16().to(t.dtype)


def last_zero(t: Tensor) -> Tensor:
    return torch.cat([t[..., :-1], torch.zeros_like(t[..., -1:])], dim=-1)


MUTANTS = {
    "forward: another seed": (
        "linear_lrt",
        mutate_forward(lambda f, x, mu, ls, la, b, seed, *r: f(x, mu, ls, la, b, seed + 1, *r)),
    ),
    "forward: inputs in bfloat16": ("linear_lrt", mutate_forward(lambda f, x, *r: f(bfloat16(x), *r))),
    "forward: last input left out": ("linear_lrt", mutate_forward(lambda f, x, *r: f(last_zero(x), *r))),
    "forward: log_sigma2 off by 1e-4": (
        "linear_lrt",
        mutate_forward(lambda f, x, mu, ls, *r: f(x, mu, ls + 1e-4, *r)),
    ),
    "forward: bias forgotten": (
        "linear_lrt",
        mutate_forward(lambda f, x, mu, ls, la, b, *r: f(x, mu, ls, la, None, *r)),
    ),
    "backward: dx in bfloat16": ("linear_lrt_backward", mutate_backward(0, bfloat16)),
    "backward: dmu without its last column": ("linear_lrt_backward", mutate_backward(1, last_zero)),
    "backward: dlog_sigma2 off by 1e-4": ("linear_lrt_backward", mutate_backward(2, lambda t: t * 1.0001)),
    "backward: dbias off by 1e-4": ("linear_lrt_backward", mutate_backward(3, lambda t: t * 1.0001)),
}


@pytest.mark.parametrize("mutant", MUTANTS)
@pytest.mark.parametrize("name", ["linear_lrt-odd", "linear_lrt-blocked", "linear_lrt_kl-odd-log-uniform"])
def test_mutants_fail(name: str, mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong op fails tests/test_generic_ops.py: the check that all kernels pass."""
    function, replacement = MUTANTS[mutant]
    op = "_op" if function == "linear_lrt" else "_backward_op"
    monkeypatch.setattr(linear_lrt, op, getattr(linear_lrt, op)._replace(reference=replacement))
    with use_backend("reference"), pytest.raises(AssertionError, match="elements are off"):
        check(CASES[name], "fp32")
