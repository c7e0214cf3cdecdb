"""The packed form of sparse weights: what it holds, what kernels compute from it, what is refused."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import vdropkern as vdk
from tests.ops.test_spmm import patterns
from tests.threads import same_on_any_threads, with_threads
from tests.tolerance import assert_close
from vdropkern.ops.spmm import _packed_op, spmm_chain, spmm_packed
from vdropkern.ops.spmm.check import check_pack
from vdropkern.ops.spmm.csr import dense_to_csr
from vdropkern.ops.spmm.pack import (
    STORED,
    UNIT,
    Columns,
    chain,
    linear_columns,
    pack,
    parts,
    unpack,
)

# O, I, density: odd ones, more rows than a slice, more columns than a block
MATRICES = [(11, 37, 0.4), (1, 1, 1.0), (5, 0, 0.5), (131, 300, 0.1), (70, 5000, 0.02), (9, 16, 0.0)]
BATCHES = (1, 2, 7, 8, 9, 16, 33, 100)


def matrix(out: int, inp: int, density: float) -> Tensor:
    return torch.randn(out, inp) * (torch.rand(out, inp) < density)


def packed_as(w: Tensor, bias: Tensor | None, stored: torch.dtype, columns: Columns | None = None) -> Tensor:
    """`w`, whose numbers `stored` can hold, in the packed form."""
    values, cols, rows = dense_to_csr(w)
    scales = torch.full((w.shape[0],), 0.5) if stored == torch.int8 else None
    columns = columns or linear_columns(w.shape[1], (w != 0).double().mean().item() if w.numel() else 0.0)
    values = (values * 2 if scales is not None else values).to(stored)
    return pack(values, cols, rows, columns, bias, scales)


def representable(w: Tensor, stored: torch.dtype) -> Tensor:
    """Numbers near `w` that `stored`, with a scale of a half, holds exactly."""
    return (w * 8).round().clamp(-120, 120) / 2 if stored == torch.int8 else w.to(stored).float()


def check(packed: Tensor, w: Tensor, bias: Tensor, x: Tensor, relu: bool) -> None:
    y = spmm_packed(x, packed, w.shape[0], relu)
    truth = torch.nn.functional.linear(x.double(), w.double(), bias.double())
    magnitude = x.double().abs() @ w.double().abs().T + bias.double().abs()
    assert y.dtype == x.dtype and y.is_contiguous()
    assert_close(y, truth.relu() if relu else truth, magnitude, w.shape[1] + 1)


@pytest.mark.parametrize("stored", STORED, ids=str)
@pytest.mark.parametrize("shape", MATRICES, ids=str)
def test_kernels(shape: tuple[int, int, float], stored: torch.dtype, backend: str) -> None:
    w, bias = representable(matrix(*shape), stored), torch.randn(shape[0])
    packed = packed_as(w, bias, stored)
    check_pack(packed)
    weight, found = unpack(packed)
    assert torch.equal(weight, w) and torch.equal(found, bias)
    for batch in BATCHES:
        check(packed, w, bias, torch.randn(batch, shape[1]), relu=batch % 2 == 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_inputs_and_strides(dtype: torch.dtype, backend: str) -> None:
    w, bias = matrix(11, 37, 0.4), torch.randn(11)
    packed = packed_as(w, bias, torch.float32)
    for x in (
        torch.randn(5, 37),
        torch.randn(37, 5).T,
        torch.randn(5, 74)[:, ::2],
        torch.randn(37).expand(5, 37),
    ):
        check(packed, w, bias, x.to(dtype), relu=False)
    for lead in ((), (0,), (2, 3), (0, 4)):
        assert spmm_packed(torch.randn(*lead, 37), packed, 11, False).shape == (*lead, 11)


@given(mask=patterns(), batch=st.integers(1, 20), length=st.integers(1, 40), threads=st.sampled_from([1, 2]))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_pattern_in_any_blocks(mask: Tensor, batch: int, length: int, threads: int) -> None:
    generator = torch.Generator().manual_seed(batch)
    w, inp = (torch.randn(mask.shape, generator=generator) + 3) * mask, mask.shape[1]
    place, begins = torch.arange(inp), (torch.arange(-(-inp // length) + 1) * length).clamp(max=inp)
    columns = Columns(place // length, place % length * UNIT, begins, begins.diff() * UNIT)
    packed = packed_as(w, None, torch.float32, columns)
    check_pack(packed)
    assert torch.equal(unpack(packed)[0], w)
    with with_threads(threads):
        check(packed, w, torch.zeros(len(w)), torch.randn(batch, inp, generator=generator), relu=True)


def test_results_do_not_depend_on_threads() -> None:
    w = matrix(400, 3000, 0.1)
    packed = packed_as(w, torch.randn(400), torch.float32)
    for x in (torch.randn(batch, 3000) for batch in (1, 8, 16, 40)):
        assert same_on_any_threads(functools.partial(spmm_packed, x, packed, 400, False))


@pytest.mark.parametrize("batch", [1, 2, 3, 9, 17, 33])
def test_rows_do_not_depend_on_who_else_is_in_their_part(batch: int, backend: str) -> None:
    """However threads divide a batch, a row that is left alone is summed as it would be among others."""
    if backend == "reference":
        pytest.skip("ATen's own affair")
    packs = [
        packed_as(matrix(out, inp, 0.1), torch.randn(out), torch.float32)
        for out, inp in ((700, 900), (60, 700))
    ]
    joined, x = chain(packs, [True, False]), torch.randn(batch, 900)
    assert same_on_any_threads(functools.partial(spmm_chain, x, joined, 60), (1, 2, 3, 5))


@pytest.mark.parametrize("batch", [1, 9])
def test_what_is_not_stored_is_not_multiplied(batch: int) -> None:
    w = torch.zeros(20, 30)
    w[:, 0], w[0, 1:20] = 1, 1  # rows of very different lengths share a group
    x = torch.full((batch, 30), torch.inf)
    x[:, 0], x[:, 20:] = 2, torch.nan
    y = spmm_packed(x, packed_as(w, None, torch.float32), 20, False)
    assert y[:, 0].isinf().all() and y[:, 1:].eq(2).all()


def test_nan_survives_relu() -> None:
    w = torch.ones(3, 2)
    y = spmm_packed(torch.tensor([[torch.nan, 1.0]]), packed_as(w, None, torch.float32), 3, True)
    assert y.isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck(dtype: torch.dtype) -> None:
    packed = packed_as(matrix(11, 37, 0.4), None, torch.float32)
    for x in (torch.randn(5, 37, dtype=dtype), torch.randn(2, 37, 3, dtype=dtype).mT):
        torch.library.opcheck(_packed_op.native, (x, packed, 11, True))


def damaged(packed: Tensor, part: str, value: int) -> Tensor:
    """`packed` with the last number of a part, or one of the header, replaced."""
    p, bad = parts(packed), packed.clone()
    names = list(p.header)
    looked_up = {f"lookup_{name}": (t, t.itemsize) for name, t in p.lookups._asdict().items()}
    if part in names:
        bad[: 8 * len(names)].view(torch.int64)[names.index(part)] = value
        return bad
    sizes = {"columns": (p.begins, 8), "first": (p.first, 4), "start": (p.start, 4),
             "rows": (p.rows, 2), "bias": (p.bias, 4), "scales": (p.scales, 4), "values": (p.values, 4),
             "index": (p.index, 2), **looked_up,
             "cell_index": (p.cell_index, 2), "cell_ends": (p.cell_ends, 2)}  # fmt: skip
    at = -(-8 * len(names) // 64) * 64
    for name, (tensor, size) in sizes.items():
        if name == part:
            view = {8: torch.int64, 4: torch.int32, 2: torch.int16}[size]
            bad[at : at + size * tensor.numel()].view(view)[-1] = value
            return bad
        at += -(-size * tensor.numel() // 64) * 64
    raise AssertionError(part)


@pytest.mark.parametrize(
    "part, value",
    [
        ("magic", 7), ("stored", 3), ("out", 12), ("out", -1), ("in", 2**50), ("in", 38), ("slices", 0),
        ("slices", 2**40), ("slice_rows", 3), ("blocks", 9), ("groups", 1), ("steps", 1), ("longest", 0),
        ("longest", 2**39),
        ("bytes", 64), ("columns", 50), ("first", 9), ("start", 10**6), ("rows", 60), ("index", 4 * 38),
    ],
)  # fmt: skip
def test_what_would_be_read_out_of_bounds_is_refused(part: str, value: int) -> None:
    packed = packed_as(matrix(11, 37, 0.4), None, torch.float32)
    with pytest.raises(ValueError, match="packed"):
        check_pack(damaged(packed, part, value))


def test_kernels_refuse_what_is_no_pack() -> None:
    packed, x = packed_as(matrix(11, 37, 0.4), None, torch.float32), torch.randn(2, 37)
    with vdk.use_backend("cpu"):
        for bad in (
            packed[:-64],
            packed[:8],
            packed.new_zeros(640),
            packed.float(),
            damaged(packed, "steps", 1),
            damaged(packed, "longest", -1),
            damaged(packed, "longest", 2**39),
            damaged(packed, "blocks", 0),
            damaged(packed, "slice_rows", 2**40),
            damaged(packed, "slice_rows", 8),
        ):
            with pytest.raises(RuntimeError, match="packed is no matrix"):
                spmm_packed(x, bad, 11, False)
        with pytest.raises(RuntimeError, match="a matrix of 37 columns got 36 inputs"):
            spmm_packed(x[:, 1:], packed, 11, False)
        with pytest.raises(RuntimeError, match="has 11 rows, not 12"):
            spmm_packed(x, packed, 12, False)
