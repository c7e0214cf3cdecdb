"""Learned multiplicative noise in Triton, by the tests of tests/ops, and what it asks of memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from vdropkern import use_backend
from vdropkern.ops.mul_noise import triton_learned as kernels
from vdropkern.ops.philox_normal.reference import philox_normal

from ..cases import lay_out
from ..ops.test_mul_noise_learned import LARGE, PATTERNS, check, made, results
from .interpreter import Launch

SEED = torch.tensor(5)
# interpreted programs take seconds: for the largest pattern, one whose spans still end in a second tile
SIZES: list[Any] = [
    *(p for p in LARGE if math.prod(p[0]) < 100_000),
    ((2, 3, 65, 33), (1,), (3, 1, 1)),
]


@pytest.fixture(autouse=True)
def _backend() -> Iterator[None]:
    with use_backend("triton"):
        yield


@pytest.mark.parametrize("pattern", [*PATTERNS, *SIZES], ids=str)
def test_values_and_gradients(pattern: Any) -> None:
    check(made(*pattern))


@pytest.mark.parametrize("dtypes", ["fp16", "bf16"])
@pytest.mark.parametrize("pattern", [PATTERNS[2], PATTERNS[6], LARGE[0]], ids=str)
def test_half_types(pattern: Any, dtypes: str) -> None:
    check(made(*pattern, dtypes=dtypes))


@pytest.mark.parametrize("layout", ["transposed", "strided", "expanded"])
@pytest.mark.parametrize("pattern", [PATTERNS[0], PATTERNS[6]], ids=str)
def test_strided(pattern: Any, layout: str) -> None:
    check({name: lay_out(t, layout) for name, t in made(*pattern).items()})


def test_channels_last_is_kept() -> None:
    tensors = made(*PATTERNS[6])
    plain = results(tensors)
    tensors["z"] = tensors["z"].contiguous(memory_format=torch.channels_last)
    found = results(tensors)
    assert all(torch.equal(found[name], plain[name]) for name in plain)
    for name in ("y", "d_z"):
        assert found[name].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("log_alpha", [-60.0, 30.0])
def test_extreme_strengths_are_finite(log_alpha: float) -> None:
    tensors = made((6, 9), (9,), (9,)) | {"log_alpha": torch.full((9,), log_alpha)}
    assert all(torch.isfinite(t).all() for t in results(tensors).values())


def test_nan_is_not_swallowed() -> None:
    tensors = made((6, 9), (9,), (9,))
    tensors["log_alpha"][3] = torch.nan
    found = results(tensors)
    assert found["y"][:, 3].isnan().all() and found["y"].isnan().sum() == 6
    assert found["d_log_alpha"].isnan().tolist() == [i == 3 for i in range(9)]


def test_noise_beyond_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows counted in 64-bit words give what those in 32-bit words do."""
    tensors = made(*LARGE[5])
    expected = results(tensors)
    launch = kernels.Spans.launch

    def wide(self: kernels.Spans) -> Any:
        sizes, constants, blocks, parts = launch(self)
        assert constants["PADDED"] == 32
        return sizes, {**constants, "PADDED": 64}, blocks, parts

    monkeypatch.setattr(kernels.Spans, "launch", wide)
    assert all(torch.equal(t, expected[name]) for name, t in results(tensors).items())


@pytest.mark.parametrize(
    "shape, parameter",
    [((64, 512), (512,)), ((64, 250), (250,)), ((9, 4, 8, 32), (4, 1, 1)), ((3, 5, 30, 33), (5, 1, 1))],
    ids=str,
)
def test_traffic(shape: tuple[int, ...], parameter: tuple[int, ...], launches: list[Launch]) -> None:
    """x, dy and the result once; a parameter, and a sum for it, once a program that has it."""
    x, dy = torch.randn(shape), torch.randn(shape)
    log_alpha, bias = torch.randn(parameter), torch.randn(parameter)
    kernels.mul_noise_learned(x, log_alpha, bias, SEED)
    (launch,) = launches
    spans = kernels.Spans.of(x, log_alpha)
    _, constants, blocks, parts = spans.launch()
    once = (parts if spans.each else parts * blocks) * log_alpha.numel() * 4
    tiles = -(-spans.outer // constants["ROWS"])
    seeds = 8 * blocks * spans.channels * tiles
    spare = 8 * launch.programs * kernels.STEPS  # of a last program, whose tiles lie below x
    assert launch.stored == 4 * x.numel()
    assert 0 <= launch.loaded - (4 * x.numel() + 2 * once + seeds) <= spare
    launches.clear()
    kernels.mul_noise_learned_backward(dy, x, log_alpha, bias, SEED)
    first, *sums = launches
    assert first.stored == 4 * x.numel() + 2 * once
    assert 0 <= first.loaded - (8 * x.numel() + 2 * once + seeds) <= spare
    assert [s.loaded for s in sums] == ([] if once == 4 * log_alpha.numel() else [once, once])


def test_parameters_that_do_not_follow_one_another_are_refused() -> None:
    with pytest.raises(ValueError, match="dimensions must follow one another"):
        kernels.mul_noise_learned(torch.ones(2, 3, 4, 5), torch.zeros(3, 1, 5), None, SEED)


def test_same_noise_as_everywhere() -> None:
    x, log_alpha = torch.ones(7, 33), torch.zeros(1)
    noise = kernels.mul_noise_learned(x, log_alpha, None, SEED) - 1
    expected = philox_normal(SEED, 7, 33, torch.float32)
    assert ((noise - expected).abs() <= 16 * 2.0**-24 * (1 + expected.abs())).all()


def test_double_is_refused() -> None:
    with pytest.raises(TypeError, match="mul_noise: the Triton kernels compute in float32"):
        kernels.mul_noise_learned(torch.randn(3).double(), torch.zeros(1), None, SEED)
