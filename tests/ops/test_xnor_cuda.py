"""Packed signs in CUDA, on the emulated GPU: bits and integer counts equal to the reference's, to the bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.emulator import emulated, memory, misaligned
from tests.ops.test_xnor import CONVS, signs
from vdropkern.ops.sign_ste.reference import pack_bits
from vdropkern.ops.xnor import output_size, pack_weight, words_of
from vdropkern.ops.xnor import reference as xnor

gpu = emulated()
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# compute capability and multiprocessors: POPC; tensor cores by tiles of 64 and of 128 pixels
COUNTS = {"popc": (90, 132), "mma-64": (80, 10_000), "mma-128": (89, 1)}
MORE_CONVS = [
    (1, 512, 3, 67, 70, (1, 1), (1, 1), (0, 0), (1, 1)),  # several steps of the reduction, tiles of pixels
    (2, 256, 9, 9, 130, (3, 3), (1, 1), (1, 1), (1, 1)),
    (1, 65, 4, 4, 3, (16, 16), (1, 1), (8, 8), (1, 1)),  # as many taps as there may be
    (1, 40, 9, 9, 7, (3, 3), (4, 4), (3, 3), (7, 7)),  # steps over the whole image
    (300, 128, 1, 1, 129, (1, 1), (1, 1), (0, 0), (1, 1)),
]


def pack(
    x: Tensor, threshold: Tensor | None = None, flip: Tensor | None = None, dim: int = 1, offset: int = 0
) -> Tensor:
    """The kernel's bits; x must have been read once and every word written once."""
    dim %= x.ndim
    last = x.ndim == 4 and dim == 1 and not x.is_contiguous()
    dense = x.permute(0, 2, 3, 1).contiguous() if last else x.contiguous()
    outer = x.shape[:dim].numel() * (x.shape[2:].numel() if last else 1)
    inner = 1 if last else x.shape[dim + 1 :].numel()
    shape = (*x.shape[:dim], *x.shape[dim + 1 :], words_of(x.shape[dim]))
    with memory(gpu) as m:
        bits, to_bits = m.output("bits", shape, torch.int64)
        kernel = getattr(gpu, f"xnor_pack_{str(x.dtype).removeprefix('torch.')}")
        given = (m.input("x", misaligned(dense, offset)), m.input("t", threshold), m.input("flip", flip))
        kernel(*given, outer, x.shape[dim], inner, to_bits)
        traffic = m.traffic()
        assert traffic["x"] == (x.numel() * x.element_size(), 0)
        assert traffic["bits"] == (0, bits.numel() * 8)
    return bits


