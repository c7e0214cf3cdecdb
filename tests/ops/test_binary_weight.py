"""binary_weight: values, and both gradients against autograd and the papers' sums."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.cases import LAYOUTS, lay_out
from tests.tolerance import assert_close
from vdropkern import functional as F

pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
SHAPES = [(5, 37), (1, 1), (3, 0), (0, 4), (4, 3, 3, 3), (17, 515)]
DTYPES = {"fp32": torch.float32, "fp64": torch.float64, "bf16": torch.bfloat16, "fp16": torch.float16}


def made(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(sum(shape))
    w, grad = (torch.randn(shape, generator=g, dtype=torch.float64) for _ in range(2))
    w.reshape(-1)[::7] = 0.0  # sign(0) = +1
    return w.to(dtype), grad.to(dtype)


class _HardTanhSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, w: Tensor) -> Tensor:  # type: ignore[no-untyped-def,override]
        ctx.save_for_backward(w)
        return torch.where(w < 0, -1.0, 1.0).double()

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # type: ignore[no-untyped-def,override]
        (w,) = ctx.saved_tensors
        return grad * (w.abs() <= 1)


def truth(w: Tensor, grad: Tensor, gradient: str) -> tuple[Tensor, Tensor]:
    """(W~, dw) in float64: the corrected gradient by autograd through alpha sign(w)."""
    rows = w.detach().double().flatten(1).requires_grad_()
    g, n = grad.double().reshape(rows.shape), max(rows.shape[1], 1)
    # |w| = w sign(w), whose derivative at 0 is then sign(0) = +1 and not autograd's 0
    magnitude = rows * torch.where(rows < 0, -1.0, 1.0)
    alpha = magnitude.sum(1, keepdim=True) / n
    binary = alpha * _HardTanhSign.apply(rows)
    if gradient == "corrected":
        (dw,) = torch.autograd.grad(binary, rows, g)
    else:
        dw = g * (1 / n + alpha.detach() * (rows.detach().abs() <= 1))
    return binary.detach().reshape(w.shape), dw.reshape(w.shape)


def check(w: Tensor, grad: Tensor, gradient: str) -> None:
    leaf = w.detach().requires_grad_()
    binary, alpha = F.binary_weight(leaf, gradient)
    (dw,) = torch.autograd.grad(binary, leaf, grad)
    expected, expected_dw = truth(w, grad, gradient)
    n = w.shape[1:].numel()
    assert binary.dtype == dw.dtype == alpha.dtype == w.dtype
    assert_close(binary, expected, None, n, "W~")
    sizes = grad.double().abs().flatten(1)
    scale = expected.abs().flatten(1)
    size = sizes * (scale + 1 / max(n, 1)) + sizes.sum(1, keepdim=True) / max(n, 1)
    assert_close(dw, expected_dw, size.reshape(w.shape), 2 * n, f"dw, {gradient}")


@pytest.mark.parametrize("gradient", F.GRADIENTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_values_and_gradients(dtype: str, gradient: str, backend: str) -> None:
    for shape in SHAPES:
        check(*made(shape, DTYPES[dtype]), gradient)


@pytest.mark.parametrize("layout", LAYOUTS[1:])
def test_layouts(layout: str, backend: str) -> None:
    for shape in ((5, 37), (4, 3, 3, 3)):
        w, grad = made(shape, torch.float32)
        check(lay_out(w, layout), grad, "corrected")
        check(w, lay_out(grad, layout), "corrected")


def test_alpha_is_the_mean_magnitude_and_gets_no_gradient(backend: str) -> None:
    w = torch.randn(6, 20, dtype=torch.float64, requires_grad=True)
    binary, alpha = F.binary_weight(w)
    torch.testing.assert_close(alpha, w.abs().mean(1).detach(), rtol=1e-14, atol=0)
    assert binary.requires_grad
    assert not alpha.requires_grad


def test_nan_is_not_swallowed(backend: str) -> None:
    w = torch.ones(2, 3)
    w[1, 1] = torch.nan
    binary, alpha = F.binary_weight(w)
    assert alpha.isnan().tolist() == [False, True]
    assert binary.isnan().any(1).tolist() == [False, True]


def test_func_grad_compile_and_second_gradients(backend: str) -> None:
    w = torch.randn(4, 9, requires_grad=True)
    (expected,) = torch.autograd.grad(F.binary_weight(w)[0].sin().sum(), w)
    assert torch.equal(torch.func.grad(lambda t: F.binary_weight(t)[0].sin().sum())(w.detach()), expected)
    torch._dynamo.reset()
    compiled = torch.compile(lambda t: F.binary_weight(t)[0], fullgraph=True, backend="aot_eager")
    assert torch.equal(torch.autograd.grad(compiled(w).sin().sum(), w)[0], expected)
    (g,) = torch.autograd.grad(F.binary_weight(w)[0].pow(2).sum(), w, create_graph=True)
    with pytest.raises(RuntimeError, match="gradients of gradients are not implemented"):
        g.sum().backward()


def test_opcheck() -> None:
    w = torch.randn(3, 5)
    torch.library.opcheck(torch.ops.vdropkern.binary_weight.default, (w,))
    for gradient in F.GRADIENTS:
        torch.library.opcheck(torch.ops.vdropkern.binary_weight_backward.default, (w, w.mT.mT, gradient))


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="unknown gradient 'ste'; accepted: corrected, original"):
        F.binary_weight(torch.ones(2, 3), "ste")
    with pytest.raises(ValueError, match="w must"):
        F.binary_weight(torch.ones(2))
