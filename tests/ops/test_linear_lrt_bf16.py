"""linear_lrt with its variance products of bfloat16: what may be coarser is, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tests.cases import Case, leaves, select
from tests.plain import truth
from tests.tolerance import assert_close
from vdropkern import _backend
from vdropkern._precision import set_precision, use_precision

U = 2.0**-8  # an operand's rounding to 8 bits; a product of two is off by 2u, the root of the sum by u
CASES = [c for c in select("linear_lrt") if "extreme" not in c.id]


@pytest.fixture
def bf16() -> Iterator[None]:
    if _backend.library_error() is not None or not torch.ops.vdropkern.cpu_bf16_variance.default(-1) & 2:
        pytest.skip("needs a CPU with AVX512_BF16 and the compiled library")
    with use_precision(variance="bf16"):
        yield


def results(case: Case) -> tuple[dict[str, Tensor], dict[str, Tensor], tuple[Tensor, ...]]:
    tensors = leaves(case)
    outputs = case.call(tensors)
    upstream = tuple(torch.randn(t.shape, generator=torch.Generator().manual_seed(3)) for t in outputs)
    gradients = torch.autograd.grad(outputs, list(tensors.values()), upstream)
    names = ["y", "kl"] if case.op == "linear_lrt_kl" else ["y"]
    found = dict(zip(names, outputs, strict=True))
    return found | {f"d_{k}": g for k, g in zip(tensors, gradients, strict=True)}, tensors, upstream


@pytest.mark.parametrize("case", CASES, ids=str)
def test_only_the_noise_is_coarser(case: Case, bf16: None) -> None:
    found, tensors, upstream = results(case)
    exact = truth(case, tensors, upstream)
    coarse = {"y", "d_x", "d_log_sigma2", "d_log_alpha"} | ({"d_mu"} if "log_alpha" in tensors else set())
    for name, t in found.items():
        expected, magnitude, length = exact[name]
        if name in coarse:
            # gradients through the variance hold two rounded operands and 1/std, itself off by u
            excess = (t.detach().double() - expected).abs() - 4 * U * magnitude
            assert excess.numel() == 0 or excess.max() <= 1e-6 * (1 + magnitude.max()), name
        else:
            assert_close(t.detach(), expected, magnitude, length, name)


def test_it_is_bfloat16_and_off_by_default(bf16: None) -> None:
    """Where rounding shows, results differ from float32's, which come back with the switch."""
    (case,) = select("linear_lrt-blocked")
    coarse, again = case.call(case.make())[0], case.call(case.make())[0]
    assert torch.equal(coarse, again)
    set_precision(variance="auto")
    plain = case.call(case.make())[0]
    difference = (plain - coarse).abs().max()
    assert 1e-5 < difference < 4 * U * plain.abs().max()


def test_nan_is_not_rounded_away(bf16: None) -> None:
    (case,) = select("linear_lrt-odd")
    for bits in (0x7FC00000, 0x7FFFFFFF, 0x7F800001):
        tensors = case.make()
        tensors["log_sigma2"].view(torch.int32)[4, 7] = bits
        y = case.call(tensors)[0]
        assert y[:, 4].isnan().all()
        assert not y[:, :4].isnan().any()