def conv2d(
    count: str,
    bits: Tensor,
    weight: Tensor,
    scale: Tensor,
    shift: Tensor | None,
    channels: int,
    *geometry: Any,
    packed: bool = False,
    offset: int = 0,
) -> Tensor:
    """`xnor_conv2d`, or `xnor_conv2d_bits` where `packed`, with their arguments."""
    *window, last = geometry if not packed else (*geometry, False)
    kernel, stride, pad, dilation = zip(*[iter(window)] * 2, strict=True)
    n, outputs = bits.shape[0], scale.numel()
    out = [output_size(bits.shape[1 + d], kernel[d], stride[d], pad[d], dilation[d]) for d in (0, 1)]
    sizes = [*bits.shape[:3], channels, outputs, *window, *out]
    shape = (n, *out, words_of(outputs)) if packed else (n, *out, outputs) if last else (n, outputs, *out)
    dtype = torch.int64 if packed else torch.float32
    with memory(gpu) as m:
        result, to_result = m.output("out", shape, dtype)
        space = gpu.xnor_workspace(sizes) // 4
        to_space = m.output("workspace", (space,), torch.int32)[1] if space else None
        given = (m.input("bits", misaligned(bits, offset)), m.input("weight", misaligned(weight, 0)))
        gpu.xnor_conv2d(
            *given, m.input("scale", scale), m.input("shift", shift), sizes, last, packed, *COUNTS[count],
            to_space, to_result,
        )  # fmt: skip
    return result.permute(0, 3, 1, 2) if last else result


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape",
    [(1, 1), (3, 5), (1, 64), (7, 130), (9, 256), (40, 2048), (2, 70, 5, 7), (2, 64, 9, 16), (3, 33, 2),
     (2, 300, 7, 7), (1, 128, 12, 12), (5, 1, 130), (0, 4), (3, 0), (2, 0, 5), (0, 3, 4, 4)],
    ids=str,
)  # fmt: skip
def test_pack(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, channels = signs(*shape).to(dtype), shape[1]
    t, flip = torch.linspace(-1, 1, channels), pack_bits(torch.arange(channels) % 3 == 0)
    for seed, offset, threshold, flips in ((0, 0, None, None), (1, 0, t, None), (2, 1, t, flip)):
        gpu.configure(seed)
        assert torch.equal(pack(x, threshold, flips, 1, offset), xnor.xnor_pack(x, threshold, flips, 1))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_pack_along_any_dimension(dtype: torch.dtype) -> None:
    x = signs(3, 72, 6, 10).to(dtype)
    for image, dim in ((x, 0), (x, 2), (x, -1), (x.contiguous(memory_format=torch.channels_last), 1)):
        assert torch.equal(pack(image, dim=dim), xnor.xnor_pack(image, None, None, dim))


def test_pack_of_what_is_no_number() -> None:
    x = torch.tensor([torch.nan, -torch.nan, torch.inf, -torch.inf, -0.0, 1e-45, -1e-45]).repeat(10)
    for t in (None, torch.full((70,), torch.nan), torch.full((70,), torch.inf)):
        for image in (x[None], x[None, :, None].repeat(2, 1, 5)):
            assert torch.equal(pack(image, t), xnor.xnor_pack(image, t, None, 1))


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("conv", [*CONVS, *MORE_CONVS], ids=str)
def test_conv(conv: tuple[Any, ...], count: str) -> None:
    n, c, h, w, o, kernel, stride, padding, dilation = conv
    bits = xnor.xnor_pack(signs(n, c, h, w), None, None, 1)
    weight = pack_weight(signs(o, c, *kernel, seed=1))
    geometry = (c, *kernel, *stride, *padding, *dilation)
    alpha, bias, ones = torch.rand(o) + 0.1, torch.randn(o), torch.ones(o)
    runs = ((0, alpha, bias, False, 0), (1, ones, None, True, 1), (2, alpha, bias, True, 0))
    for seed, scale, shift, last, offset in runs:
        gpu.configure(seed)
        y = conv2d(count, bits, weight, scale, shift, *geometry, last, offset=offset)
        assert torch.equal(y, xnor.xnor_conv2d(bits, weight, scale, shift, *geometry, last))
    t, flip = torch.arange(o, dtype=torch.int32) - o // 2, pack_bits(torch.arange(o) % 2 == 0)
    packed = conv2d(count, bits, weight, t, flip, *geometry, packed=True)
    assert torch.equal(packed, xnor.xnor_conv2d_bits(bits, weight, t, flip, *geometry))


@pytest.mark.parametrize("count", COUNTS)
def test_operands_are_read_once_a_tile(count: str) -> None:
    """Packed pixels once a column of tiles, weights once a row of tiles, results written once."""
    pixels, words, outputs = 256, 8, 192
    bits = torch.randint(-(2**62), 2**62, (1, 1, pixels, words))
    weight = torch.randint(-(2**62), 2**62, (outputs // 8, 1, words, 8))
    geometry = (64 * words, 1, 1, 1, 1, 0, 0, 1, 1)
    y = conv2d(count, bits, weight, torch.ones(outputs), None, *geometry, True)
    (product,) = gpu.records()
    rows = pixels // (128 if count == "mma-128" else 64)
    operands = 3 * bits.numel() * 8 + rows * weight.numel() * 8
    assert product["loaded"] == operands + y.numel() * 4  # and the scale of each
    assert product["stored"] == y.numel() * 4


def test_every_divisor() -> None:
    """The multiplication that stands for a division, at quotients' edges."""
    divisors = [1, 2, 3, 5, 7, 9, 49, 63, 64, 65, 641, 2**16 - 1, 2**30 + 1, 2**31 - 1]
    for d in divisors:
        n = torch.tensor([q * d + r for q in (0, 1, 2, 3, 1000, (2**31 - 1) // d) for r in (-1, 0, 1, d - 1)])
        n = torch.cat([n[(n >= 0) & (n < 2**31)], torch.tensor([2**31 - 1])])
        assert gpu.divided(n.tolist(), d) == (n // d).tolist()


def test_too_large_is_said() -> None:
    sizes = [1, 1, 2**31, 64, 8, 1, 1, 1, 1, 0, 0, 1, 1, 1, 2**31]
    with pytest.raises(RuntimeError, match=r"xnor_conv2d: more than 2\^31 - 129 pixels"):
        gpu.xnor_conv2d(None, None, None, None, sizes, False, False, 90, 132, None, None)
    with pytest.raises(RuntimeError, match=r"xnor_pack: more than 2\^31 - 2\^16 channels"):
        gpu.xnor_pack_float32(None, None, None, 1, 2**32, 1, None)
    with pytest.raises(RuntimeError, match=r"xnor_pack: more than 2\^31 - 2\^16 channels"):
        gpu.xnor_pack_float32(None, None, None, 2**31, 64, 1, None)
