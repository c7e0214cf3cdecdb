"""Every case of the registry on a GPU: values and gradients against the float64 truth, noise to the bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.cases import CASES, LAYOUTS, Case, lay_out
from tests.plain import truth
from tests.test_generic_ops import DIFFERENTIABLE, DTYPES, LAYOUT_CASES, results, upstream
from tests.tolerance import assert_close
from vdropkern import functional, use_backend
from vdropkern._precision import use_precision
from vdropkern.ops.philox_bits.reference import philox4x32

SINGLE = [name for name in DTYPES if name != "fp64"]


def check(
    case: Case, dtypes: str, device: torch.device, layout: str = "contiguous", scale: float = 1.0
) -> None:
    """`scale`: of the tolerance, where operands were rounded further than float32 rounds them."""
    if case.options.get("prior") == "log-uniform-exact":
        pytest.importorskip("scipy", reason="the truth of this prior needs scipy")
    dtype, noise_dtype = DTYPES[dtypes]
    tensors = {k: lay_out(t, layout) for k, t in case.make(dtype, noise_dtype=noise_dtype).items()}
    expected = truth(case, tensors, upstream(case, tensors))
    there = {k: lay_out(t.to(device), layout) for k, t in tensors.items()}
    actual = results(case, there, tuple(t.to(device) for t in upstream(case, tensors)))
    assert actual.keys() == expected.keys()
    for name, (value, magnitude, length) in expected.items():
        assert actual[name].device.type == device.type
        found = actual[name].cpu()
        assert torch.isfinite(found).all(), f"{name} is not finite"
        assert_close(found, value, magnitude * scale, length, f"{case} {name}")


@pytest.mark.parametrize("dtypes", SINGLE)
@pytest.mark.parametrize("case", DIFFERENTIABLE, ids=str)
def test_values_and_gradients(case: Case, dtypes: str, device: torch.device, kernels: str) -> None:
    # of half inputs the variance may be of bfloat16 operands: their noise is off by as much
    with use_precision(variance="ieee" if dtypes == "fp32" else "tf32x3"):
        check(case, dtypes, device)


@pytest.mark.parametrize("layout", LAYOUTS[1:])
@pytest.mark.parametrize("name", LAYOUT_CASES)
def test_strided_inputs(name: str, layout: str, device: torch.device, kernels: str) -> None:
    check(CASES[name], "fp32", device, layout)


@pytest.mark.parametrize("mean, roundoff", [("tf32x3", 2.0**-21), ("tf32", 2.0**-11)])
@pytest.mark.parametrize("name", ["linear_lrt-odd", "linear_lrt-blocked", "linear_lrt_kl-blocked"])
def test_precision_of_products(
    name: str, mean: str, roundoff: float, device: torch.device, kernels: str
) -> None:
    """Operands are off by no more than what the arithmetic asked for rounds off."""
    with use_precision(mean=mean):
        check(CASES[name], "fp32", device, scale=1 + roundoff / 2.0**-24)


def test_float64_runs_on_the_reference(device: torch.device) -> None:
    check(CASES["linear_lrt_kl-odd-ard"], "fp64", device)


@pytest.mark.parametrize("rows, cols", [(61, 37), (3, 4096), (1, 1), (0, 5), (4097, 3)])
def test_noise_is_that_of_the_cpu(rows: int, cols: int, device: torch.device, kernels: str) -> None:
    seed = torch.tensor(-(2**62) + 12345)
    bits = functional.philox_bits(seed.to(device), rows, cols)
    normal = functional.philox_normal(seed.to(device), rows, cols)
    with use_backend("reference"):
        assert torch.equal(bits.cpu(), functional.philox_bits(seed, rows, cols))
        expected = functional.philox_normal(seed, rows, cols)
    torch.testing.assert_close(normal.cpu(), expected, rtol=2e-6, atol=1e-7)


def test_same_bits_again(device: torch.device, kernels: str) -> None:
    """Nothing depends on the order in which blocks run."""
    case = CASES["linear_lrt_kl-blocked"]
    tensors = {k: t.to(device) for k, t in case.make().items()}
    grads = tuple(t.to(device) for t in upstream(case, tensors))
    first, second = (results(case, tensors, grads) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_nan_is_not_swallowed(device: torch.device, kernels: str) -> None:
    case = CASES["linear_lrt_kl-odd-ard"]
    tensors = {k: t.to(device) for k, t in case.make().items()}
    tensors["mu"][3] = torch.nan
    y, kl = case.call(tensors)
    bad = torch.zeros_like(y, dtype=torch.bool)
    bad[:, 3] = True
    assert torch.equal(y.isnan(), bad)
    assert kl.isnan()


@pytest.mark.parametrize("rows, cols", [(2**16 + 1, 2**15 + 3)])
def test_more_than_2_to_the_31_elements(
    rows: int, cols: int, device: torch.device, kernels: str, only_on_gpu: None
) -> None:
    """Indices are 64 bits wide: the last rows of a noise of more than 2^31 elements."""
    if torch.cuda.mem_get_info(device)[0] < 12 * rows * cols:
        pytest.skip("not enough memory")
    seed = torch.tensor(7, device=device)
    big = functional.philox_normal(seed, rows, cols)
    groups = (cols + 3) // 4
    g = torch.tensor([(rows - 1) * groups], dtype=torch.int64)
    zero = torch.zeros_like(g)
    words = philox4x32((g & 0xFFFFFFFF, g >> 32, zero, zero), (torch.tensor([7]), torch.tensor([0])))
    u0, u1 = ((w.double() + 0.5) * 2.0**-32 for w in words[:2])
    expected: Tensor = torch.sqrt(-2 * torch.log(u0)) * torch.cos(2 * torch.pi * u1)
    torch.testing.assert_close(big[-1, :1].cpu().double(), expected, rtol=2e-6, atol=1e-7)
