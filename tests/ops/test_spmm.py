"""spmm: against the dense product in float64, over any pattern of nonzeros; what it refuses."""

from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.cases import LAYOUTS, lay_out
from tests.tolerance import assert_close
from vdropkern import functional as F
from vdropkern.ops.spmm import _backward_op, _op
from vdropkern.ops.spmm.csr import check_csr, csr_to_dense, dense_to_csr

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# batch, I, O
SHAPES = [(5, 37, 11), (1, 1, 1), (1, 64, 33), (130, 65, 17), (0, 4, 3), (3, 0, 4), (3, 4, 0), (0, 0, 0)]


def weight(out: int, inp: int, sparsity: float, dtype: torch.dtype = torch.float32) -> Tensor:
    w = torch.randn(out, inp, dtype=torch.float64) * (torch.rand(out, inp) >= sparsity)
    return w.to(dtype)


def check_against_dense(x: Tensor, w: Tensor, bias: Tensor | None, grad: Tensor) -> None:
    """Value and every gradient against the dense product in float64."""
    values, cols, rows = dense_to_csr(w)
    check_csr(values, cols, rows, w.shape[1])
    leaves = [x.detach().requires_grad_(), values.requires_grad_()]
    leaves += [] if bias is None else [bias.detach().requires_grad_()]
    y = F.spmm(leaves[0], values, cols, rows, leaves[2] if bias is not None else None)
    dx, dvalues, *dbias = torch.autograd.grad(y, leaves, grad)

    xd, wd, gd = x.detach().double(), w.double(), grad.double()
    b = torch.zeros(w.shape[0], dtype=torch.float64) if bias is None else bias.detach().double()
    x2, g2 = xd.reshape(-1, w.shape[1]) if w.shape[1] else xd.new_zeros(gd.shape[:-1].numel(), 0), None
    g2 = gd.reshape(x2.shape[0], w.shape[0])
    nonzero = w.nonzero(as_tuple=True)
    assert y.dtype == x.dtype and y.is_contiguous()
    magnitude = x2.abs() @ wd.abs().T + b.abs()
    assert_close(y, (x2 @ wd.T + b).view_as(y), magnitude.view_as(y), w.shape[1] + 1, "y")
    assert_close(dx, (g2 @ wd).view_as(dx), (g2.abs() @ wd.abs()).view_as(dx), w.shape[0], "dx")
    full, size = g2.T @ x2, g2.abs().T @ x2.abs()
    assert_close(dvalues, full[nonzero], size[nonzero], len(x2), "dvalues")
    for d in dbias:
        assert_close(d, g2.sum(0), g2.abs().sum(0), len(x2), "dbias")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_dense_product(shape: tuple[int, int, int], dtype: torch.dtype, bias: bool, backend: str) -> None:
    batch, inp, out = shape
    for sparsity in (0.0, 0.6, 0.95, 1.0):
        b = torch.randn(out).to(dtype) if bias else None
        grad = torch.randn(batch, out).to(dtype)
        check_against_dense(torch.randn(batch, inp).to(dtype), weight(out, inp, sparsity, dtype), b, grad)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("which", ["x", "grad"])
def test_layouts(layout: str, which: str, backend: str) -> None:
    x, grad = torch.randn(9, 13), torch.randn(9, 7)
    if which == "x":
        x = lay_out(x, layout)
    else:
        grad = lay_out(grad, layout)
    check_against_dense(x, weight(7, 13, 0.7), torch.randn(7), grad)


@pytest.mark.parametrize("lead", [(), (0,), (2, 3), (1, 1, 4)], ids=str)
def test_leading_dimensions(lead: tuple[int, ...], backend: str) -> None:
    check_against_dense(torch.randn(*lead, 13), weight(7, 13, 0.7), torch.randn(7), torch.randn(*lead, 7))


@st.composite
def patterns(draw: st.DrawFn) -> Tensor:
    """A mask [O, I] with rows that may be empty, full, a single nonzero or random."""
    inp, out = draw(st.integers(1, 40)), draw(st.integers(1, 20))
    rows = []
    for _ in range(out):
        kind = draw(st.sampled_from(["empty", "full", "one", "random"]))
        row = torch.zeros(inp, dtype=torch.bool)
        if kind == "full":
            row[:] = True
        elif kind == "one":
            row[draw(st.integers(0, inp - 1))] = True
        elif kind == "random":
            row[draw(st.lists(st.integers(0, inp - 1), max_size=inp, unique=True))] = True
        rows.append(row)
    return torch.stack(rows)


