"""sparse_conv2d: against torch's convolution in float64, of any geometry; SparseConv2d, its layer."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import vdropkern as vdk
from tests.sparse_cases import CONVS
from tests.sparse_cases import sparse_conv as layer
from tests.threads import same_on_any_threads, with_threads
from tests.tolerance import assert_close
from vdropkern import _backend
from vdropkern.ops.sparse_conv2d import _op, band_of, blocks_of, sparse_conv2d
from vdropkern.ops.spmm.check import check_pack
from vdropkern.ops.spmm.pack import parts
from vdropkern.sparse import SparseConv2d

ISAS = _backend.cpu_isas()
LANES = {"portable": 4, "avx2": 8, "avx512": 16}
BATCHES = (1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 33)  # vectors of images, full, almost full and hardly begun


def truth(sparse: SparseConv2d, x: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs before the activation and the size of their terms, in float64."""
    w, g = sparse.weight_dense().detach().double(), sparse
    b = torch.zeros(len(w), dtype=torch.float64) if g.bias is None else g.bias.detach().double()

    def conv(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(x, w, b, g.stride, g.padding, g.dilation, g.groups)

    return conv(x.double(), w, b), conv(x.double().abs(), w.abs(), b.abs())


def check(sparse: SparseConv2d, x: Tensor) -> None:
    with torch.no_grad():
        y = sparse(x)
    assert sparse.packed_bytes() > 0, "another path was taken"
    expected, magnitude = truth(sparse, x)
    expected = expected.relu() if sparse.activation == "relu" else expected
    assert y.dtype == x.dtype and y.is_contiguous()
    assert_close(y, expected, magnitude, sparse.matrix_shape[1] + 1)


@pytest.mark.parametrize("name", CONVS)
def test_kernels(name: str) -> None:
    for density in (0.0, 0.1, 1.0):
        sparse = layer(name, density, "relu" if density else "none")
        for isa in ISAS:
            with _backend.use_cpu_isa(isa):
                for batch in (1, 3):
                    check(sparse, torch.randn(batch, CONVS[name][0], *CONVS[name][-1]))
        geometry = sparse._geometry(torch.randn(1, CONVS[name][0], *CONVS[name][-1]))
        check_pack(sparse.packed(geometry))


@pytest.mark.parametrize("name", CONVS)
def test_batches(name: str) -> None:
    """Images side by side in vectors, and what is left of a batch."""
    sparse = layer(name, 0.3, "relu")
    for isa in ISAS:
        with _backend.use_cpu_isa(isa):
            for batch in (LANES[isa] - 1, LANES[isa], 2 * LANES[isa] + 1):
                check(sparse, torch.randn(batch, CONVS[name][0], *CONVS[name][-1]))


@pytest.mark.parametrize("name", CONVS)
def test_reference(name: str) -> None:
    sparse, x = layer(name), torch.randn(2, CONVS[name][0], *CONVS[name][-1])
    geometry = sparse._geometry(x)
    packed = sparse.packed(geometry)
    with vdk.use_backend("reference"):
        y = sparse_conv2d(x, packed, sparse.out_channels, geometry, False)
    expected, magnitude = truth(sparse, x)
    assert_close(y, expected, magnitude, sparse.matrix_shape[1] + 1)


@st.composite
def problems(draw: st.DrawFn) -> tuple[SparseConv2d, Tensor]:
    small = st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel, stride, dilation = draw(small), draw(small), draw(small)
    padding = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    groups = draw(st.integers(1, 2))
    inp, out = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 5))
    least = [max(d * (k - 1) + 1 - 2 * p, 1) for d, k, p in zip(dilation, kernel, padding, strict=True)]
    image = [n + draw(st.integers(0, 20)) for n in least]
    torch.manual_seed(draw(st.integers(0, 99)))
    conv = torch.nn.Conv2d(inp, out, kernel, stride, padding, dilation, groups)
    with torch.no_grad():
        conv.weight.mul_(torch.rand_like(conv.weight) < draw(st.sampled_from([0.0, 0.2, 1.0])))
    return SparseConv2d.from_dense(conv), torch.randn(draw(st.sampled_from(BATCHES)), inp, *image)


