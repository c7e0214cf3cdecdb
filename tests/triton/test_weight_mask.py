"""Targeted dropout in Triton: the reference's bits, rows in registers and digit by digit, and memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vdropkern.ops.weight_mask import GRANULARITIES, reference
from vdropkern.ops.weight_mask import triton as kernels

from ..cases import LAYOUTS, lay_out
from ..ops.test_weight_mask import far_norms, hard_rows, weights
from .interpreter import Launch

SEED = torch.tensor(0x1234_5678_9ABC_DEF1)
HALF = torch.tensor(0.5, dtype=torch.float64)
SHAPES = [(1, 1), (7, 1), (5, 37), (33, 64), (3, 1000), (24, 3)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(params=["registers", "digits"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """`digits`: rows of more than two elements are selected from as long ones are, over several programs."""
    if request.param == "digits":
        for name, value in (("WIDEST", 2), ("BLOCK", 64), ("STEPS", 2)):
            monkeypatch.setattr(kernels, name, value)
    return str(request.param)


def equals_reference(w: Tensor, gamma: float, granularity: str, grad: Tensor | None = None) -> None:
    share = torch.tensor(gamma, dtype=torch.float64)
    masked, threshold = kernels.weight_mask(w, share, HALF, SEED, granularity)
    expected, known = reference.weight_mask(w, share, HALF, SEED, granularity)
    assert torch.equal(threshold, known)
    torch.testing.assert_close(masked, expected, rtol=0, atol=0, equal_nan=True)
    grad = torch.randn(w.shape).to(w.dtype) if grad is None else grad
    found = kernels.weight_mask_grad(grad, w, threshold, HALF, SEED, granularity)
    assert torch.equal(found, reference.weight_mask_grad(grad, w, threshold, HALF, SEED, granularity))
    assert found.is_contiguous() and masked.is_contiguous()


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bits_of_the_reference(shape: tuple[int, int], granularity: str, path: str) -> None:
    for dtype in DTYPES:
        for gamma in (0.0, 0.29, 0.6, 1.0):
            equals_reference(weights(*shape, dtype=dtype), gamma, granularity)


@pytest.mark.parametrize("name", hard_rows())
def test_selection_is_exact(name: str, path: str) -> None:
    """Ties, denormals, infinities and NaN; thresholds at the ends and in between, in every dtype."""
    for dtype in DTYPES:
        row = hard_rows()[name].to(dtype)
        n = row.numel()
        rising = row.abs().float().nan_to_num(torch.inf, torch.inf).sort().values
        for k in (0, 1, 23, n // 2, n - 2, n - 1, n):
            share = torch.tensor(k / n, dtype=torch.float64)
            found = kernels.weight_mask(row[None], share, HALF, SEED, "weight")[1]
            assert found.item() == (rising[k].item() if k < n else torch.inf), k


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
def test_what_is_not_finite_stays(value: float, granularity: str, path: str) -> None:
    w = weights(5, 21)
    w[2, 3] = value
    equals_reference(w, 1.0, granularity)


@pytest.mark.parametrize("granularity", GRANULARITIES[1:])
def test_norms_beyond_the_range_of_squares(granularity: str) -> None:
    for gamma in (0.25, 0.5, 0.75):
        equals_reference(far_norms(), gamma, granularity)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_ends_of_alpha(alpha: float) -> None:
    """No word is below 0, every word is below 2^32."""
    w, share = weights(9, 33), torch.tensor(0.5, dtype=torch.float64)
    masked, threshold = kernels.weight_mask(w, share, torch.tensor(alpha), SEED, "weight")
    assert torch.equal(masked == 0, (w.abs() < threshold[:, None]) & (alpha == 1))


@pytest.mark.parametrize("layout", LAYOUTS[1:])
def test_layouts(layout: str) -> None:
    grad = lay_out(torch.randn(9, 30), layout)
    for granularity in GRANULARITIES:
        equals_reference(lay_out(weights(9, 30), layout), 0.5, granularity, grad)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0)], ids=str)
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_empty(granularity: str, shape: tuple[int, int]) -> None:
    equals_reference(torch.empty(shape), 0.5, granularity)


@pytest.mark.parametrize("shape", [(64, 128), (33, 50), (2, 3000)], ids=str)
def test_traffic(shape: tuple[int, int], launches: list[Launch]) -> None:
    """Rows in registers: weights read once, the result written once, in one launch."""
    w = weights(*shape)
    _, threshold = kernels.weight_mask(w, HALF, HALF, SEED, "weight")
    (launch,) = launches
    assert launch.kernel == "select_kernel"
    assert launch.loaded == 4 * w.numel() + 24 * launch.programs  # rank, bound and seed
    assert launch.stored == 4 * w.numel() + 4 * shape[0]
    launches.clear()
    kernels.weight_mask_grad(w.clone(), w, threshold, HALF, SEED, "weight")
    (launch,) = launches
    assert launch.unique == 8 * w.numel() + 4 * shape[0] + 16
    assert launch.stored == 4 * w.numel()


def test_traffic_of_long_rows(monkeypatch: pytest.MonkeyPatch, launches: list[Launch]) -> None:
    """A pass over the weights a digit, of which bfloat16 has two, and one that masks."""
    monkeypatch.setattr(kernels, "WIDEST", 2)
    for dtype, digits in ((torch.float32, 4), (torch.float16, 3), (torch.bfloat16, 2)):
        launches.clear()
        w = weights(3, 20000, dtype=dtype)
        kernels.weight_mask(w, HALF, HALF, SEED, "weight")
        passes = [launch for launch in launches if launch.kernel == "count_kernel"]
        assert len(passes) == digits
        programs = passes[0].programs
        prefixes = [0, *(4 * programs for _ in range(digits - 1))]
        assert [p.loaded - w.nbytes for p in passes] == prefixes
        assert {p.stored for p in passes} == {programs * 4 * 256}
        assert launches[-1].kernel == "mask_kernel" and launches[-1].stored == w.nbytes


def test_double_is_refused() -> None:
    with pytest.raises(TypeError, match="weight_mask: the Triton kernels compute in float32"):
        kernels.weight_mask(torch.randn(3, 2).double(), HALF, HALF, SEED, "weight")