@given(mask=patterns(), batch=st.integers(0, 9), wide=st.booleans())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_pattern(mask: Tensor, batch: int, wide: bool) -> None:
    generator = torch.Generator().manual_seed(batch)
    w = (torch.randn(mask.shape, generator=generator) + 3) * mask
    values, cols, rows = dense_to_csr(w)
    assert values.numel() == int(mask.sum())
    if wide:
        cols, rows = cols.long(), rows.long()
    assert torch.equal(csr_to_dense(values, cols, rows, mask.shape[1]), w)
    x = torch.randn(batch, mask.shape[1], generator=generator)
    y = F.spmm(x, values, cols, rows, check_invariants=True)
    assert_close(y, x.double() @ w.T.double(), x.abs().double() @ w.abs().T.double(), mask.shape[1])
    grad = torch.randn(batch, mask.shape[0], generator=generator)
    check_against_dense(x, w, None, grad)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    "shape",
    [(3, 900, 700), (70, 900, 700), (300, 65, 130), (40, 33, 1000)],
    ids=lambda s: "x".join(map(str, s)),
)
def test_threads_change_nothing(shape: tuple[int, int, int], backend: str) -> None:
    """Tiles of the batch, or the rows, are shared out; a large matrix is also turned over in parts."""
    if backend == "reference":
        pytest.skip("ATen's own affair")
    batch, inp, out = shape
    w, bias, grad = weight(out, inp, 0.05), torch.randn(out), torch.randn(batch, out)
    values, cols, rows = dense_to_csr(w)
    x, found = torch.randn(batch, inp), []
    for count in (1, 3):
        torch.set_num_threads(count)
        leaves = [t.detach().requires_grad_() for t in (x, values, bias)]
        y = F.spmm(leaves[0], leaves[1], cols, rows, leaves[2])
        found.append([y.detach(), *torch.autograd.grad(y, leaves, grad)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    check_against_dense(x, w, bias, grad)


def test_columns_in_any_order(backend: str) -> None:
    """`check_csr` asks for rising columns within a row; a product needs none of that."""
    values, cols, rows = dense_to_csr(weight(9, 40, 0.4))
    order = torch.cat([rows[i] + torch.randperm(int(rows[i + 1] - rows[i])) for i in range(9)])
    x, grad = torch.randn(20, 40), torch.randn(20, 9)
    found = []
    for v, c in ((values, cols), (values[order], cols[order])):
        leaves = [x.detach().requires_grad_(), v.detach().requires_grad_()]
        y = F.spmm(*leaves, c, rows)
        dx, dvalues = torch.autograd.grad(y, leaves, grad)
        found.append((y.detach(), dx, dvalues))
    torch.testing.assert_close(found[1][0], found[0][0])
    torch.testing.assert_close(found[1][1], found[0][1])
    torch.testing.assert_close(found[1][2], found[0][2][order])


def test_nan_in_what_is_not_stored_stays_out() -> None:
    values, cols, rows = dense_to_csr(torch.tensor([[1.0, 0.0]]))
    assert F.spmm(torch.tensor([[2.0, torch.nan]]), values, cols, rows).item() == 2.0


@pytest.mark.parametrize(
    "dtype, index", [(torch.float32, torch.int32), (torch.bfloat16, torch.int64)], ids=["fp32", "bf16"]
)
def test_opcheck(dtype: torch.dtype, index: torch.dtype) -> None:
    values, cols, rows = dense_to_csr(weight(7, 13, 0.7, dtype))
    cols, rows = cols.to(index), rows.to(index)
    for x in (torch.randn(5, 13, dtype=dtype), torch.randn(2, 13, 3, dtype=dtype).mT):
        torch.library.opcheck(_op.native, (x, values, cols, rows, torch.randn(7, dtype=dtype)))
        grad = torch.randn(*x.shape[:-1], 7, dtype=dtype)
        for needs in ((True, True, True), (False, False, False)):
            torch.library.opcheck(_backward_op.native, (grad, x, values, cols, rows, *needs))


def test_gradcheck() -> None:
    values, cols, rows = dense_to_csr(weight(3, 5, 0.5, torch.float64))
    inputs = (torch.randn(4, 5, dtype=torch.float64), values, torch.randn(3, dtype=torch.float64))
    for t in inputs:
        t.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, v, b: F.spmm(x, v, cols, rows, b), inputs)


def test_gradients_of_gradients_are_refused() -> None:
    values, cols, rows = dense_to_csr(weight(3, 5, 0.5))
    x = torch.randn(4, 5, requires_grad=True)
    (dx,) = torch.autograd.grad(F.spmm(x, values, cols, rows).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="spmm: gradients of gradients are not implemented"):
        dx.sum().backward()


def test_grad_transform() -> None:
    values, cols, rows = dense_to_csr(weight(3, 5, 0.5))
    x = torch.randn(4, 5)
    dx = torch.func.grad(lambda x: F.spmm(x, values, cols, rows).square().sum())(x)
    leaf = x.clone().requires_grad_()
    F.spmm(leaf, values, cols, rows).square().sum().backward()
    assert torch.equal(dx, leaf.grad)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # by torch's compiler
def test_compiles_to_one_graph_for_any_batch() -> None:
    torch._dynamo.reset()
    values, cols, rows = dense_to_csr(weight(7, 13, 0.7))
    values.requires_grad_()
    compiled = torch.compile(F.spmm, backend="aot_eager", fullgraph=True, dynamic=True)
    for batch in (3, 8, 21):
        x = torch.randn(batch, 13, requires_grad=True)
        results = []
        for run in (F.spmm, compiled):
            y = run(x, values, cols, rows)
            results.append((y, *torch.autograd.grad(y.square().sum(), (x, values))))
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b)


