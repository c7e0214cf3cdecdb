"""Sparse convolutions in CUDA, on the emulated GPU: against torch's in float64, of any geometry."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.emulator import emulated, memory, misaligned
from tests.sparse_cases import CONVS, sparse_conv
from tests.tolerance import assert_close
from vdropkern.ops.spmm.csr import by_length, dense_to_csr
from vdropkern.sparse import SparseConv2d

gpu = emulated()
DTYPES = (torch.float32, torch.bfloat16)
# multiprocessors, for which a thread takes one pixel or four
PIXELS = {"one": 10_000, "four": 1}
SMALL = [name for name in CONVS if name != "blocks-and-bands"]


def conv2d(sparse: SparseConv2d, x: Tensor, pixels: str, relu: bool = False) -> Tensor:
    """The kernels' y of a layer's rows."""
    values, cols, rows = dense_to_csr(sparse.weight_matrix().detach())
    bias = None if sparse.bias is None else sparse.bias.detach()
    geometry = sparse._geometry(x)
    n, out = x.shape[0], geometry.out_size
    sizes = [n, x.shape[1], sparse.out_channels, sparse.groups, values.numel(), *x.shape[2:], *out]
    sizes += [*sparse.kernel_size, *sparse.stride, *sparse.padding, *sparse.dilation]
    dtype = str(x.dtype).removeprefix("torch.")
    with memory(gpu) as m:
        y, to_y = m.output("y", (n, sparse.out_channels, *out), x.dtype)
        space = getattr(gpu, f"sparse_conv_workspace_{dtype}")(sizes) // x.element_size()
        to_space = m.output("workspace", (space,), x.dtype)[1] if space else None
        getattr(gpu, f"sparse_conv2d_{dtype}")(
            sizes, m.input("values", misaligned(values, 0)), m.input("cols", misaligned(cols, 0)),
            m.input("rows", rows), m.input("order", by_length(rows)), m.input("x", misaligned(x, 1)),
            m.input("bias", bias), relu, PIXELS[pixels], to_space, to_y,
        )  # fmt: skip
    return y


def check(sparse: SparseConv2d, x: Tensor, pixels: str, relu: bool = False) -> None:
    y = conv2d(sparse, x, pixels, relu)
    w, b = sparse.weight_dense().detach().double(), sparse.bias
    shift = torch.zeros(len(w), dtype=torch.float64) if b is None else b.detach().double()
    arguments = (sparse.stride, sparse.padding, sparse.dilation, sparse.groups)
    expected = torch.nn.functional.conv2d(x.double(), w, shift, *arguments)
    magnitude = torch.nn.functional.conv2d(x.double().abs(), w.abs(), shift.abs(), *arguments)
    assert_close(y, expected.relu() if relu else expected, magnitude, sparse.matrix_shape[1] + 1, "y")


@pytest.mark.parametrize("pixels", PIXELS)
@pytest.mark.parametrize("name", SMALL)
def test_geometries(name: str, pixels: str) -> None:
    runs = ((0.0, 1, torch.float32), (0.3, 3, torch.float32), (1.0, 2, torch.bfloat16))
    for seed, (density, batch, dtype) in enumerate(runs):
        gpu.configure(seed)
        sparse = sparse_conv(name, density, bias=seed != 1)
        x = torch.randn(batch, CONVS[name][0], *CONVS[name][-1]).to(dtype)
        check(sparse, x, pixels, relu=seed == 2)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_many_weights_a_row(dtype: torch.dtype) -> None:
    """More than one stage of shared memory, an end that is no multiple of four."""
    conv = torch.nn.Conv2d(31, 3, 3, padding=1)
    for pixels in PIXELS:
        check(SparseConv2d.from_dense(conv), torch.randn(1, 31, 5, 6).to(dtype), pixels)


def test_no_images() -> None:
    assert conv2d(sparse_conv("3x3"), torch.randn(0, 5, 9, 13), "one").shape == (0, 11, 9, 13)


def test_what_is_not_stored_is_not_multiplied() -> None:
    conv = torch.nn.Conv2d(2, 9, 3, padding=1, bias=False)
    with torch.no_grad():
        conv.weight[:, 1], conv.weight[1:, 0] = 0, 0
        conv.weight[:, 0, 1, 1] = 1
    x = torch.full((1, 2, 6, 11), torch.nan)
    x[:, 0] = 3
    y = conv2d(SparseConv2d.from_dense(conv), x, "one")
    assert y[:, 1:].eq(3).all() and y.isfinite().all()


@pytest.mark.parametrize("pixels", PIXELS)
def test_bytes(pixels: str) -> None:
    """Each weight is read once a tile of pixels, and its input once a pixel; images are padded once."""
    sparse, x = sparse_conv("3x3"), torch.randn(2, 5, 9, 13)
    y = conv2d(sparse, x, pixels)
    pad, product = gpu.records()
    padded = 2 * 5 * 11 * 15 * 4
    assert (pad["loaded"], pad["stored"]) == (x.numel() * 4, padded)
    per_thread = 4 if pixels == "four" else 1
    tiles = -(-2 * 9 * 13 // (128 * per_thread))
    threads = tiles * 128
    uniform = 4 * 4 * threads * 11  # order, two offsets and the bias, by every thread
    weights, inputs = 8 * sparse.nnz * tiles, 4 * sparse.nnz * threads * per_thread
    assert product["loaded"] == uniform + weights + inputs
    assert product["stored"] == y.numel() * 4


def test_too_large_is_said() -> None:
    sizes = [2**20, 1, 1, 1, 0, 2**6, 2**6, 2**6, 2**6, 1, 1, 1, 1, 0, 0, 1, 1]
    with pytest.raises(RuntimeError, match=r"sparse_conv2d: more than 2\^31 - 2\^10 output pixels"):
        gpu.sparse_conv2d_float32(sizes, None, None, None, None, None, None, False, 1, None, None)
