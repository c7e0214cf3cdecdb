"""sign_ste: levels, gates and slopes of every estimator, against formulas written here once more."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from tests.cases import LAYOUTS, lay_out
from tests.tolerance import assert_close
from vdropkern import functional as F
from vdropkern import use_backend
from vdropkern.ops.philox_bits.reference import philox_bits
from vdropkern.ops.sign_ste import BOXES, ESTIMATORS, SMOOTH

pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
SEED = 0x1234_5678_9ABC_DEF1
SHAPES = [(5, 37), (1,), (), (3, 0), (2, 3, 4, 5), (7, 130), (64,), (9, 4099)]
DTYPES = {"fp32": torch.float32, "fp64": torch.float64, "bf16": torch.bfloat16, "fp16": torch.float16}
EDGES = (0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 0.25, 0.75, 1e-45, -1e-45, 200.0, -1e4, float("inf"), -float("inf"))


def made(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Normals, and every edge of every estimator where there is room."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float64)
    flat = x.reshape(-1)
    flat[: len(EDGES)] = torch.tensor(EDGES, dtype=torch.float64)[: flat.numel()]
    return x.to(dtype)


def expected_value(x: Tensor, estimator: str) -> Tensor:
    wide = x.double()
    if estimator == "stochastic":
        rows, cols = (x.shape[:-1].numel(), x.shape[-1]) if x.ndim else (1, 1)
        u = (philox_bits(torch.tensor(SEED), rows, cols) // 2**8).double().reshape(x.shape) / 2**24
        # the probability is rounded to the arithmetic's precision
        p = ((x.float() if x.dtype != torch.float64 else x) + 1).div(2).clamp(0, 1).double()
        return 1.0 - 2.0 * (u >= p).double()
    if levels := ESTIMATORS[estimator]:
        return torch.floor(wide.clamp(0, 1) * levels + 0.5) / levels
    return 1.0 - 2.0 * (wide < 0).double()


def expected_slope(x: Tensor, estimator: str) -> Tensor:
    z = x.double()
    if estimator == "identity":
        return torch.ones_like(z)
    if estimator == "polynomial":
        return torch.where(z.abs() < 1, 2 - 2 * z.abs(), 0.0)
    if estimator == "swish":
        u = (5 * z).clamp(-600, 600)
        return 5 * (2 - u * torch.tanh(u / 2)) / (1 + torch.cosh(u))
    if ESTIMATORS[estimator]:
        return ((z >= 0) & (z <= 1)).double()
    k = 2.0 if estimator == "steep" else 1.0
    return k * (z.abs() * k <= 1).double()


def both(x: Tensor, grad: Tensor, estimator: str) -> tuple[Tensor, Tensor]:
    leaf = x.detach().requires_grad_()
    y = F.sign_ste(leaf, estimator, seed=SEED if estimator == "stochastic" else None)
    (dx,) = torch.autograd.grad(y, leaf, grad)
    return y.detach(), dx


def check(x: Tensor, grad: Tensor, estimator: str) -> None:
    y, dx = both(x, grad, estimator)
    assert y.dtype == dx.dtype == x.dtype
    assert_close(y, expected_value(x, estimator), None, 1, f"{estimator} y")
    g = grad.double()
    assert_close(dx, g * expected_slope(x, estimator), 5 * g.abs(), 1, f"{estimator} dx")


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_values_and_gradients(dtype: str, estimator: str, backend: str) -> None:
    for shape in SHAPES:
        x = made(shape, DTYPES[dtype])
        check(x, torch.linspace(-1, 2, x.numel()).reshape(shape).to(x.dtype), estimator)


@pytest.mark.parametrize("layout", [*LAYOUTS[1:], "channels_last"])
@pytest.mark.parametrize("estimator", ["hard-tanh", "two-bit", "stochastic", "swish"])
def test_layouts(estimator: str, layout: str, backend: str) -> None:
    """Inputs and gradients of any strides; results in x's memory format."""
    for shape in ((5, 37), (2, 3, 4, 5), (3, 9, 6, 7)):
        x = lay_out(made(shape, torch.float32), layout)
        grad = torch.linspace(-1, 2, x.numel()).reshape(shape)
        check(x, grad, estimator)
        check(x.contiguous(), lay_out(grad, layout), estimator)
        if layout == "channels_last" and x.ndim == 4:
            y, dx = both(x, grad, estimator)
            assert y.stride() == dx.stride() == x.stride()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_backends_agree_to_the_bit(estimator: str, backend: str) -> None:
    x = made((67, 515), torch.float32)
    grad = torch.randn(x.shape)
    y, dx = both(x, grad, estimator)
    with use_backend("reference"):
        expected_y, expected_dx = both(x, grad, estimator)
    assert torch.equal(y, expected_y)
    if estimator != "swish":
        assert torch.equal(dx, expected_dx)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_nan_is_not_swallowed(estimator: str, backend: str) -> None:
    x = torch.tensor([0.5, torch.nan, -2.0])
    assert F.sign_ste(x, estimator).isnan().tolist() == [False, True, False]


