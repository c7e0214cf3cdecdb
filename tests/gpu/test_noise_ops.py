"""Noise on weights, learned multiplicative noise and gates on a GPU: values, gradients, the CPU's noise."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ops import test_mul_noise_learned as learned
from tests.ops import test_multi_sample_head as heads
from tests.ops.test_gate import OPTIONS
from tests.ops.test_gate import SHAPES as GATE_SHAPES
from tests.ops.test_gate import inputs as gate_inputs
from tests.ops.test_weight_mask import weights
from tests.ops.test_weight_noise import SHAPES as WEIGHT_SHAPES
from tests.ops.test_weight_noise import alphas, make
from tests.tolerance import assert_close
from vdropkern import functional, use_backend
from vdropkern._backend import BackendUnavailableError

Call = Callable[..., Tensor]
SEED = 0x1234_5678_9ABC_DEF1


def results(call: Call, tensors: dict[str, Tensor], dy: Tensor) -> dict[str, Tensor]:
    leaves = {k: t.detach().requires_grad_() for k, t in tensors.items()}
    y = call(**leaves)
    return {
        "y": y.detach(),
        **dict(zip(leaves, torch.autograd.grad(y, list(leaves.values()), dy), strict=True)),
    }


def check(call: Call, tensors: dict[str, Tensor], dy: Tensor, device: torch.device) -> None:
    """Against the reference on the CPU in float64; gradients that are sums, relative to those of |dy|."""
    there = {k: t.to(device) for k, t in tensors.items()}
    try:
        found = results(call, there, dy.to(device))
    except BackendUnavailableError as err:
        pytest.skip(str(err))  # only Triton has these kernels
    with use_backend("reference"):
        exact = {k: t.double() for k, t in tensors.items()}
        expected = results(call, exact, dy.double())
        sizes = results(
            call, {k: t.abs() if k in ("x", "z", "mu") else t for k, t in exact.items()}, dy.double()
        )
    for name, value in expected.items():
        assert found[name].device.type == device.type
        length = max(dy.numel() // max(value.numel(), 1), 1)
        spread = 8 * (1 + value.abs() + sizes[name].abs()) * length**0.5  # |e| < 7
        assert_close(found[name].cpu(), value, spread, length, name)


@pytest.mark.parametrize("granularity", functional.GRANULARITIES)
@pytest.mark.parametrize("shape", [(5, 37), (64, 1000), (3, 9001), (2, 40000)], ids=str)
def test_weight_mask(shape: tuple[int, int], granularity: str, device: torch.device, kernels: str) -> None:
    """The reference's bits: the same thresholds and words decide."""
    for dtype in (torch.float32, torch.bfloat16):
        call = functools.partial(
            functional.weight_mask, gamma=0.6, alpha=0.5, granularity=granularity, seed=SEED
        )
        w, dy = weights(*shape, dtype=dtype), torch.randn(shape).to(dtype)
        try:
            found = results(call, {"w": w.to(device)}, dy.to(device))
        except BackendUnavailableError as err:
            pytest.skip(str(err))
        with use_backend("reference"):
            expected = results(call, {"w": w}, dy)
        assert all(torch.equal(found[name].cpu(), t) for name, t in expected.items())


@pytest.mark.parametrize("shape", WEIGHT_SHAPES, ids=str)
def test_weight_noise(shape: tuple[int, ...], device: torch.device, kernels: str) -> None:
    for alpha in (None, *alphas(shape)):
        tensors, grad = make(shape, alpha, "fp32")
        tensors = {k: t.clamp(max=0) if k.startswith("log") else t for k, t in tensors.items()}
        check(lambda **t: functional.weight_noise(**t, seed=SEED), tensors, grad, device)


@pytest.mark.parametrize("pattern", [*learned.PATTERNS, *learned.LARGE], ids=str)
def test_mul_out_noise(pattern: Any, device: torch.device, kernels: str) -> None:
    tensors = learned.made(*pattern)
    dy = tensors.pop("dy")
    check(lambda **t: functional.mul_out_noise(**t, seed=SEED), tensors, dy, device)


@pytest.mark.parametrize("shape", GATE_SHAPES)
@pytest.mark.parametrize("kind", OPTIONS)
def test_gate(kind: str, shape: str, device: torch.device, kernels: str) -> None:
    tensors, dim = gate_inputs(kind, shape, "fp32"), GATE_SHAPES[shape][1]
    if kind == "log-normal":  # where neither sigma nor its gradient is large
        tensors["log_sigma2"] = tensors["log_sigma2"].clamp(-8, 0)
    call = functools.partial(functional.gate, kind=kind, channel_dim=dim, seed=SEED)
    for per_sample in (True, False):
        dy = torch.randn(tensors["x"].shape)
        check(functools.partial(call, per_sample=per_sample), tensors, dy, device)


@pytest.mark.parametrize("options", heads.OPTIONS)
@pytest.mark.parametrize("shape", heads.SHAPES, ids=str)
def test_multi_sample_head(shape: tuple[int, ...], options: str, device: torch.device, kernels: str) -> None:
    *sizes, samples = shape
    given = heads.classes_of(heads.OPTIONS[options], sizes[2], torch.float32)
    try:
        heads.check(heads.made(*sizes, dtype=torch.float32), samples, given, device)
    except BackendUnavailableError as err:
        pytest.skip(str(err))


def test_same_bits_again(device: torch.device, kernels: str) -> None:
    """Sums do not depend on the order in which programs run."""
    tensors = {k: t.to(device) for k, t in learned.made((300, 900), (900,), (900,)).items()}
    dy = tensors.pop("dy")

    def call(**t: Tensor) -> Tensor:
        return functional.mul_out_noise(**t, seed=SEED)

    try:
        first, second = (results(call, tensors, dy) for _ in range(2))
    except BackendUnavailableError as err:
        pytest.skip(str(err))
    assert all(torch.equal(first[name], second[name]) for name in first)
