"""Noise on weights in Triton, by the tests of tests/ops, and one pass over memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from vdropkern import use_backend
from vdropkern.ops.weight_noise import triton as kernels

from ..cases import LAYOUTS, SEED, lay_out
from ..ops.test_weight_noise import SHAPES, alphas, check, make
from .interpreter import Launch


@pytest.fixture(autouse=True)
def _backend() -> Iterator[None]:
    with use_backend("triton"):
        yield


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients(shape: tuple[int, ...]) -> None:
    check(*make(shape, None, "fp32"))


@pytest.mark.parametrize("dtypes", ["bf16", "fp16", "bf16+fp32"])
@pytest.mark.parametrize("alpha", [None, (5, 1), (1, 37), (5, 37)], ids=str)
def test_half_types(alpha: tuple[int, ...] | None, dtypes: str) -> None:
    check(*make((5, 37), alpha, dtypes))


@pytest.mark.parametrize(
    "shape, alpha",
    [(shape, a) for shape in ((5, 37), (9, 64), (6, 4, 3, 3), (9,), (0, 4)) for a in alphas(shape)],
    ids=str,
)
def test_shared_log_alpha(shape: tuple[int, ...], alpha: tuple[int, ...]) -> None:
    check(*make(shape, alpha, "fp32"))


@pytest.mark.parametrize("layout", LAYOUTS[1:])
@pytest.mark.parametrize("alpha", [None, (9, 1)], ids=str)
def test_layouts(alpha: tuple[int, ...] | None, layout: str) -> None:
    tensors, grad = make((9, 30), alpha, "fp32")
    check({k: lay_out(t, layout) for k, t in tensors.items()}, lay_out(grad, layout))


@pytest.mark.parametrize("shape", [(64, 128), (33, 50)], ids=str)
def test_traffic_is_the_minimum(shape: tuple[int, int], launches: list[Launch]) -> None:
    mu, log_sigma2 = torch.randn(shape), torch.randn(shape)
    kernels.weight_noise(mu, log_sigma2, None, torch.tensor(SEED))
    kernels.weight_noise_grad(mu, None, log_sigma2, None, torch.tensor(SEED))
    for launch in launches:
        assert launch.loaded == 8 * mu.numel() + 8 * launch.programs  # the seed, once a program
        assert launch.stored == 4 * mu.numel()
    assert len(launches) == 2


def test_double_is_refused() -> None:
    with pytest.raises(TypeError, match="weight_noise: the Triton kernels compute in float32"):
        kernels.weight_noise(torch.randn(3, 2).double(), torch.zeros(3, 2), None, torch.tensor(1))