def test_stochastic_signs_are_unbiased(backend: str) -> None:
    x = torch.linspace(-1.2, 1.2, 7).repeat(20_000, 1)
    mean = F.sign_ste(x, "stochastic", seed=3).double().mean(0)
    sd = (1 - x[0].double().clamp(-1, 1) ** 2).sqrt() / 20_000**0.5
    assert ((mean - x[0].double().clamp(-1, 1)).abs() <= 5 * sd + 1e-12).all()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_saves_as_little_as_it_needs(estimator: str, backend: str) -> None:
    x = torch.randn(10, 100, requires_grad=True)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = F.sign_ste(x, estimator)
    if estimator == "identity":
        assert saved == []
    elif estimator in SMOOTH:
        assert [t.data_ptr() for t in saved] == [x.data_ptr()]
    else:
        assert [(t.dtype, t.numel()) for t in saved] == [(torch.int64, 16)]
    assert y.requires_grad
    assert not F.sign_ste(x.detach(), estimator).requires_grad


@pytest.mark.parametrize("estimator", ["identity", "clipped", "swish"])
def test_func_grad_compile_and_second_gradients(estimator: str, backend: str) -> None:
    x = torch.randn(7, 9, requires_grad=True)
    call = functools.partial(F.sign_ste, estimator=estimator)
    (expected,) = torch.autograd.grad(call(x).mul(2).sum(), x)
    assert torch.equal(torch.func.grad(lambda t: call(t).mul(2).sum())(x.detach()), expected)
    torch._dynamo.reset()
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    assert torch.equal(torch.autograd.grad(compiled(x).mul(2).sum(), x)[0], expected)
    if estimator != "identity":
        (g,) = torch.autograd.grad(call(x).pow(2).sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="gradients of gradients are not implemented"):
            g.sum().backward()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_opcheck(estimator: str) -> None:
    for x in (torch.randn(3, 5), torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)):
        seed = torch.tensor(SEED)
        ops = torch.ops.vdropkern
        for needs_gate in (True, False):
            torch.library.opcheck(ops.sign_ste.default, (x, seed, estimator, 2.0, needs_gate))
        y, gate = ops.sign_ste(x, seed, estimator, 2.0, True)
        if estimator == "identity":
            continue
        saved = (None, gate) if estimator in BOXES else (x, None)
        arguments = (y, *saved, estimator, 2.0, not y.is_contiguous())
        torch.library.opcheck(ops.sign_ste_backward.default, arguments)


def test_meta(backend: str) -> None:
    y = F.sign_ste(torch.empty(3, 5, device="meta", dtype=torch.bfloat16), "ternary")
    assert (y.shape, y.dtype, y.is_meta) == ((3, 5), torch.bfloat16, True)


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"estimator": "tanh"}, "unknown estimator 'tanh'; accepted: identity, hard-tanh"),
        ({"strength": 2.0}, "strength is for steep and swish, got it with 'hard-tanh'"),
        ({"estimator": "steep", "strength": 0.0}, "strength must be a finite number > 0, got 0.0"),
        ({"estimator": "swish", "strength": float("nan")}, "got nan"),
        ({"x": torch.ones(2, dtype=torch.int64)}, "x must be floating, got torch.int64"),
        ({"estimator": "stochastic", "seed": 2**64}, "seed must fit in 64 signed bits"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        F.sign_ste(**{"x": torch.ones(2), **arguments})  # type: ignore[arg-type]
