"""The interpreter's own tests: each thing it models, and each mistake it must not forgive."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from . import interpreter
from .interpreter import Launch, tf32


@triton.jit
def _arithmetic(x, y, N: tl.constexpr):
    i = tl.arange(0, N)
    v = tl.load(x + i)
    tl.store(y + i, tl.where(v > 0, v * v + v, v * 0.75 - v).to(y.dtype.element_ty))


@triton.jit
def _product(a, b, c, N: tl.constexpr, PRECISION: tl.constexpr):
    i = tl.arange(0, N)
    at = i[:, None] * N + i[None, :]
    zero = tl.zeros((N, N), tl.float32)
    tl.store(c + at, tl.dot(tl.load(a + at), tl.load(b + at), zero, input_precision=PRECISION))


@triton.jit
def _copy(x, y, n, B: tl.constexpr, SHIFT: tl.constexpr, MASK: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    inside = i < n if MASK else i >= 0
    tl.store(y + i + SHIFT, tl.load(x + i, inside), inside)


@triton.jit
def _same_place(x, y, B: tl.constexpr, EACH: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(y + (i * 0 if EACH else i), tl.load(x + i))


@triton.jit
def _in_place(x, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    tl.store(x + i, tl.load(x + i + 1))


@triton.jit
def _atomic(x, y, B: tl.constexpr):
    tl.atomic_add(y, tl.sum(tl.load(x + tl.arange(0, B)), 0))


@triton.jit
def _assembly(x, y, TEXT: tl.constexpr, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(y + i, tl.inline_asm_elementwise(TEXT, "=r,r", [tl.load(x + i)], tl.float32, True, 1))


def test_bfloat16_arithmetic() -> None:
    """Every operation rounds once, to nearest even, as torch's bfloat16 does."""
    x = torch.randn(256, dtype=torch.bfloat16)
    for dtype in (torch.bfloat16, torch.float32, torch.float16):
        y = torch.empty(256, dtype=dtype)
        _arithmetic[(1,)](x, y, N=256)
        assert torch.equal(y, torch.where(x > 0, x * x + x, x * 0.75 - x).to(dtype))


def test_bfloat16_keeps_what_is_no_number() -> None:
    x = torch.tensor([torch.nan, torch.inf, -torch.inf, 3.4e38] * 4, dtype=torch.bfloat16)
    y = torch.empty_like(x)
    _arithmetic[(1,)](x, y, N=16)
    torch.testing.assert_close(y, torch.where(x > 0, x * x + x, x * 0.75 - x), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_products(dtype: torch.dtype) -> None:
    a, b, c = torch.randn(32, 32, dtype=dtype), torch.randn(32, 32, dtype=dtype), torch.empty(32, 32)
    _product[(1,)](a, b, c, N=32, PRECISION="ieee")
    torch.testing.assert_close(c.double(), a.double() @ b.double(), rtol=0, atol=2e-5)


def test_tf32_rounds_and_truncates() -> None:
    one, step = np.float32(1), np.float32(2**-10)
    values = np.array([one + step * f for f in (0.25, 0.5, 0.75, 1.0)] + [-(one + step / 2)], np.float32)
    nearest = np.array([one, one + step, one + step, one + step, -(one + step)], np.float32)
    cut = np.array([one, one, one, one + step, -one], np.float32)
    assert (tf32(values, truncate=False) == nearest).all()
    assert (tf32(values, truncate=True) == cut).all()
    odd = np.array([np.inf, -np.inf, np.nan], np.float32)
    np.testing.assert_array_equal(tf32(odd, truncate=False), odd)


@pytest.mark.parametrize(
    "precision, truncate, low, high",
    [("ieee", False, 0, 5e-7), ("tf32x3", False, 0, 6e-7), ("tf32x3", True, 0, 4e-6),
     ("tf32", False, 5e-5, 5e-4), ("tf32", True, 2e-4, 2e-3)],
)  # fmt: skip
def test_products_of_each_precision(
    precision: str, truncate: bool, low: float, high: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors of positive terms, relative: cutting shrinks a sum, rounding does not."""
    monkeypatch.setattr(interpreter, "truncate_tf32", truncate)
    a, b, c = torch.rand(64, 64) + 0.5, torch.rand(64, 64) + 0.5, torch.empty(64, 64)
    _product[(1,)](a, b, c, N=64, PRECISION=precision)
    exact = a.double() @ b.double()
    error = (c.double() / exact - 1).abs().max().item()
    assert low <= error <= high
    if precision == "tf32":
        bias = (c.double() / exact - 1).mean().item()
        assert (bias < -3e-4) == truncate


def test_bounds() -> None:
    x, y = torch.randn(100), torch.empty(100)
    _copy[(2,)](x, y, 100, B=64, SHIFT=0, MASK=True)
    assert torch.equal(x, y)
    with pytest.raises(Exception, match="load of 28 lanes outside every argument, program 1"):
        _copy[(2,)](x, y, 100, B=64, SHIFT=0, MASK=False)
    with pytest.raises(Exception, match="store of 1 lanes outside every argument"):
        _copy[(2,)](x, y, 100, B=64, SHIFT=1, MASK=True)


def test_views_are_bounded_by_themselves() -> None:
    """Not by the storage they lie in."""
    memory = torch.randn(200)
    with pytest.raises(Exception, match="outside every argument"):
        _copy[(2,)](memory[:100], torch.empty(128), 128, B=64, SHIFT=0, MASK=True)


def test_races() -> None:
    x, y = torch.randn(65), torch.empty(64)
    with pytest.raises(Exception, match="program 1 writes what another one touched"):
        _same_place[(2,)](x, y, B=64, EACH=False)
    with pytest.raises(Exception, match="lanes of one store in program 0 share an address"):
        _same_place[(1,)](x, y, B=64, EACH=True)
    with pytest.raises(Exception, match="program 1 writes what another one touched"):
        _in_place[(2,)](x, B=32)
    with pytest.raises(Exception, match="atomics add in no fixed order"):
        _atomic[(1,)](x, y, B=64)


def test_inline_assembly_needs_a_model() -> None:
    x, y = torch.randn(16), torch.empty(16)
    _assembly[(1,)](x, y, TEXT="mov.b32 $0, $1;", B=16)
    assert torch.equal(x, y)
    with pytest.raises(Exception, match="no model of inline assembly"):
        _assembly[(1,)](x, y, TEXT="brev.b32 $0, $1;", B=16)


def test_traffic(launches: list[Launch], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "wave", 1)
    x, y = torch.randn(100), torch.empty(100)
    _copy[(2,)](x, y, 100, B=64, SHIFT=0, MASK=True)
    (launch,) = launches
    assert (launch.kernel, launch.programs) == ("_copy", 2)
    assert (launch.loaded, launch.unique, launch.waves, launch.stored) == (400,) * 4
    a, c = torch.randn(32, 32), torch.empty(32, 32)
    launches.clear()
    _product[(1,)](a, a, c, N=32, PRECISION="ieee")
    (launch,) = launches
    assert (launch.loaded, launch.unique, launch.flops) == (2 * 4096, 4096, 2 * 32**3)


def test_triton_versions() -> None:
    """A newer Triton may have mended or moved what is replaced here: look before adding it."""
    assert ".".join(triton.__version__.split(".")[:2]) in interpreter.SUPPORTED
