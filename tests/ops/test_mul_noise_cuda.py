"""mul_noise in CUDA, on the emulated GPU, against the reference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.emulator import SCHEDULES, emulated, memory, misaligned
from tests.tolerance import tolerance
from vdropkern.ops.mul_noise import NOISES
from vdropkern.ops.mul_noise.reference import mul_noise as reference
from vdropkern.ops.mul_noise.reference import rows_and_cols

gpu = emulated()
SEED = torch.tensor(-11)
SHAPES = ((), (1,), (7,), (4, 8), (3, 5), (2, 3, 7), (65, 33), (1, 2050), (300, 3), (0, 4), (3, 0))
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def on_gpu(x: Tensor, noise: str, strength: float, offset: int = 0) -> Tensor:
    """The kernel's result; x must have been read once and y written once."""
    kernel = getattr(gpu, f"mul_noise_{str(x.dtype).removeprefix('torch.')}")
    with memory(gpu) as m:
        y, to_y = m.output("y", tuple(x.shape), x.dtype, offset)
        to_x = m.input("x", misaligned(x, offset))
        kernel(to_x, to_y, *rows_and_cols(x), NOISES.index(noise), strength, m.input("seed", SEED))
        bytes_ = x.numel() * x.element_size()
        assert m.traffic() == {"y": (0, bytes_), "x": (bytes_, 0), "seed": (8 if bytes_ else 0, 0)}
    return y


@pytest.mark.parametrize("offset", [0, 1, 3])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cuda_kernel(shape: tuple[int, ...], noise: str, dtype: torch.dtype, offset: int) -> None:
    gpu.configure(SCHEDULES[offset % len(SCHEDULES)])
    x = torch.randn(shape, dtype=torch.float64).to(dtype)
    y = on_gpu(x, noise, 0.3, offset)
    exact = reference(x.double(), SEED, noise, 0.3)
    unit = torch.finfo(dtype).eps / 2
    computed = tolerance(torch.float64 if dtype == torch.float64 else torch.float32, 1)
    allowed = computed * (x.double().abs() + exact.abs()) + (unit * exact.abs() if unit > 1e-6 else 0)
    assert torch.all((y.double() - exact).abs() <= allowed)
    if noise == "bernoulli":
        assert torch.equal(y == 0, exact == 0)
