"""What is equal to the bit: between runs, between thread counts, and after torch.manual_seed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from vdropkern import functional

from .cases import CASES, Case, linear
from .test_generic_ops import results, upstream

# larger than one thread's share of work, so that threads do divide it
BLOCKED = {
    "fused": linear("threads", (130,), 700, 515, op="linear_lrt_kl"),
    "tall": linear("threads-tall", (3000,), 70, 33),
    "log_alpha[OxI]": linear("threads-log_alpha", (130,), 700, 515, log_alpha=(515, 700)),
    "kl": CASES["kl-large"],
}
SHARED = {
    "scalar": linear("threads-scalar", (130,), 700, 515, log_alpha=()),
    "1xI": linear("threads-1xI", (130,), 700, 515, log_alpha=(1, 700)),
    "Ox1": linear("threads-Ox1", (130,), 700, 515, log_alpha=(515, 1)),
}
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])


def run(case: Case, dtype: torch.dtype, threads: int) -> dict[str, Tensor]:
    torch.set_num_threads(threads)
    tensors = case.make(dtype)
    return results(case, tensors, upstream(case, tensors))


def differing(a: dict[str, Tensor], b: dict[str, Tensor]) -> set[str]:
    return {name for name in a if not torch.equal(a[name], b[name])}


@DTYPES
@pytest.mark.parametrize("threads_used", [1, 3])
@pytest.mark.parametrize("name", [*BLOCKED, *SHARED])
@pytest.mark.usefixtures("threads")
def test_two_runs_are_equal(name: str, threads_used: int, dtype: torch.dtype, backend: str) -> None:
    if backend == "reference" and threads_used > 1:
        pytest.skip("ATen's own affair")
    case = (BLOCKED | SHARED)[name]
    assert not differing(run(case, dtype, threads_used), run(case, dtype, threads_used))


@DTYPES
@pytest.mark.parametrize("name", [*BLOCKED, *SHARED])
@pytest.mark.usefixtures("threads")
def test_threads_change_nothing(name: str, dtype: torch.dtype, backend: str) -> None:
    """The kernels add up every element in an order of its own, whoever does it.

    But for the gradient of a log_alpha that weights share: threads add their parts of it.
    """
    if backend == "reference":
        pytest.skip("the order of ATen's sums depends on its threads")
    case = (BLOCKED | SHARED)[name]
    alone = run(case, dtype, 1)
    allowed = {"d_log_alpha"} if name in SHARED else set()
    for count in (2, 3, 7):
        assert differing(alone, run(case, dtype, count)) <= allowed, f"{count} threads"


@pytest.mark.parametrize("name", ["linear_lrt-odd", "linear_lrt_kl-odd-log-uniform"])
def test_manual_seed_repeats_and_advances(name: str, backend: str) -> None:
    """Without a seed, torch's generator decides: repeated by manual_seed, new at every call."""
    case = CASES[name]
    tensors = case.make()
    torch.manual_seed(1)
    first, second = case.call(tensors, seed=None)[0], case.call(tensors, seed=None)[0]
    torch.manual_seed(1)
    assert torch.equal(case.call(tensors, seed=None)[0], first)
    assert not torch.equal(first, second)


def test_a_given_seed_leaves_the_generator_alone(backend: str) -> None:
    before = torch.get_rng_state()
    CASES["linear_lrt-odd"].call(CASES["linear_lrt-odd"].make())
    functional.philox_normal(3, 4, 5)
    assert torch.equal(torch.get_rng_state(), before)


def test_backward_leaves_the_generator_alone(backend: str) -> None:
    """The noise of the backward pass comes from the saved seed."""
    tensors = {k: t.requires_grad_() for k, t in CASES["linear_lrt-odd"].make().items()}
    y = functional.linear_lrt(**tensors)
    before = torch.get_rng_state()
    (first,) = torch.autograd.grad(y.sum(), tensors["x"], retain_graph=True)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(torch.autograd.grad(y.sum(), tensors["x"])[0], first)


@pytest.mark.usefixtures("threads")
def test_concurrent_calls(backend: str) -> None:
    """Calls from several Python threads at once do not see one another's scratch memory."""
    if backend == "reference":
        pytest.skip("it has no scratch memory")
    cases = [BLOCKED["fused"], SHARED["Ox1"], CASES["linear_lrt-odd"], BLOCKED["kl"]]

    def work(case: Case) -> dict[str, Tensor]:
        return run(case, torch.float32, threads=2)

    expected = [work(case) for case in cases]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for case, found, e in zip(cases, pool.map(work, cases), expected, strict=True):
                assert not differing(found, e), case


def test_rows_keep_their_noise_in_a_larger_batch(backend: str) -> None:
    """Element (r, c) of the noise does not depend on the number of rows."""
    tensors = CASES["linear_lrt-tall_batch"].make(torch.float64)
    whole = functional.linear_lrt(**tensors, seed=5)
    part = functional.linear_lrt(**{**tensors, "x": tensors["x"][:17]}, seed=5)
    torch.testing.assert_close(part, whole[:17], rtol=1e-13, atol=1e-13)
