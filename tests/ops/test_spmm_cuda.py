"""Sparse products in CUDA, on the emulated GPU: against the dense product in float64, over any pattern."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.emulator import emulated, memory, misaligned
from tests.sparse_cases import PATTERNS, weight
from tests.tolerance import assert_close
from vdropkern.ops.spmm.csr import by_length, dense_to_csr

gpu = emulated()
# x and y, weights
TYPES = [(torch.float32, torch.float32), (torch.bfloat16, torch.float32), (torch.bfloat16, torch.bfloat16)]
# batch, I, O: up to 8 rows of x take another kernel, of 8 or 32 lanes a row of the weight; of the one for
# more, 8, 16 or 32 lanes take the batch
SHAPES = [
    (1, 1, 1), (1, 37, 11), (1, 300, 3), (8, 65, 17), (3, 300, 3), (9, 13, 7), (33, 130, 20), (70, 40, 17),
    (130, 65, 9), (300, 40, 3), (0, 4, 3), (3, 0, 4), (20, 0, 4), (3, 4, 0), (0, 0, 0),
]  # fmt: skip


def name(types: tuple[torch.dtype, torch.dtype]) -> str:
    return "_".join(str(t).removeprefix("torch.") for t in types)


def spmm(
    x: Tensor, w: Tensor, bias: Tensor | None = None, relu: bool = False, ordered: bool = True
) -> Tensor:
    """The kernels' y; x in its type, weights in theirs."""
    values, cols, rows = dense_to_csr(w)
    (batch, inp), out = x.shape, w.shape[0]
    types = name((x.dtype, w.dtype))
    with memory(gpu) as m:
        y, to_y = m.output("y", (batch, out), x.dtype)
        space = getattr(gpu, f"spmm_workspace_{types}")(batch, out, inp) // x.element_size()
        to_space = m.output("workspace", (space,), x.dtype)[1] if space else None
        getattr(gpu, f"spmm_{types}")(
            batch, out, inp, values.numel(), m.input("values", misaligned(values, 0)),
            m.input("cols", misaligned(cols, 0)), m.input("rows", rows),
            m.input("order", by_length(rows)) if ordered else None, m.input("x", misaligned(x, 1)),
            m.input("bias", bias), relu, to_space, to_y,
        )  # fmt: skip
    return y


def check(x: Tensor, w: Tensor, bias: Tensor | None, relu: bool, ordered: bool) -> None:
    y = spmm(x, w, bias, relu, ordered)
    xd, wd = x.double(), w.double()
    b = torch.zeros(len(w), dtype=torch.float64) if bias is None else bias.double()
    expected = xd @ wd.T + b
    expected = expected.relu() if relu else expected
    assert_close(y, expected, xd.abs() @ wd.abs().T + b.abs(), w.shape[1] + 1, "y")


@pytest.mark.parametrize("types", TYPES, ids=name)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_dense_product(shape: tuple[int, int, int], types: tuple[torch.dtype, torch.dtype]) -> None:
    batch, inp, out = shape
    for seed, pattern in enumerate(PATTERNS):
        gpu.configure(seed)
        x, w = torch.randn(batch, inp).to(types[0]), weight(out, inp, pattern, seed).to(types[1])
        bias = torch.randn(out) if seed % 2 else None
        check(x, w, bias, relu=seed % 3 == 1, ordered=seed % 2 == 0)


def spmm_backward(dy: Tensor, x: Tensor, w: Tensor, needs: tuple[bool, ...] = (True,) * 3) -> list[Tensor]:
    """The kernels' gradients of x, values and bias, or None."""
    values, cols, rows = dense_to_csr(w)
    (batch, inp), out = x.shape, w.shape[0]
    types, nnz = name((x.dtype, w.dtype)), values.numel()
    with memory(gpu) as m:
        shapes = ((batch, inp), (nnz,), (out,))
        dtypes = (x.dtype, torch.float32, torch.float32)
        made = [
            m.output(f"d{i}", shape, dtype) if need else (None, None)
            for i, (shape, dtype, need) in enumerate(zip(shapes, dtypes, needs, strict=True))
        ]
        space = getattr(gpu, f"spmm_backward_workspace_{types}")(batch, out, inp, nnz, list(needs)) // 4
        to_space = m.output("workspace", (space,), torch.float32)[1] if space else None
        getattr(gpu, f"spmm_backward_{types}")(
            batch, out, inp, nnz, m.input("values", misaligned(values, 0)),
            m.input("cols", misaligned(cols, 0)), m.input("rows", rows), m.input("x", misaligned(x, 1)),
            m.input("dy", misaligned(dy, 1)), to_space, *(to for _, to in made),
        )  # fmt: skip
    return [d for d, _ in made]


