"""KL kernels in Triton against the float64 truth, and what they read and write."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from vdropkern.ops.kl import triton as kernels
from vdropkern.ops.kl.reference import LOG_ALPHA_PRIORS, PRIORS

from ..cases import Case, select
from ..plain import truth
from ..tolerance import assert_close
from .interpreter import Launch

SCALE = 0.37


def _arguments(case: Case, tensors: dict[str, torch.Tensor]) -> tuple:
    return (*(tensors.get(k) for k in ("mu", "log_sigma2", "log_alpha")), case.options["prior"])


def _runs() -> Iterator[tuple[Case, torch.dtype]]:
    for case in select("kl-"):
        yield case, torch.float32
        if case.id.startswith(("kl-odd", "kl-free")):
            yield from ((case, dtype) for dtype in (torch.bfloat16, torch.float16))


@pytest.mark.parametrize("case, dtype", list(_runs()), ids=str)
def test_value_and_gradients(case: Case, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    if "large" in case.id:
        monkeypatch.setattr(kernels, "BLOCK", 1 << 14)  # the interpreter's time goes by steps
    tensors = case.make(dtype)
    scale = torch.tensor(SCALE)
    value, dmu, dlog = kernels.kl_grad(scale, *_arguments(case, tensors))
    expected = truth(case, tensors, (scale.double(),))
    assert value.dtype == torch.float32
    assert_close(value, *expected["kl"], "kl")
    assert torch.equal(kernels.kl(*_arguments(case, tensors)), value)
    name = "d_log_alpha" if "log_alpha" in tensors else "d_log_sigma2"
    assert_close(dlog, *expected[name], name)
    if "mu" in tensors:
        assert_close(dmu, *expected["d_mu"], "d_mu")
    else:
        assert dmu.numel() == 0


@pytest.mark.parametrize("prior", PRIORS)
def test_traffic_is_the_minimum(prior: str, launches: list[Launch]) -> None:
    n = 3 * kernels.BLOCK * kernels.STEPS + 17
    mu, log_sigma2 = torch.randn(n) * 0.05, torch.rand(n) - 5
    kernels.kl_grad(torch.tensor(1.0), mu, log_sigma2, None, prior)
    one, two = launches
    partial = 4 * one.programs
    assert one.loaded == 8 * n + partial  # the scale, once a program
    assert one.stored == 8 * n + partial
    assert (two.kernel, two.programs, two.loaded, two.stored) == ("sum_kernel", 1, partial, 4)
    launches.clear()
    kernels.kl(mu, log_sigma2, None, prior)
    one, two = launches
    assert (one.loaded, one.stored) == (8 * n, partial)


def test_strided_and_mixed(launches: list[Launch]) -> None:
    mu, log_sigma2 = torch.randn(9, 21).mT, (torch.rand(21, 9) - 5).bfloat16()
    value, dmu, dlog = kernels.kl_grad(torch.tensor(1.0), mu, log_sigma2, None, "ard")
    other = kernels.kl_grad(torch.tensor(1.0), mu.contiguous(), log_sigma2.float(), None, "ard")
    assert torch.equal(value, other[0])
    assert torch.equal(dmu, other[1])
    assert dlog.dtype == torch.bfloat16
    assert torch.equal(dlog, other[2].bfloat16())


def test_what_is_no_number_stays_so() -> None:
    for prior in PRIORS:
        for mu, log_sigma2 in ((torch.nan, -3.0), (0.1, torch.nan)):
            value, dmu, dlog = kernels.kl_grad(
                torch.tensor(1.0), torch.tensor([mu]), torch.tensor([log_sigma2]), None, prior
            )
            assert value.isnan()
            assert (dlog if mu == mu else dmu).isnan().all()
            assert prior not in LOG_ALPHA_PRIORS or (dmu.isnan().all() and dlog.isnan().all())


def test_double_is_refused() -> None:
    with pytest.raises(TypeError, match="kl: the Triton kernels compute in float32"):
        kernels.kl(torch.randn(3).double(), torch.randn(3), None, "ard")
