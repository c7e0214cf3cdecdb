"""Packed signs in Triton: bits that differ, counted word by word over a tile of pixels and outputs.

The tensor cores have no product of bits that Triton knows. Unpacked to bytes of -1 and +1 they would multiply
(int8), but unpacking takes eight times the instructions that counting does in C++: see docs/gpu.md. Packed
tensors are read and written as int32, two to a word.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._launch import launch_on, refuse_double
from ..linear_lrt.triton_kernels import tile_of
from .reference import OUTPUTS, output_size, words_of

BITS = tl.constexpr(32)
PACK_PIXELS = 128  # a program's, of half a word
TILE = (128, 64)  # pixels, outputs
GROUP = 8  # rows of tiles in a band
OPTIONS = {"num_warps": 8, "enable_fp_fusion": False}  # alpha z + bias is rounded twice


@triton.jit
def packed(bits):
    """bool [..., 32] -> int32 [...]."""
    place = tl.arange(0, BITS)
    return tl.sum(bits.to(tl.int32) << place, axis=len(bits.shape) - 1)


@triton.jit
def pack_kernel(
    x, threshold, flip, out, pixels, channels, inner, halves,
    THRESHOLD: tl.constexpr, FLIP: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """out [pixels, halves] of x [pixels / inner, channels, inner]."""
    half = tl.program_id(0) % halves
    pixel = (tl.program_id(0) // halves).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
    channel = half * BITS + tl.arange(0, BITS)
    at = (pixel // inner * channels)[:, None] + channel[None, :]
    inside = (pixel < pixels)[:, None] & (channel < channels)[None, :]
    value = tl.load(x + at * inner + (pixel % inner)[:, None], inside, 0.0).to(tl.float32)
    t = tl.zeros((BITS,), tl.float32)
    if THRESHOLD:
        t = tl.load(threshold + channel, channel < channels, 0.0)
    word = packed(value < t[None, :])
    if FLIP:
        word = word ^ tl.load(flip + half)
    tl.store(out + pixel * halves + half, word, pixel < pixels)


@triton.jit
def product_kernel(
    a, w, scale, shift, out, pixels, outputs, channels, height, width, out_height, out_width, words,
    reduction, out_n, out_o, out_p, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w,
    KW: tl.constexpr, PACKED: tl.constexpr, SHIFT: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """scale z + shift, or PACKED: (z < scale) ^ shift; words and reduction count int32s."""
    tile_m, tile_n = tile_of(pixels, outputs, BLOCK_M, BLOCK_N, GROUP)
    pixel = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    output = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    here = output < outputs
    image = pixel // (out_height * out_width)
    in_image = pixel % (out_height * out_width)
    first_h = in_image // out_width * stride_h - padding_h
    first_w = in_image % out_width * stride_w - padding_w
    of_image = a + image.to(tl.int64) * height * width * words
    # eight outputs' words of 64 bits lie beside each other
    of_output = w + (output // 8).to(tl.int64) * reduction * 8 + output % 8 * 2
    signs = tl.zeros((BLOCK_M,), tl.int32)  # in a pixel's window, those outside of the image left out
    differ = tl.zeros((BLOCK_M, BLOCK_N), tl.int32)
    for k in range(reduction):
        tap = k // words
        word = k % words
        h = first_h + tap // KW * dilation_h
        x = first_w + tap % KW * dilation_w
        there = (h >= 0) & (h < height) & (x >= 0) & (x < width) & (pixel < pixels)
        pixel_bits = tl.load(of_image + (h * width + x) * words + word, there, 0)
        weight_bits = tl.load(of_output + (k // 2 * 16 + k % 2), here, 0)
        counted = tl.where(there, -1, 0)
        signs += counted & tl.minimum(tl.maximum(channels - word * BITS, 0), BITS)
        different = (pixel_bits[:, None] ^ weight_bits[None, :]) & counted[:, None]
        differ += tl.inline_asm_elementwise("popc.b32 $0, $1;", "=r,r", [different], tl.int32, True, 1)
    z = signs[:, None] - 2 * differ
    if PACKED:
        below = (z < tl.load(scale + output, here, 0)[None, :]) & here[None, :]
        packed_word = packed(tl.reshape(below, (BLOCK_M, BLOCK_N // BITS, BITS)))
        half = tile_n * (BLOCK_N // BITS) + tl.arange(0, BLOCK_N // BITS)
        packed_word = packed_word ^ tl.load(shift + half)[None, :]
        to = out + pixel.to(tl.int64)[:, None] * out_p + half[None, :]
        tl.store(to, packed_word, (pixel < pixels)[:, None])
    else:
        y = z.to(tl.float32) * tl.load(scale + output, here, 0.0)[None, :]
        if SHIFT:
            y = y + tl.load(shift + output, here, 0.0)[None, :]
        at = image.to(tl.int64)[:, None] * out_n + in_image.to(tl.int64)[:, None] * out_p
        at += output.to(tl.int64)[None, :] * out_o
        tl.store(out + at, y, (pixel < pixels)[:, None] & here[None, :])


def xnor_pack(x: Tensor, threshold: Tensor | None, flip: Tensor | None, channel_dim: int) -> Tensor:
    """See `reference.xnor_pack`."""
    refuse_double("xnor_pack", x)
    dim = channel_dim % x.ndim
    last = dim == 1 and x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    dense = x if last else x.contiguous()
    channels, sizes = x.shape[dim], (*x.shape[:dim], *x.shape[dim + 1 :])
    bits = x.new_empty((*sizes, words_of(channels)), dtype=torch.int64)
    inner = 1 if last else x.shape[dim + 1 :].numel()
    halves = 2 * words_of(channels)
    if bits.numel():
        pixels = bits.numel() * 2 // halves
        with launch_on(x):
            pack_kernel[(triton.cdiv(pixels, PACK_PIXELS) * halves,)](
                dense, None if threshold is None else threshold.float().contiguous(), _as_int32(flip),
                _as_int32(bits), pixels, channels, inner, halves, THRESHOLD=threshold is not None,
                FLIP=flip is not None, PIXELS=PACK_PIXELS,
            )  # fmt: skip
    return bits


def _as_int32(words: Tensor | None) -> Tensor | None:
    return None if words is None else words.contiguous().view(torch.int32)


def launch_options(kernel_w: int) -> dict[str, Any]:
    """Compile-time arguments of the product."""
    return {"KW": kernel_w, "BLOCK_M": TILE[0], "BLOCK_N": TILE[1], "GROUP": GROUP, **OPTIONS}


def _product(
    bits: Tensor, weight: Tensor, scale: Tensor, shift: Tensor | None, out: Tensor,
    steps: tuple[int, int, int], packed: bool, channels: int, *geometry: int,
) -> Tensor:  # fmt: skip
    """Launch; `steps`: of `out` from image to image, output to output, pixel to pixel."""
    kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w = geometry
    n, height, width, _ = bits.shape
    size = (
        output_size(height, kernel_h, stride_h, pad_h, dilation_h),
        output_size(width, kernel_w, stride_w, pad_w, dilation_w),
    )
    pixels, outputs, words = n * size[0] * size[1], scale.numel(), 2 * words_of(channels)
    if max(pixels, height * width * words, kernel_h * kernel_w * words * BITS.value) > 2**31 - 1:
        raise ValueError("xnor_conv2d: more than 2^31 - 1 pixels, or words of an image; split the batch")
    if weight.numel() != -(-outputs // OUTPUTS) * kernel_h * kernel_w * words_of(channels) * OUTPUTS:
        raise ValueError(f"xnor_conv2d: weight {tuple(weight.shape)} does not fit {outputs} outputs")
    options = launch_options(kernel_w)
    tiles = triton.cdiv(pixels, options["BLOCK_M"]) * triton.cdiv(outputs, options["BLOCK_N"])
    if out.numel():
        with launch_on(bits):
            product_kernel[(tiles,)](
                _as_int32(bits), _as_int32(weight), scale.contiguous(), shift, out, pixels, outputs, channels,
                height, width, *size, words, kernel_h * kernel_w * words, *steps, stride_h, stride_w, pad_h,
                pad_w, dilation_h, dilation_w, PACKED=packed, SHIFT=shift is not None, **options,
            )  # fmt: skip
    return out


def xnor_conv2d(
    bits: Tensor, weight: Tensor, alpha: Tensor, bias: Tensor | None, channels: int, *rest: Any
) -> Tensor:
    """See `reference.xnor_conv2d`."""
    from . import _fake

    y = _fake(bits, weight, alpha, bias, channels, *rest)
    steps = (y.stride(0), y.stride(1), y.stride(3) if rest[-1] else 1)
    shift = None if bias is None else bias.contiguous()
    return _product(bits, weight, alpha, shift, y, steps, False, channels, *rest[:-1])


def xnor_conv2d_bits(
    bits: Tensor, weight: Tensor, threshold: Tensor, flip: Tensor, channels: int, *geometry: Any
) -> Tensor:
    """See `reference.xnor_conv2d_bits`."""
    from . import _bits_fake

    packed = _bits_fake(bits, weight, threshold, flip, channels, *geometry)
    out = packed.view(torch.int32)
    steps = (0, 0, 2 * words_of(threshold.numel()))
    _product(bits, weight, threshold, _as_int32(flip), out, steps, True, channels, *geometry)
    return packed
