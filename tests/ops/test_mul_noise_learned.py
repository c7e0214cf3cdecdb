"""mul_noise with a learned log_alpha, and mul_out_noise: values and gradients against the formula."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from vdropkern import functional

SEED = 0x1234_5678_9ABC_DEF1

# shapes of x, log_alpha and bias
PATTERNS: list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...] | None]] = [
    ((4, 5), (5,), (5,)),
    ((4, 5), (), None),
    ((4, 5), (1,), (5,)),
    ((4, 5), (5,), (1,)),
    ((4, 5), (4, 1), None),
    ((4, 5), (4, 5), None),
    ((2, 3, 4, 5), (3, 1, 1), (3, 1, 1)),
    ((2, 3, 4, 5), (3, 1, 5), None),
    ((2, 3, 4, 5), (3, 4, 5), None),
    ((2, 3, 4, 5), (1,), (3, 1, 1)),
    ((2, 3, 4, 5), (2, 1, 1, 1), (3, 1, 1)),
]


@pytest.mark.parametrize("shape, alpha_shape, bias_shape", PATTERNS, ids=str)
def test_gradcheck(
    shape: tuple[int, ...], alpha_shape: tuple[int, ...], bias_shape: tuple[int, ...] | None
) -> None:
    x, log_alpha = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in (shape, alpha_shape))
    if bias_shape is None:
        call = functools.partial(functional.mul_noise, seed=SEED)
        assert torch.autograd.gradcheck(lambda x, la: call(x, log_alpha=la), (x, log_alpha))
        return
    bias = torch.randn(bias_shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        functools.partial(functional.mul_out_noise, seed=SEED), (x, log_alpha, bias)
    )


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({}, "mul_noise: give exactly one of strength and log_alpha"),
        ({"strength": 0.1, "log_alpha": torch.zeros(1)}, "give exactly one of strength and log_alpha"),
        (
            {"log_alpha": torch.zeros(1), "noise": "bernoulli"},
            "with log_alpha the noise is gaussian, got 'bernoulli'",
        ),
        ({"log_alpha": torch.zeros(3)}, r"log_alpha must broadcast to the shape \(4, 2\), got \(3,\)"),
        ({"log_alpha": torch.zeros(1, 1, 2)}, r"log_alpha must broadcast to the shape \(4, 2\)"),
        ({"log_alpha": torch.zeros(2, dtype=torch.int64)}, "log_alpha must be floating, got torch.int64"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        functional.mul_noise(**{"x": torch.ones(4, 2), **arguments})


def test_bad_bias_is_named() -> None:
    with pytest.raises(ValueError, match=r"mul_out_noise: bias must broadcast to the shape \(4, 2\)"):
        functional.mul_out_noise(torch.ones(4, 2), torch.zeros(()), torch.zeros(4))
    with pytest.raises(ValueError, match=r"z must be floating, got torch\.int64"):
        functional.mul_out_noise(torch.ones(4, 2, dtype=torch.int64), torch.zeros(()))
