"""weight_mask in CUDA, on the emulated GPU: the reference's bits, and what it moves."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.emulator import SCHEDULES, emulated, memory, misaligned
from tests.tolerance import compute_dtype
from vdropkern.ops.weight_mask import GRANULARITIES, reference

from .test_weight_mask import DTYPES, far_norms, hard_rows, weights

gpu = emulated()
SEED = torch.tensor(0x1234_5678_9ABC_DEF1)
HALF = torch.tensor(0.5, dtype=torch.float64)
Bytes = dict[str, tuple[int, int]]
# rows in a warp's registers, few and many, in a block's, in a large block's
SHAPES = ((1, 1), (7, 1), (5, 37), (33, 64), (24, 3), (3, 1000), (9, 260), (2, 3000), (3, 1030), (1, 9001))
LONG = 32768 + 16384  # is read digit by digit, in three spans at least


def on_gpu(
    w: Tensor,
    gamma: Tensor | None,
    alpha: Tensor,
    granularity: str,
    threshold: Tensor | None = None,
    grad: Tensor | None = None,
    offset: int = 0,
) -> tuple[Tensor, Tensor, Bytes]:
    """(weights, or with a threshold the gradient, without what is dropped; thresholds; bytes by tensor)."""
    (rows, cols), code = w.shape, GRANULARITIES.index(granularity)
    with memory(gpu) as m:
        out, to_out = m.output("out", (rows, cols), w.dtype, offset)
        to_w = m.input("w", misaligned(w, offset))
        to_given = to_w if grad is None else m.input("grad", misaligned(grad, offset))
        if threshold is None:
            threshold, to_threshold = m.output("threshold", (rows,), compute_dtype(w.dtype))
        else:
            to_threshold = m.input("threshold", threshold)
        needed = gpu.weight_mask_workspace(rows, cols, code, w.element_size()) if gamma is not None else 16
        _, to_workspace = m.output("workspace", (needed,), torch.uint8)
        getattr(gpu, f"weight_mask_{str(w.dtype).removeprefix('torch.')}")(
            to_w, rows, cols, code, None if gamma is None else m.input("gamma", gamma),
            m.input("alpha", alpha), m.input("seed", SEED), to_threshold, to_given, to_out, to_workspace,
        )  # fmt: skip
        return out, threshold, m.traffic()


def equals_reference(
    w: Tensor, gamma: float, granularity: str, alpha: Tensor = HALF, offset: int = 0
) -> None:
    share = torch.tensor(gamma, dtype=torch.float64)
    masked, threshold, _ = on_gpu(w, share, alpha, granularity, offset=offset)
    expected, known = reference.weight_mask(w, share, alpha, SEED, granularity)
    if w.numel():
        assert torch.equal(threshold, known)
    torch.testing.assert_close(masked, expected, rtol=0, atol=0, equal_nan=True)
    grad = torch.randn(w.shape).to(w.dtype)
    found = on_gpu(w, None, alpha, granularity, known, grad, offset)[0]
    assert torch.equal(found, reference.weight_mask_grad(grad, w, known, alpha, SEED, granularity))


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bits_of_the_reference(shape: tuple[int, int], granularity: str, offset: int) -> None:
    gpu.configure(SCHEDULES[len(granularity) % len(SCHEDULES)])
    for dtype in DTYPES:
        for gamma in (0.0, 0.29, 0.6, 1.0):
            equals_reference(weights(*shape, dtype=dtype), gamma, granularity, offset=offset)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_long_rows(dtype: torch.dtype, offset: int) -> None:
    """One digit after the other, over several spans; of float64 rows are long sooner."""
    for cols in (LONG, LONG - 3):
        for gamma in (0.3, 1.0):
            equals_reference(weights(2, cols, dtype=dtype), gamma, "weight", offset=offset)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("rows", [300, 2000, 9000, LONG])
def test_many_units(rows: int, dtype: torch.dtype) -> None:
    """Norms that fill the registers of a warp, of blocks, or are selected from digit by digit."""
    w, share = weights(rows, 16, dtype=dtype), torch.tensor(0.4, dtype=torch.float64)
    found = on_gpu(w, share, HALF, "unit")
    expected = reference.weight_mask(w, share, HALF, SEED, "unit")
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=False))


@pytest.mark.parametrize("cols", [517, 40000])
@pytest.mark.parametrize("name", hard_rows())
def test_selection_is_exact(name: str, cols: int) -> None:
    """Ties, denormals, infinities and NaN; thresholds at the ends and in between, in every dtype."""
    for dtype in DTYPES:
        row = hard_rows()[name].repeat(-(-cols // 517))[:cols].to(dtype)
        rising = row.abs().nan_to_num(torch.inf, torch.inf).sort().values
        for k in (0, 1, 23, cols // 2, cols - 2, cols - 1, cols)[:: 1 if cols < 1000 else 3]:
            share = torch.tensor(k / cols, dtype=torch.float64)
            found = on_gpu(row[None], share, HALF, "weight")[1]
            assert found.item() == (rising[k].item() if k < cols else torch.inf), k


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
def test_what_is_not_finite_stays(value: float, granularity: str) -> None:
    w = weights(5, 21)
    w[2, 3] = value
    equals_reference(w, 1.0, granularity)


@pytest.mark.parametrize("granularity", GRANULARITIES[1:])
def test_norms_beyond_the_range_of_squares(granularity: str) -> None:
    for gamma in (0.25, 0.5, 0.75):
        equals_reference(far_norms(), gamma, granularity)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_ends_and_beyond_of_shares(granularity: str) -> None:
    """No word is below 0, every word is below 2^32; shares are clamped, and counted as people do."""
    for alpha in (-1.0, 0.0, 2.0**-33, 1.0, 7.0):
        for gamma in (-1.0, 0.5, 1.5):
            equals_reference(weights(9, 33), gamma, granularity, torch.tensor(alpha, dtype=torch.float64))
    for hundredths in (29, 53, 57, 58):
        gamma = float(torch.tensor(hundredths / 100, dtype=torch.float32))
        equals_reference(weights(2, 100), gamma, granularity)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0)], ids=str)
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_empty(granularity: str, shape: tuple[int, int]) -> None:
    equals_reference(torch.empty(shape), 0.5, granularity)


@pytest.mark.parametrize("cols", [50, 700, 3000, LONG])
def test_schedules_change_nothing(cols: int) -> None:
    w, found = weights(3, cols), []
    for seed in SCHEDULES:
        gpu.configure(seed)
        found.append(on_gpu(w, HALF, HALF, "weight")[:2])
    assert all(torch.equal(a, b) for other in found for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("shape", [(64, 128), (33, 50), (9, 1000), (2, 3000), (2, 20000)], ids=str)
def test_weights_are_moved_once(shape: tuple[int, int]) -> None:
    """In registers: read once, written once. Gradients read weights only where some may go."""
    w, (rows, _) = weights(*shape), shape
    _, threshold, moved = on_gpu(w, HALF, HALF, "weight")
    assert moved["w"] == (w.nbytes, 0) and moved["out"] == (0, w.nbytes)
    assert moved["threshold"] == (0, 4 * rows)
    warps = max(1, min(32, 1 << max(0, (shape[1] - 1).bit_length() - 10)))
    assert moved["workspace"][0] <= 16 * rows * warps * (4 if warps > 1 else 1)
    threshold[: rows // 2] = 0
    moved = on_gpu(w, None, HALF, "weight", threshold, torch.randn(shape))[2]
    assert moved["w"] == (w.nbytes - rows // 2 * 4 * shape[1], 0)
    assert moved["grad"] == (w.nbytes, 0) and moved["out"] == (0, w.nbytes)


@pytest.mark.parametrize("granularity", GRANULARITIES[1:])
def test_units_are_read_twice(granularity: str) -> None:
    """Once for norms, once to be masked."""
    w = weights(30, 300)
    moved = on_gpu(w, HALF, HALF, granularity)[2]
    assert moved["w"] == (2 * w.nbytes, 0) and moved["out"] == (0, w.nbytes)
    assert moved["threshold"] == (0, 4 * 30)


@pytest.mark.parametrize(
    "dtype, digits", [(torch.float32, 4), (torch.float64, 8), (torch.bfloat16, 2), (torch.float16, 2)]
)
def test_long_rows_are_read_once_a_digit(dtype: torch.dtype, digits: int) -> None:
    """And once more to be masked; counts are written and read, 256 for 16384 weights."""
    w = weights(2, LONG, dtype=dtype)
    moved = on_gpu(w, HALF, HALF, "weight")[2]
    assert moved["w"] == ((digits + 1) * w.nbytes, 0) and moved["out"] == (0, w.nbytes)
    assert moved["workspace"][1] <= digits * (2 * 3 * 1024 + 2 * 16) + 16
