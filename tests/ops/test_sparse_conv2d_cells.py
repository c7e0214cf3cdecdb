"""sparse_conv2d with its outputs in a grid of cells: any grid, against torch's convolution in float64."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.ops.test_sparse_conv2d import LANES, problems, truth
from tests.ops.test_spmm_packed import damaged
from tests.sparse_cases import CONVS
from tests.sparse_cases import sparse_conv as layer
from tests.threads import same_on_any_threads, with_threads
from tests.tolerance import assert_close
from vdropkern import _backend
from vdropkern.ops.sparse_conv2d import _op, band_of, cells, conv_columns
from vdropkern.ops.sparse_conv2d.cells import Grid, cells_of, grid_of
from vdropkern.ops.spmm.check import check_pack
from vdropkern.ops.spmm.pack import pack, parts
from vdropkern.sparse import SparseConv2d

ISAS = [isa for isa in _backend.cpu_isas() if LANES[isa] > 4]


def packed_in_cells(
    sparse: SparseConv2d, x: Tensor, grid: tuple[int, int, int, int], blocks: int = 1
) -> Tensor:
    """Packed with that grid, whatever it costs."""
    g, per_row = sparse._geometry(x), sparse.nnz / sparse.out_channels
    columns = conv_columns(g, blocks)
    found = cells_of(g, Grid(*grid), columns.begins, per_row)
    assert found is not None
    columns = dataclasses.replace(columns, cells=found)
    values, bias = sparse.values.detach(), None if sparse.bias is None else sparse.bias.detach()
    packed = pack(values, sparse._column_of_each(), sparse.row_offsets, columns, bias, sparse.scales)
    check_pack(packed)
    return packed


def run(sparse: SparseConv2d, x: Tensor, packed: Tensor, relu: bool = False) -> Tensor:
    g = sparse._geometry(x)
    y: Tensor = _op.native(x, packed, sparse.out_channels, g.window, band_of(g), relu)
    return y


def check(sparse: SparseConv2d, x: Tensor, packed: Tensor, relu: bool = False) -> None:
    y = run(sparse, x, packed, relu)
    expected, magnitude = truth(sparse, x)
    assert_close(y, expected.relu() if relu else expected, magnitude, sparse.matrix_shape[1] + 1)


def grids(lanes: int, height: int, width: int) -> list[tuple[int, int, int, int]]:
    """Every shape of grid: cells that just cover the image, larger ones, and ones that take several grids."""
    found = []
    for wide in (1 << i for i in range(lanes.bit_length())):
        high = lanes // wide
        rows, cols = -(-height // high), -(-width // wide)
        found += [(high, wide, rows, cols), (high, wide, max(rows // 2, 1), cols + 1), (high, wide, 1, 1)]
    return found


@pytest.mark.skipif(not ISAS, reason="no vectors of eight or more")
@pytest.mark.parametrize("name", CONVS)
def test_every_grid(name: str) -> None:
    for density in (0.0, 0.3, 1.0):
        sparse = layer(name, density)
        x = torch.randn(2, CONVS[name][0], *CONVS[name][-1])
        for isa in ISAS:
            every = grids(LANES[isa], *sparse._geometry(x).out_size)
            for grid in every if density == 0.3 else every[3:4]:
                with _backend.use_cpu_isa(isa):
                    check(sparse, x, packed_in_cells(sparse, x, grid), relu=density == 0.3)


@pytest.mark.skipif(not ISAS, reason="no vectors of eight or more")
@given(
    problem=problems(),
    isa=st.sampled_from(ISAS or ["portable"]),
    wide=st.integers(0, 4),
    cell=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    blocks=st.integers(1, 3),
    threads=st.sampled_from([1, 2, 3]),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_grid(
    problem: tuple[SparseConv2d, Tensor],
    isa: str,
    wide: int,
    cell: tuple[int, int],
    blocks: int,
    threads: int,
) -> None:
    sparse, x = problem
    lanes = LANES[isa]
    wide = min(1 << wide, lanes)
    with with_threads(threads), _backend.use_cpu_isa(isa):
        check(sparse, x[:2], packed_in_cells(sparse, x, (lanes // wide, wide, *cell), blocks))


@pytest.mark.skipif(not ISAS, reason="no vectors of eight or more")
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.int8], ids=str)
def test_blocks_and_pieces(stored: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "_NEAR", 60)
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(50, 140, 3, padding=1)
    with torch.no_grad():
        conv.weight.mul_(torch.rand_like(conv.weight) < 0.3)
        conv.weight[7] = 0
    sparse, x = SparseConv2d.from_dense(conv), torch.randn(2, 50, 12, 17)
    sparse.store_as(stored)
    for isa in ISAS:
        for blocks in (1, 3):
            packed = packed_in_cells(sparse, x, (LANES[isa] // 4, 4, 5, 4), blocks)
            assert parts(packed).header["pieces"] > 2
            with _backend.use_cpu_isa(isa):
                check(sparse, x, packed)
                assert same_on_any_threads(lambda packed=packed: run(sparse, x, packed))


@pytest.mark.skipif(not ISAS, reason="no vectors of eight or more")
def test_extreme_inputs() -> None:
    """Padding is zero whatever lies beside it in memory, and NaN and infinities stay where they are."""
    sparse = layer("3x3", 1.0)
    x = torch.full((3, 5, 9, 13), torch.nan)
    x[1] = torch.randn(5, 9, 13)
    x[1, 2, 4, 4] = torch.inf
    alone = torch.nn.functional.conv2d(x[1:2], sparse.weight_dense().detach(), sparse.bias, 1, sparse.padding)
    for isa in ISAS:
        with _backend.use_cpu_isa(isa):
            y = run(sparse, x, packed_in_cells(sparse, x, (LANES[isa] // 4, 4, 3, 4)), relu=True)
        assert y[0].isnan().any() and torch.equal(y[1].isnan(), alone[0].isnan())
        finite = alone[0].isfinite()
        torch.testing.assert_close(y[1][finite], alone[0][finite].relu(), atol=1e-5, rtol=1e-5)


def test_a_cpu_of_other_vectors_reads_the_weight_as_it_is() -> None:
    sparse, x = layer("3x3", 0.5), torch.randn(2, 5, 9, 13)
    for lanes in (8, 16):
        packed = packed_in_cells(sparse, x, (lanes // 4, 4, 5, 4))
        for isa in _backend.cpu_isas():
            with _backend.use_cpu_isa(isa):
                check(sparse, x, packed)


@pytest.mark.skipif(not ISAS, reason="no vectors of eight or more")
def test_layers_take_cells_where_they_should_be_faster() -> None:
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(64, 64, 3, padding=1)
    with torch.no_grad():
        conv.weight.mul_(torch.rand_like(conv.weight) < 0.2)
    sparse, x = SparseConv2d.from_dense(conv), torch.randn(1, 64, 32, 32)
    g = sparse._geometry(x)
    for isa in ISAS:
        with _backend.use_cpu_isa(isa), torch.no_grad():
            sparse.repack()
            sparse(x)
            header = parts(sparse.packed(g)).header
        assert header["cells_high"] * header["cells_wide"] == LANES[isa]
        expected, magnitude = truth(sparse, x)
        assert_close(sparse(x).detach(), expected, magnitude, 577)
        grid = grid_of(g, sparse.nnz, 64, LANES[isa])
        assert grid is not None and header["cell_rows"] == grid.rows and header["cell_cols"] == grid.cols
        assert grid_of(g, 64, 64, LANES[isa]) is None, "to lay out an image is worth many weights"
        pixel = g._replace(kernel_size=(1, 1), padding=(0, 0))
        assert grid_of(pixel, sparse.nnz, 64, LANES[isa]) is None
        assert grid_of(g._replace(image=(1, 1)), 10**5, 64, LANES[isa]) is None, "most lanes would idle"
    assert grid_of(g, sparse.nnz, 64, 4) is None and grid_of(g, sparse.nnz, 64, 0) is None


@pytest.mark.parametrize(
    "part, value",
    [("cell_index", 5 * 7 * 6), ("cell_ends", 99), ("pieces", 0), ("pieces", 9), ("pieces", 2**40),
     ("cells_high", 0), ("cell_rows", -1), ("cell_plane", 2**20), ("cell_plane", 3)],
)  # fmt: skip
def test_damaged_cells_are_refused(part: str, value: int) -> None:
    sparse, x = layer("3x3", 1.0), torch.randn(1, 5, 9, 13)
    packed = packed_in_cells(sparse, x, (4, 4, 5, 4))
    if part not in ("cell_index", "cell_ends"):  # what the parts hold the kernel trusts
        with pytest.raises(RuntimeError, match="packed"):
            run(sparse, x, damaged(packed, part, value))
    with pytest.raises(ValueError, match="packed"):
        check_pack(damaged(packed, part, value))


@pytest.mark.parametrize("part", ["cell_rows", "cell_cols"])
def test_cells_of_another_convolution_are_refused(part: str) -> None:
    sparse, x = layer("3x3", 1.0), torch.randn(1, 5, 9, 13)
    with pytest.raises(RuntimeError, match="packed was made for another convolution"):
        run(sparse, x, damaged(packed_in_cells(sparse, x, (4, 4, 5, 4)), part, 9))


def test_windows_and_channels_without_a_form_are_left_out() -> None:
    sparse, x = layer("3x3", 1.0), torch.randn(1, 5, 9, 13)
    g = sparse._geometry(x)
    assert cells_of(g, Grid(4, 4, 300, 300), conv_columns(g).begins, 9.0) is None, "16 bits cannot reach"