@given(problem=problems(), threads=st.sampled_from([1, 2]), isa=st.sampled_from(ISAS))
@settings(max_examples=90, deadline=None, derandomize=True)
def test_any_geometry(problem: tuple[SparseConv2d, Tensor], threads: int, isa: str) -> None:
    with with_threads(threads), _backend.use_cpu_isa(isa):
        check(*problem)


@pytest.mark.parametrize("name", ["blocks-and-bands", "many-slices"])
@pytest.mark.parametrize("isa", ISAS)
def test_results_do_not_depend_on_threads(name: str, isa: str) -> None:
    sparse = layer(name)
    for batch in (1, 5, 37):
        x = torch.randn(batch, CONVS[name][0], *CONVS[name][-1])
        with torch.no_grad(), _backend.use_cpu_isa(isa):
            assert same_on_any_threads(functools.partial(sparse, x))


@pytest.mark.parametrize("isa", ISAS)
def test_threads_that_share_an_image(isa: str) -> None:
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(64, 100, 3, padding=1)  # work enough for two starts
    with torch.no_grad():
        conv.weight.mul_(torch.rand_like(conv.weight) < 0.5)
    sparse, x = SparseConv2d.from_dense(conv), torch.randn(1, 64, 15, 16)
    with torch.no_grad(), _backend.use_cpu_isa(isa):
        check(sparse, x)
        assert same_on_any_threads(functools.partial(sparse, x))


def test_blocks_of_channels() -> None:
    """Channels fall into blocks where what a tile reads of all of them is larger than L1."""
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(200, 16, 3, padding=1)
    with torch.no_grad():
        conv.weight.mul_(torch.rand_like(conv.weight) < 0.4)
    sparse, x = SparseConv2d.from_dense(conv, activation="relu"), torch.randn(18, 200, 13, 11)
    geometry = sparse._geometry(x)
    assert parts(sparse.packed(geometry)).header["blocks"] == blocks_of(geometry, sparse.nnz / 16) > 2
    assert blocks_of(geometry, 3.0) == 1, "few weights, whose sums would be loaded again and again"
    for isa in ISAS:
        with _backend.use_cpu_isa(isa):
            for batch in (2, 18):
                check(sparse, x[:batch])


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.int8], ids=str)
def test_stored_in_fewer_bits_and_half_images(stored: torch.dtype) -> None:
    sparse = layer("groups", 0.5)
    sparse.store_as(stored)
    for dtype in (torch.float32, torch.bfloat16):
        for batch in (2, 16):
            check(sparse, torch.randn(batch, 6, 7, 9).to(dtype))
    check(sparse, torch.randn(2, 6, 9, 7).mT)
    check(sparse, torch.randn(2, 6, 7, 9).to(memory_format=torch.channels_last))


def test_what_is_not_stored_is_not_multiplied() -> None:
    conv = torch.nn.Conv2d(2, 9, 3, padding=1, bias=False)
    with torch.no_grad():
        conv.weight[:, 1], conv.weight[1:, 0] = 0, 0
        conv.weight[:, 0, 1, 1] = 1
    for batch in (1, 16):
        x = torch.full((batch, 2, 6, 11), torch.nan)
        x[:, 0] = 3
        with torch.no_grad():
            y = SparseConv2d.from_dense(conv)(x)
        assert y[:, 1:].eq(3).all() and y.isfinite().all()


@pytest.mark.parametrize("name", ["3x3", "groups", "uneven"])
def test_gradients(name: str) -> None:
    sparse, x = layer(name, activation="relu"), torch.randn(2, CONVS[name][0], *CONVS[name][-1])
    dense = copy.deepcopy(sparse).to_dense()
    results = []
    for model in (sparse, dense):
        leaf = x.clone().requires_grad_()
        y = model(leaf)
        y.square().sum().backward()
        results.append((y, leaf.grad))
    torch.testing.assert_close(results[0], results[1])
    kept = dense[0].weight.grad.reshape(sparse.matrix_shape)[sparse.weight_matrix() != 0]
    torch.testing.assert_close(sparse.values.grad, kept)
    torch.testing.assert_close(sparse.bias.grad, dense[0].bias.grad)


