"""philox_bits and philox_normal in CUDA, emulated: integers to the bit, floats to a few ulp."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.emulator import SCHEDULES, emulated, memory
from tests.ops.test_philox_normal import EXTREME_WORDS, MAX_ABSOLUTE_F64, MAX_ULP, ulp
from vdropkern.ops.philox_bits.reference import philox_bits
from vdropkern.ops.philox_normal.reference import philox_normal

gpu = emulated()
SHAPES = (
    (1, 1),
    (1, 4),
    (3, 5),
    (7, 8),
    (16, 33),
    (5, 1031),
    (1031, 3),
    (2, 4096),
    (1, 2050),
    (0, 3),
    (3, 0),
)
SEEDS = (0, -1, 2**62, -(2**63))
NORMALS = {
    torch.float32: gpu.philox_normal_float32,
    torch.float64: gpu.philox_normal_float64,
    torch.float16: gpu.philox_normal_float16,
    torch.bfloat16: gpu.philox_normal_bfloat16,
}


def run(kernel: object, seed: int, rows: int, cols: int, dtype: torch.dtype, offset: int = 0) -> Tensor:
    """The tensor a kernel fills; every element must have been written once and no other touched."""
    with memory(gpu) as m:
        out, to_out = m.output("out", (rows, cols), dtype, offset)
        kernel(to_out, rows, cols, m.input("seed", torch.tensor(seed)))  # type: ignore[operator]
        traffic = m.traffic()
    assert traffic["out"] == (0, out.numel() * out.element_size())
    assert traffic["seed"] == (8 if out.numel() else 0, 0)
    return out


@pytest.mark.parametrize("rows, cols", SHAPES)
def test_bits_equal_the_reference(rows: int, cols: int) -> None:
    for seed in SEEDS:
        for schedule in SCHEDULES:
            gpu.configure(schedule)
            bits = run(gpu.philox_bits, seed, rows, cols, torch.int64, offset=schedule % 2)
            assert torch.equal(bits, philox_bits(torch.tensor(seed), rows, cols))


@pytest.mark.parametrize("offset", [0, 1, 3])
@pytest.mark.parametrize("dtype", NORMALS, ids=str)
@pytest.mark.parametrize("rows, cols", SHAPES)
def test_normals(rows: int, cols: int, dtype: torch.dtype, offset: int) -> None:
    gpu.configure(offset)
    z = run(NORMALS[dtype], 7, rows, cols, dtype, offset)
    expected = philox_normal(torch.tensor(7), rows, cols, torch.float64)
    if dtype == torch.float64:
        assert torch.all((z - expected).abs() <= MAX_ABSOLUTE_F64)
    elif dtype == torch.float32:
        assert torch.all((z - expected).abs() <= MAX_ULP * ulp(expected))
    else:
        single = run(NORMALS[torch.float32], 7, rows, cols, torch.float32)
        assert torch.equal(z, single.to(dtype)), "computed in float, rounded once"


@pytest.mark.parametrize("seed, index, word", EXTREME_WORDS, ids=lambda v: f"{v:x}" if v > 3 else str(v))
def test_extreme_words(seed: int, index: int, word: int) -> None:
    bits = run(gpu.philox_bits, seed, 1, 4, torch.int64)
    assert bits[0, index] == word
    expected = philox_normal(torch.tensor(seed), 1, 4, torch.float64)
    z = run(gpu.philox_normal_float32, seed, 1, 4, torch.float32)
    # the reference rounds the angle to float64, which near a zero of the cosine is coarser than a float32
    assert torch.all((z - expected).abs() <= MAX_ULP * ulp(expected) + MAX_ABSOLUTE_F64)
    assert torch.all(run(gpu.philox_normal_float64, seed, 1, 4, torch.float64) != 0)
