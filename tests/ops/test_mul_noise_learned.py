"""mul_noise with a learned log_alpha, and mul_out_noise: values and gradients against the formula."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

import vdropkern as vdk
from tests.cases import LAYOUTS, lay_out
from tests.tolerance import assert_close
from vdropkern import functional
from vdropkern.ops.mul_noise.reference import rows_and_cols
from vdropkern.ops.philox_normal.reference import philox_normal

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

# rows that end within a group, several tiles of noise, several tasks, channels beyond a vector and a tile
LARGE: list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...] | None]] = [
    ((65, 33), (33,), (33,)),
    ((1, 2050), (2050,), None),
    ((300, 3), (), (3,)),
    ((9000, 4), (4,), (4,)),
    ((2, 20, 14, 14), (20, 1, 1), (20, 1, 1)),
    ((3, 300, 3, 9), (300, 3, 9), None),
    ((5, 17, 40, 33), (1,), (17, 1, 1)),
    ((70, 3, 1, 1), (3, 1, 1), (3, 1, 1)),
    ((3, 0), (1,), (1,)),
    ((0, 4), (4,), (4,)),
]
DTYPES = {
    "fp32": (torch.float32, torch.float32),
    "fp64": (torch.float64, torch.float64),
    "fp16": (torch.float16, torch.float32),
    "bf16": (torch.bfloat16, torch.bfloat16),
    "fp32+fp64": (torch.float32, torch.float64),
}


def made(
    shape: tuple[int, ...],
    alpha_shape: tuple[int, ...],
    bias_shape: tuple[int, ...] | None,
    dtypes: str = "fp32",
) -> dict[str, Tensor]:
    """z, dy, log_alpha and bias."""
    dtype, noise_dtype = DTYPES[dtypes]
    g = torch.Generator().manual_seed(7)
    tensors = {
        "z": torch.randn(shape, generator=g, dtype=torch.float64).to(dtype),
        "dy": torch.randn(shape, generator=g, dtype=torch.float64).to(dtype),
        "log_alpha": (torch.rand(alpha_shape, generator=g, dtype=torch.float64) * 6 - 5).to(noise_dtype),
    }
    if bias_shape is not None:
        tensors["bias"] = torch.randn(bias_shape, generator=g, dtype=torch.float64).to(noise_dtype)
    return tensors


def results(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    leaves = {k: t.detach().requires_grad_() for k, t in tensors.items() if k != "dy"}
    y = functional.mul_out_noise(**leaves, seed=SEED)  # type: ignore[arg-type]
    d = torch.autograd.grad(y, list(leaves.values()), tensors["dy"])
    return {"y": y.detach()} | {f"d_{k}": g for k, g in zip(leaves, d, strict=True)}


def check(tensors: dict[str, Tensor]) -> None:
    """Against the formula in float64, its gradients by autograd."""
    exact = {k: t.detach().double().contiguous() for k, t in tensors.items()}
    z, dy, log_alpha = (exact[k] for k in ("z", "dy", "log_alpha"))
    bias = exact.get("bias", torch.zeros((), dtype=torch.float64))
    leaves = [t.requires_grad_() for k, t in exact.items() if k != "dy"]
    e = philox_normal(torch.tensor(SEED), *rows_and_cols(z), torch.float64).reshape(z.shape)
    y = (z + bias) * (1 + torch.exp(log_alpha / 2) * e)
    d = torch.autograd.grad(y, leaves, dy)
    with torch.no_grad():
        noise = 1 + torch.exp(log_alpha / 2) * e.abs()
        terms = dy.abs() * (z.abs() + bias.abs())
        sizes = {
            "y": (z.abs() + bias.abs()) * noise,
            "d_z": dy.abs() * noise,
            "d_log_alpha": (0.5 * terms * e.abs() * torch.exp(log_alpha / 2)).sum_to_size(log_alpha.shape),
            "d_bias": (dy.abs() * noise).sum_to_size(bias.shape),
        }
    expected = {"y": y.detach()} | {
        f"d_{k}": g for k, g in zip([k for k in exact if k != "dy"], d, strict=True)
    }
    actual = results(tensors)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        length = 1 if name in ("y", "d_z") else max(z.numel() // max(value.numel(), 1), 1)
        assert torch.isfinite(actual[name]).all(), name
        assert_close(actual[name], value, sizes[name], length, name)


@pytest.mark.parametrize("dtypes", DTYPES)
@pytest.mark.parametrize("pattern", [*PATTERNS, *LARGE], ids=str)
def test_values_and_gradients(pattern: Any, dtypes: str, backend: str) -> None:
    check(made(*pattern, dtypes=dtypes))


@pytest.mark.parametrize("which", ["z", "dy", "both"])
@pytest.mark.parametrize("pattern", [p for p in [*PATTERNS, *LARGE] if len(p[0]) == 4], ids=str)
def test_channels_last(pattern: Any, which: str, backend: str) -> None:
    """The result keeps the format, and the noise of an element does not depend on it."""
    tensors = made(*pattern)
    plain = functional.mul_noise(tensors["z"], 0.3, seed=SEED)
    for name in ("z", "dy"):
        if which in (name, "both"):
            tensors[name] = tensors[name].contiguous(memory_format=torch.channels_last)
    check(tensors)
    y = functional.mul_noise(tensors["z"], 0.3, seed=SEED)
    assert y.stride() == results(tensors)["y"].stride()
    if which != "dy":
        assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y, plain)


@pytest.mark.parametrize("layout", LAYOUTS[1:])
@pytest.mark.parametrize("pattern", [PATTERNS[0], PATTERNS[6], LARGE[0]], ids=str)
def test_strided(pattern: Any, layout: str, backend: str) -> None:
    check({name: lay_out(t, layout) for name, t in made(*pattern).items()})


@pytest.mark.parametrize("noise", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "shape", [(), (1,), (7,), (4, 8), (65, 33), (1, 2050), (300, 3), (0, 4), (3, 0)], ids=str
)
def test_fixed_noise(shape: tuple[int, ...], dtype: torch.dtype, noise: str, backend: str) -> None:
    """The kernel of a fixed strength against the reference in float64."""
    x = torch.randn(shape, dtype=torch.float64).to(dtype)
    y = functional.mul_noise(x, 0.3, noise=noise, seed=SEED)
    with vdk.use_backend("reference"):
        exact = functional.mul_noise(x.double(), 0.3, noise=noise, seed=SEED)
    assert y.dtype == dtype
    assert_close(y, exact, x.double().abs() + exact.abs(), 1, noise)
    if noise == "bernoulli":
        assert torch.equal(y == 0, exact == 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_every_half_is_read_and_rounded_rightly(dtype: torch.dtype, backend: str) -> None:
    """All 2^16 values times 1 and times 1 / (1 - p): infinities, NaN, subnormals, ties."""
    x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    assert torch.equal(
        functional.mul_noise(x, 0.0).view(torch.int16)[~x.isnan()], x.view(torch.int16)[~x.isnan()]
    )
    y = functional.mul_noise(x, 0.3, seed=SEED)
    with vdk.use_backend("reference"):
        expected = functional.mul_noise(x, 0.3, seed=SEED)
    torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    "shape, alpha_shape, bias_shape",
    [((9000, 40), (40,), (40,)), ((7, 9, 80, 70), (9, 1, 1), (9, 1, 1)), ((300, 900), (), None)],
    ids=str,
)
@pytest.mark.parametrize("last", [False, True])
def test_threads_change_nothing(
    shape: tuple[int, ...], alpha_shape: tuple[int, ...], bias_shape: Any, last: bool, backend: str
) -> None:
    if backend == "reference":
        pytest.skip("the order of ATen's sums depends on its threads")
    tensors = made(shape, alpha_shape, bias_shape)
    if last and len(shape) == 4:
        tensors["z"] = tensors["z"].contiguous(memory_format=torch.channels_last)
    torch.set_num_threads(1)
    alone = results(tensors)
    for count in (2, 3, 7):
        torch.set_num_threads(count)
        for name, t in results(tensors).items():
            assert torch.equal(t, alone[name]), f"{name}, {count} threads"


@pytest.mark.parametrize("log_alpha", [-60.0, -20.0, 8.0, 30.0])
def test_extreme_strengths_are_finite(log_alpha: float, backend: str) -> None:
    tensors = made((6, 9), (9,), (9,)) | {"log_alpha": torch.full((9,), log_alpha)}
    assert all(torch.isfinite(t).all() for t in results(tensors).values())
    tensors["z"] = torch.zeros(6, 9)
    assert all(torch.isfinite(t).all() for t in results(tensors).values())


def test_nan_is_not_swallowed(backend: str) -> None:
    tensors = made((6, 9), (9,), (9,))
    tensors["log_alpha"][3] = torch.nan
    found = results(tensors)
    assert found["y"][:, 3].isnan().all()
    assert found["y"].isnan().sum() == 6
    assert found["d_log_alpha"].isnan().tolist() == [i == 3 for i in range(9)]


@pytest.mark.parametrize("pattern", [PATTERNS[0], PATTERNS[6], PATTERNS[8]], ids=str)
@pytest.mark.parametrize("last", [False, True])
def test_opcheck(pattern: Any, last: bool) -> None:
    tensors = made(*pattern)
    z, dy = tensors["z"], tensors["dy"]
    if last and z.ndim == 4:
        z = z.contiguous(memory_format=torch.channels_last)
    arguments = (tensors["log_alpha"], tensors.get("bias"), torch.tensor(SEED))
    torch.library.opcheck(torch.ops.vdropkern.mul_noise_learned.default, (z, *arguments))
    torch.library.opcheck(torch.ops.vdropkern.mul_noise_learned_backward.default, (dy, z, *arguments))


def test_gradients_of_gradients_raise() -> None:
    x = torch.randn(3, 4, requires_grad=True)
    y = functional.mul_noise(x, log_alpha=torch.zeros(4, requires_grad=True))
    (d,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="gradients of gradients are not implemented"):
        d.sum().backward()


def test_functorch_gives_the_same() -> None:
    tensors = made((6, 9), (9,), (9,))

    def loss(z: Tensor, log_alpha: Tensor, bias: Tensor) -> Tensor:
        return (functional.mul_out_noise(z, log_alpha, bias, seed=SEED) * tensors["dy"]).sum()

    d = torch.func.grad(loss, argnums=(0, 1, 2))(*(tensors[k] for k in ("z", "log_alpha", "bias")))
    for name, g in zip(("z", "log_alpha", "bias"), d, strict=True):
        assert torch.equal(g, results(tensors)[f"d_{name}"])


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
