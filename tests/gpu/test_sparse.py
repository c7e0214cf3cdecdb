"""Sparse products and convolutions on a GPU: against the dense ones in float64, forward and backward."""

from __future__ import annotations

import pytest
import torch

from tests.sparse_cases import CONVS, PATTERNS, sparse_conv, weight
from tests.tolerance import assert_close
from vdropkern import functional as F
from vdropkern.ops.spmm.csr import by_length, dense_to_csr
from vdropkern.sparse import SparseLinear

# batch, I, O: blocks by the thousand, rows of more nonzeros than a stage holds
SHAPES = [(1, 37, 11), (8, 4096, 300), (33, 130, 40), (1000, 1024, 777), (0, 4, 3), (3, 0, 4), (20, 4, 0)]


@pytest.fixture(autouse=True)
def _cuda_alone(kernels: str) -> None:
    if kernels == "triton":
        pytest.skip("there are no Triton kernels of sparse products")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_spmm(shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> None:
    batch, inp, out = shape
    for seed, pattern in enumerate(PATTERNS):
        w = weight(out, inp, pattern, seed).to(dtype)
        values, cols, rows = (t.to(device) for t in dense_to_csr(w))
        bias, grad = torch.randn(out), torch.randn(batch, out).to(dtype)
        x = torch.randn(batch, inp).to(dtype)
        leaves = [t.to(device).requires_grad_() for t in (x, values.cpu(), bias)]
        y = F.spmm(leaves[0], leaves[1], cols, rows, leaves[2])
        dx, dvalues, dbias = torch.autograd.grad(y, leaves, grad.to(device))
        xd, wd, gd, at = x.double(), w.double(), grad.double(), w.nonzero(as_tuple=True)
        assert_close(y.cpu(), xd @ wd.T + bias, xd.abs() @ wd.abs().T + bias.abs(), inp + 1, "y")
        assert_close(dx.cpu(), gd @ wd, gd.abs() @ wd.abs(), out, "dx")
        assert_close(dvalues.cpu(), (gd.T @ xd)[at], (gd.abs().T @ xd.abs())[at], batch, "dvalues")
        assert_close(dbias.cpu(), gd.sum(0), gd.abs().sum(0), batch, "dbias")
        again = torch.autograd.grad(F.spmm(*leaves[:2], cols, rows, leaves[2]), leaves, grad.to(device))
        assert all(torch.equal(a, b) for a, b in zip((dx, dvalues, dbias), again, strict=True))


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.int8], ids=str)
@pytest.mark.parametrize("batch", [1, 8, 65])
def test_linear_layer(batch: int, stored: torch.dtype, device: torch.device) -> None:
    w = weight(300, 200, "ragged")
    sparse = SparseLinear.from_dense(w, torch.randn(300), activation="relu").store_as(stored)
    x = torch.randn(batch, 200)
    w, bias = sparse.weight_dense().detach().float(), sparse.bias.detach()
    expected = torch.nn.functional.linear(x, w, bias).relu()
    moved = sparse.to(device)
    with torch.no_grad():
        y = moved(x.to(device))
    assert device.type == "cpu" or moved._order is not None
    torch.testing.assert_close(y.cpu(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CONVS)
def test_convolution(name: str, dtype: torch.dtype, device: torch.device) -> None:
    for density, batch in ((0.3, 1), (1.0, 40)):
        sparse = sparse_conv(name, density)
        x = torch.randn(batch, CONVS[name][0], *CONVS[name][-1]).to(dtype)
        w, b = sparse.weight_dense().detach().double(), sparse.bias.detach().double()
        arguments = (sparse.stride, sparse.padding, sparse.dilation, sparse.groups)
        expected = torch.nn.functional.conv2d(x.double(), w, b, *arguments)
        magnitude = torch.nn.functional.conv2d(x.double().abs(), w.abs(), b.abs(), *arguments)
        moved = sparse.to(device)
        with torch.no_grad():
            y = moved(x.to(device))
        assert device.type == "cpu" or moved._order is not None
        assert_close(y.cpu(), expected, magnitude, sparse.matrix_shape[1] + 1, "y")


def test_graph(only_on_gpu: None, device: torch.device) -> None:
    """Captured and replayed: nothing waits for the device."""
    sparse = SparseLinear.from_dense(weight(70, 130, "random"), torch.randn(70)).to(device)
    x = torch.randn(33, 130, device=device)
    order = by_length(sparse.row_offsets)
    with torch.no_grad():
        expected = sparse(x)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = sparse(x)
        graph.replay()
    assert torch.equal(y, expected) and torch.equal(order, sparse.ordered()[1])
