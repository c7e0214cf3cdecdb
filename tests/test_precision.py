"""Which arithmetic the GPU kernels are asked for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import vdropkern
from vdropkern._precision import MEANS, VARIANCES, resolve

F, H, B = torch.float32, torch.float16, torch.bfloat16


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    before = torch.backends.cuda.matmul.fp32_precision
    yield
    torch.backends.cuda.matmul.fp32_precision = before
    vdropkern.set_precision("torch", "auto")


@pytest.mark.parametrize("switch, expected", [("ieee", "ieee"), ("tf32", "tf32")])
def test_mean_follows_torch(switch: str, expected: str) -> None:
    torch.backends.cuda.matmul.fp32_precision = switch
    assert resolve(F) == (expected, expected)
    assert resolve(B) == resolve(H) == ("native", "bf16")


def test_torch_has_not_said() -> None:
    torch.backends.cuda.matmul.fp32_precision = "none"
    assert resolve(F) == ("ieee", "ieee")


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("variance", VARIANCES)
def test_choices(mean: str, variance: str) -> None:
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    with vdropkern.use_precision(mean=mean, variance=variance):
        assert vdropkern.get_precision() == (mean, variance)
        own = "tf32" if mean == "torch" else mean
        assert resolve(F) == (own, own if variance == "auto" else variance)
        assert resolve(H) == ("native", "bf16" if variance == "auto" else variance)
    assert vdropkern.get_precision() == ("torch", "auto")


def test_one_choice_leaves_the_other() -> None:
    vdropkern.set_precision(variance="bf16")
    vdropkern.set_precision(mean="ieee")
    assert vdropkern.get_precision() == ("ieee", "bf16")


@pytest.mark.parametrize(
    "given, message", [({"mean": "bf16"}, "mean 'bf16'"), ({"variance": "fp8"}, "variance 'fp8'")]
)
def test_unknown_names(given: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=f"unknown {message}; accepted: "):
        vdropkern.set_precision(**given)
    assert vdropkern.get_precision() == ("torch", "auto")