def test_paths_without_a_kernel() -> None:
    sparse = layer("3x3")
    wide = torch.randn(1, 5, 3, 40_000)  # one row is too long for 16-bit indices
    assert band_of(sparse._geometry(wide)) == 0
    with torch.no_grad():
        for x in (wide, torch.randn(5, 9, 13), torch.randn(0, 5, 9, 13)):
            torch.testing.assert_close(sparse(x), sparse.to_dense()(x))
        with pytest.raises(RuntimeError, match="expected input"):
            sparse(torch.randn(1, 6, 9, 13))
    torch._dynamo.reset()
    compiled = torch.compile(sparse, backend="aot_eager", fullgraph=True)
    x = torch.randn(2, 5, 9, 13)
    torch.testing.assert_close(compiled(x), sparse(x))


def test_image_sizes_take_turns() -> None:
    sparse = layer("3x3", bias=False)
    for size in ((9, 13), (30, 5), (9, 13)):
        check(sparse, torch.randn(1, 5, *size))


def test_opcheck_and_what_is_refused() -> None:
    sparse, x = layer("uneven"), torch.randn(2, 4, 11, 19)
    geometry = sparse._geometry(x)
    window = list(geometry.window)
    packed, band = sparse.packed(geometry), band_of(geometry)
    torch.library.opcheck(_op.native, (x, packed, 5, window, band, True))
    for bad_x, bad_packed, out, bad_band in (
        (x, packed[:-64], 5, band), (x, packed, 6, band), (x, packed, 5, 0), (x, packed, 5, band + 9),
        (x[..., 2:], packed, 5, band), (x[:, 1:], packed, 5, band), (x[0], packed, 5, band),
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match="sparse_conv2d: "), vdk.use_backend("cpu"):
            _op.native(bad_x, bad_packed, out, window, bad_band, True)
    with pytest.raises(RuntimeError, match="window must be kernel size, stride"), vdk.use_backend("cpu"):
        _op.native(x, packed, 5, window[:6], band, True)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"groups": 2}, "multiples of groups"),
        ({"kernel_size": 0}, "kernel_size must be an int >= 1"),
        ({"padding": (1, -1)}, "padding must be an int >= 0"),
        ({"stride": (1, 2, 3)}, "stride must be"),
        ({"nnz": 99}, r"nnz must lie in \[0, 36\]"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SparseConv2d(**{"in_channels": 1, "out_channels": 4, "kernel_size": 3, **arguments})  # type: ignore[arg-type]


def test_from_dense_and_back() -> None:
    same = torch.nn.Conv2d(2, 3, (3, 5), padding="same", dilation=(2, 1))
    sparse = SparseConv2d.from_dense(same)
    assert sparse.padding == (2, 2) and SparseConv2d.from_dense(
        torch.nn.Conv2d(1, 1, 1, padding="valid")
    ).padding == (0, 0)
    assert torch.equal(sparse.to_dense().weight, same.weight) and "kernel_size=(3, 5)" in repr(sparse)
    for conv, words in (
        (torch.nn.Conv2d(1, 1, 2, padding="same"), "the same on both sides"),
        (torch.nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), "padding_mode must be 'zeros'"),
    ):
        with pytest.raises(ValueError, match=words):
            SparseConv2d.from_dense(conv)
    fresh = SparseConv2d(2, 3, (3, 5), padding=(2, 2), dilation=(2, 1), nnz=sparse.nnz)
    fresh.load_state_dict(sparse.state_dict())
    assert torch.equal(fresh.weight_dense(), sparse.weight_dense())


@pytest.mark.skipif(not ISAS, reason="without kernels there is nothing to refuse")
def test_planes_whose_size_overflows_are_refused() -> None:
    """By a header that says what is left of the size in 64 bits, which is nothing."""
    sparse = SparseConv2d.from_dense(torch.nn.Conv2d(2, 3, 4))
    x = torch.randn(1, 2, 4, 4)
    packed = sparse.packed(sparse._geometry(x)).clone()
    packed[:104].view(torch.int64)[11] = 0
    op = torch.ops.vdropkern.sparse_conv2d
    far, pad = 2**30, 3 * 2**29
    with vdk.use_backend("cpu"):
        with pytest.raises(RuntimeError, match="plane is too large"):
            op(x, packed, 3, [4, 4, far, far, pad, pad, far, far], 1, False)
        with pytest.raises(RuntimeError, match="a size is out of range"):
            op(x, packed, 3, [4, 4, 2**62, 4, 0, 0, 1, 1], 1, False)
