"""The packed form for one row of inputs: what it holds, what the kernel computes from it, what is refused."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import vdropkern as vdk
from tests.ops.test_spmm import patterns
from tests.ops.test_spmm_packed import MATRICES, check, matrix
from tests.threads import same_on_any_threads, with_threads
from vdropkern import _backend
from vdropkern.ops.spmm import lookup, spmm_packed
from vdropkern.ops.spmm.check import check_pack
from vdropkern.ops.spmm.csr import dense_to_csr
from vdropkern.ops.spmm.lookup import CHUNK, NO_ROW, REAL, ROWS, Lookups, byte_lane
from vdropkern.ops.spmm.pack import linear_columns, pack, parts
from vdropkern.sparse import SparseLinear

SIZES = [*MATRICES, (64, 64, 0.3), (65, 129, 0.2), (200, 1000, 0.05), (130, 40, 1.0), (300, 784, 0.02)]


def packed_for_one(w: Tensor, bias: Tensor | None = None) -> Tensor:
    """`w` packed with the form for one row, however many places it would fill up."""
    values, cols, rows = dense_to_csr(w)
    columns = linear_columns(w.shape[1], (w != 0).double().mean().item() if w.numel() else 0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lookup, "_MOST_PLACES", (1e9, 1e9))
        return pack(values, cols, rows, columns, bias, one_row=True)


def weight_of(found: Lookups, out: int, inp: int) -> Tensor:
    """The matrix that the look-ups hold; every real one must be the first at its place."""
    weight, seen = torch.zeros(out, inp), torch.zeros(out, inp)
    rows, chunk = found.rows.view(-1, ROWS).tolist(), found.chunk.tolist()
    values, index = found.values.view(-1, 2, ROWS), found.places.view(-1, 2, ROWS)
    for group in range(len(rows)):
        for pair in range(int(found.start[group]), int(found.start[group + 1])):
            for half in (0, 1):
                for lane, at in enumerate(byte_lane().tolist()):
                    place, row = int(index[pair, half, at]), rows[group][lane]
                    if place < REAL:
                        assert values[pair, half, lane] == 0
                        continue
                    col = chunk[pair] * CHUNK + place - REAL
                    weight[row, col] = values[pair, half, lane]
                    seen[row, col] += 1
    assert seen.max() <= 1
    return weight


@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_kernel(shape: tuple[int, int, float], backend: str) -> None:
    w, bias = matrix(*shape), torch.randn(shape[0])
    packed = packed_for_one(w, bias)
    check_pack(packed)
    found = parts(packed).lookups
    assert (found.chunk.numel() > 0) == bool((w != 0).any())
    if found.chunk.numel():
        assert torch.equal(weight_of(found, *w.shape), w)
    for batch in (1, 2, 4, 9):
        for relu in (False, True):
            check(packed, w, bias, torch.randn(batch, shape[1]), relu)
    check(packed, w, bias, torch.randn(shape[1], dtype=torch.bfloat16), relu=False)


@given(mask=patterns(), threads=st.sampled_from([1, 2]), seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_pattern(mask: Tensor, threads: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    w = (torch.randn(mask.shape, generator=generator) + 3) * mask
    packed = packed_for_one(w)
    check_pack(packed)
    if bool(mask.any()):
        assert torch.equal(weight_of(parts(packed).lookups, *w.shape), w)
    with with_threads(threads):
        check(packed, w, torch.zeros(len(w)), torch.randn(1, w.shape[1], generator=generator), relu=True)


def test_results_do_not_depend_on_threads() -> None:
    w = matrix(700, 3000, 0.1)
    packed = packed_for_one(w, torch.randn(700))
    for x in (torch.randn(batch, 3000) for batch in (1, 3)):
        assert same_on_any_threads(functools.partial(spmm_packed, x, packed, 700, False))


def test_what_is_not_stored_is_not_multiplied() -> None:
    w = torch.zeros(70, 200)
    w[:, 0], w[0, 1:100] = 1, 1  # rows of very different lengths share a group
    x = torch.full((1, 200), torch.inf)
    x[:, 0], x[:, 100:] = 2, torch.nan
    y = spmm_packed(x, packed_for_one(w), 70, False)
    assert y[:, 0].isinf().all() and y[:, 1:].eq(2).all()


def test_nan_survives_relu() -> None:
    y = spmm_packed(torch.tensor([[torch.nan, 1.0]]), packed_for_one(torch.ones(3, 2)), 3, True)
    assert y.isnan().all()


def test_made_where_it_is_faster() -> None:
    def pairs(w: Tensor, dtype: torch.dtype = torch.float32) -> int:
        values, cols, rows = dense_to_csr(w.to(dtype))
        packed = pack(values, cols, rows, linear_columns(w.shape[1], 0.1), None, one_row=True)
        return parts(packed).header["pairs"]

    assert pairs(matrix(300, 784, 0.1)) > 0 and pairs(matrix(300, 784, 0.02)) > 0
    assert pairs(matrix(300, 784, 0.1), torch.bfloat16) == 0
    assert pairs(matrix(300, 784, 0.002)) == 0
    assert pairs(torch.zeros(5, 7)) == 0
    one_long = torch.zeros(64, 5000)
    one_long[3] = 1
    assert pairs(one_long) == 0


def test_layers_hold_it_where_the_cpu_can_use_it() -> None:
    held = []
    for isa in _backend.cpu_isas():
        with vdk.use_backend("cpu"), _backend.use_cpu_isa(isa), torch.no_grad():
            layer = SparseLinear.from_dense(matrix(300, 784, 0.1))
            held.append(parts(layer.packed()).header["pairs"] > 0)
            assert held[-1] == _backend.cpu_byte_lookup()
    assert not any(held[:2])


def damaged_lookups(packed: Tensor, part: str, place: int, value: int) -> Tensor:
    """`packed` with one number of a part of its look-ups replaced."""
    bad, at = packed.clone(), packed.numel()
    found = parts(packed).lookups._asdict()
    for name in reversed(found):
        t = found[name]
        at -= -(-t.numel() * t.element_size() // 64) * 64
        if name == part:
            numbers = bad[at : at + t.numel() * t.element_size()].view(t.dtype)
            numbers[place] = torch.tensor([value]).view(t.dtype)[0]
    return bad


@pytest.mark.parametrize(
    "part, place, value",
    [
        ("start", -1, 10**6), ("start", 1, -1), ("rows", 0, 11), ("rows", 0, NO_ROW), ("rows", -1, 3),
        ("chunk", -1, 1), ("places", 0, REAL + 37),
    ],
)  # fmt: skip
def test_what_would_be_read_out_of_bounds_is_refused(part: str, place: int, value: int) -> None:
    packed = packed_for_one(matrix(11, 37, 0.9))
    check_pack(packed)
    with pytest.raises(ValueError, match="packed"):
        check_pack(damaged_lookups(packed, part, place, value))


def test_packed_matrices_without_it_are_as_they_were() -> None:
    """Constants of exported programs were made before there was one: their header's padding says none."""
    values, cols, rows = dense_to_csr(matrix(11, 37, 0.4))
    packed = pack(values, cols, rows, linear_columns(37, 0.4), None)
    assert packed[8 * 12 : 128].eq(0).all()
    assert parts(packed).lookups.chunk.numel() == 0