def test_autocast() -> None:
    values, cols, rows = dense_to_csr(weight(7, 13, 0.7))
    x = torch.randn(4, 13)
    with torch.autocast("cpu", torch.bfloat16):
        y = F.spmm(x, values, cols, rows)
    assert y.dtype == torch.bfloat16
    # x is rounded, values are not
    assert torch.equal(y, F.spmm(x.bfloat16(), values, cols, rows))


def test_emits_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "vdropkern runs on its slow reference")
        w = weight(30, 40, 0.9)
        y = F.spmm(torch.randn(4, 40, requires_grad=True), *dense_to_csr(w))
        y.sum().backward()


GOOD = dense_to_csr(torch.tensor([[0.0, 1.0, 2.0], [0.0, 0.0, 0.0], [3.0, 0.0, 4.0]]))


def changed(**parts: Tensor) -> dict[str, Tensor]:
    return {**dict(zip(("values", "col_indices", "row_offsets"), GOOD, strict=True)), **parts}


def ints(*numbers: int) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int32)


@pytest.mark.parametrize(
    "parts, words",
    [
        ({"col_indices": ints(1, 2, 0, 3)}, r"col_indices must lie in \[0, 3\), got 0 to 3"),
        ({"col_indices": ints(-1, 2, 0, 2)}, r"col_indices must lie in \[0, 3\), got -1 to 2"),
        ({"col_indices": ints(2, 1, 0, 2)}, "col_indices must increase within each row"),
        ({"col_indices": ints(1, 1, 0, 2)}, "col_indices must increase within each row"),
        ({"row_offsets": ints(1, 2, 2, 4)}, "row_offsets must run from 0 to nnz = 4, got 1 to 4"),
        ({"row_offsets": ints(0, 2, 2, 3)}, "row_offsets must run from 0 to nnz = 4, got 0 to 3"),
        ({"row_offsets": ints(0, 3, 2, 4)}, "row_offsets must not decrease"),
        # differences that wrap around to something that does not decrease
        ({"row_offsets": ints(0, 2**31 - 1, -(2**31), 4)}, "row_offsets must not decrease"),
        ({"row_offsets": GOOD[2].long()}, "col_indices and row_offsets must both be int32 or both int64"),
        ({"col_indices": GOOD[1].short(), "row_offsets": GOOD[2].short()}, "int16"),
        ({"col_indices": ints(1, 2, 0)}, r"values and col_indices must be \[nnz\], got \(4,\) and \(3,\)"),
        ({"row_offsets": GOOD[2][:0]}, r"row_offsets must be \[O \+ 1\], got \(0,\)"),
        ({"values": GOOD[0].long()}, "values int64|values torch.int64"),
        ({"bias": torch.zeros(2)}, r"bias must be \[O\] = \(3,\), got \(2,\)"),
    ],
)
def test_bad_input_is_named(parts: dict[str, Tensor], words: str) -> None:
    with pytest.raises(ValueError, match=f"spmm: .*(?:{words})"):
        F.spmm(torch.randn(2, 3), **changed(**parts), check_invariants=True)


@pytest.mark.parametrize("x", [torch.tensor(1.0), torch.ones(2, 3, dtype=torch.int64)], ids=["0-d", "int"])
def test_bad_x_is_named(x: Tensor) -> None:
    with pytest.raises(ValueError, match="spmm: x must be"):
        F.spmm(x, *GOOD)