@pytest.mark.parametrize("types", TYPES, ids=name)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients(shape: tuple[int, int, int], types: tuple[torch.dtype, torch.dtype]) -> None:
    batch, inp, out = shape
    for seed, pattern in enumerate(PATTERNS):
        gpu.configure(seed)
        x, dy = torch.randn(batch, inp).to(types[0]), torch.randn(batch, out).to(types[0])
        w = weight(out, inp, pattern, seed).to(types[1])
        dx, dvalues, dbias = spmm_backward(dy, x, w)
        xd, wd, dyd, at = x.double(), w.double(), dy.double(), w.nonzero(as_tuple=True)
        assert_close(dx, dyd @ wd, dyd.abs() @ wd.abs(), out, "dx")
        assert_close(dvalues, (dyd.T @ xd)[at], (dyd.abs().T @ xd.abs())[at], batch, "dvalues")
        assert_close(dbias, dyd.sum(0), dyd.abs().sum(0), batch, "dbias")


def test_gradients_that_are_asked_for() -> None:
    """Each alone, and equal to those of all three to the bit."""
    for batch in (3, 40):
        x, dy, w = torch.randn(batch, 70), torch.randn(batch, 33), weight(33, 70, "random")
        whole = spmm_backward(dy, x, w)
        for which in range(3):
            found = spmm_backward(dy, x, w, tuple(i == which for i in range(3)))
            assert torch.equal(found[which], whole[which])
            assert [d is None for d in found] == [i != which for i in range(3)]


@pytest.mark.parametrize("batch", [1, 5, 40])
def test_what_is_not_stored_is_not_multiplied(batch: int) -> None:
    """NaN in inputs that no nonzero reads, and infinite weights of the rows before and after."""
    w = torch.zeros(3, 6)
    w[0, 0], w[1, 1:3], w[2, 5] = torch.inf, torch.tensor([2.0, 3.0]), torch.inf
    x = torch.full((batch, 6), torch.nan)
    x[:, 1:3] = 1
    y = spmm(x, w)
    assert y[:, 1].eq(5).all() and y[:, [0, 2]].isnan().all()
    assert spmm(x, w, relu=True)[:, 0].isnan().all()  # as torch.relu has it


@pytest.mark.parametrize("batch", [3, 70])
def test_neither_order_nor_schedule_changes_a_bit(batch: int) -> None:
    x, dy, w = torch.randn(batch, 70), torch.randn(batch, 33), weight(33, 70, "ragged")
    found = []
    for seed in (0, 1):
        gpu.configure(seed)
        found.append([spmm(x, w, ordered=bool(seed)), *spmm_backward(dy, x, w)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_bytes() -> None:
    """What a product asks for: each nonzero once a tile of the batch, with the inputs that it meets."""
    batch, inp, out = 64, 70, 33  # half a warp takes the batch
    x, w = torch.randn(batch, inp), weight(out, inp, "random")
    _, _, rows = dense_to_csr(w)
    y = spmm(x, w)
    by_kernel = {r["kernel"].partition("<")[0]: r for r in gpu.records()}
    product, turns = by_kernel["spmm_product"], by_kernel["spmm_turn"]
    nnz, begin, end = int(rows[-1]), rows[:-1].long(), rows[1:].long()
    aligned = begin // 4 * 4  # where vectors of four begin, as long as they begin before the row's end
    fetched = ((end + 3) // 4 * 4).clamp(max=nnz) - aligned
    quads = (end - aligned + 3) // 4
    fetched, quads = fetched[begin < end].sum(), quads[begin < end].sum()
    uniform = 3 * 4 * 16 * out  # order and two offsets, by every lane
    assert product["loaded"] == 8 * fetched + 4 * quads * batch * 4 + uniform
    assert product["stored"] == out * batch * 4
    assert turns["loaded"] == (inp + out) * batch * 4
    assert turns["stored"] == ((inp + 1) * batch + y.numel()) * 4


def test_too_large_is_said() -> None:
    for sizes in ((1, 1, 2**31, 1), (1, 2**31, 1, 1), (1, 1, 1, 2**31), (2**29, 1, 1, 1)):
        with pytest.raises(RuntimeError, match=r"spmm: more than 2\^31 - 2\^10 nonzeros"):
            gpu.spmm_float32_float32(*sizes, None, None, None, None, None, None, False, None, None)
