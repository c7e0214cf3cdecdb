"""The three products of `conv2d_lrt` in Triton: implicit GEMMs, two accumulators over one load of an operand.

A column is a pixel of one image, so that a tile's noise is four columns a draw as everywhere; operands are
gathered from the image where they are multiplied, and no patch is stored. A weight's index is (channel, row,
column) of its kernel; `group` is that of a grouped convolution. Bounds are masks; offsets between images and
channels are 64 bits wide.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .._triton import dot, normal_tile, square
from ..linear_lrt.triton_kernels import scale_of, tile_of, weights_of


@triton.jit
def load_weights(
    mu, log, at, inside, exp_clip,
    FORM: tl.constexpr, CLIP: tl.constexpr, VARIANCE: tl.constexpr, ONCE: tl.constexpr,
):  # fmt: skip
    """(mean, variance) operands of the weights at `at`; outside they meet zeros alone."""
    scale = scale_of(tl.load(log + at, inside, 0.0), VARIANCE, ONCE)
    return weights_of(tl.load(mu + at, inside, 0.0), scale, exp_clip, FORM, CLIP, False)


@triton.jit
def tile_of_image(rows, images, pixels, band, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """(group, rows of this tile in it, image, pixels), in bands of `band` rows of tiles."""
    tiles_n = tl.cdiv(pixels, BLOCK_N)
    tile_m, tile_n = tile_of(rows, images * tiles_n, BLOCK_M, 1, band)
    row = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    pixel = tile_n % tiles_n * BLOCK_N + tl.arange(0, BLOCK_N)
    return tl.program_id(1), row, (tile_n // tiles_n).to(tl.int64), pixel


@triton.jit
def gathered(
    k, pixel, width, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w,
    KW: tl.constexpr, KK: tl.constexpr,
):  # fmt: skip
    """Row and column of the input that output pixel `pixel` meets at place `k` of the kernel."""
    h = pixel // width * stride_h - padding_h + k % KK // KW * dilation_h
    w = pixel % width * stride_w - padding_w + k % KW * dilation_w
    return h, w


@triton.jit(do_not_specialize=["band"])
def conv_forward_kernel(
    x, mu, log, bias, seed, y, r, images, band, channels, height, width, out_channels, out_width, pixels,
    x_n, x_c, x_h, x_w, y_n, y_c, y_p, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w,
    eps, exp_clip, FORM: tl.constexpr, BIAS: tl.constexpr, CLIP: tl.constexpr, MEAN: tl.constexpr,
    VARIANCE: tl.constexpr, KW: tl.constexpr, KK: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr, ONCE: tl.constexpr,
):  # fmt: skip
    """y, r [images, groups * out_channels, pixels]; channels, out_channels: of a group."""
    group, row, image, pixel = tile_of_image(out_channels, images, pixels, band, BLOCK_M, BLOCK_N)
    depth = channels * KK
    out = group * out_channels + row
    weight_row = out.to(tl.int64)[:, None] * depth
    x += image * x_n + group.to(tl.int64) * channels * x_c
    mean = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    variance = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k0 in range(0, depth, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K)
        inside = (row[:, None] < out_channels) & (k[None, :] < depth)
        w_mean, w_variance = load_weights(
            mu, log, weight_row + k[None, :], inside, exp_clip, FORM, CLIP, VARIANCE, ONCE
        )
        h, w = gathered(
            k[:, None], pixel[None, :], out_width, stride_h, stride_w, padding_h, padding_w, dilation_h,
            dilation_w, KW, KK,
        )  # fmt: skip
        there = (h >= 0) & (h < height) & (w >= 0) & (w < width)
        there &= (k[:, None] < depth) & (pixel[None, :] < pixels)
        at = (k // KK).to(tl.int64)[:, None] * x_c + h.to(tl.int64) * x_h + w * x_w
        x_tile = tl.load(x + at, there, 0.0)
        mean = dot(w_mean, x_tile, mean, MEAN)
        variance = dot(w_variance, square(x_tile, VARIANCE), variance, VARIANCE)
    total = tl.num_programs(1) * out_channels
    inside = (row[:, None] < out_channels) & (pixel[None, :] < pixels)
    at = image * y_n + out.to(tl.int64)[:, None] * y_c + pixel.to(tl.int64)[None, :] * y_p
    std = tl.sqrt(variance + eps)
    noise = normal_tile(seed, image * total + out, tl.min(pixel, 0), pixels, BLOCK_N)
    tl.store(r + at, noise / (2.0 * std), inside)
    if BIAS:
        mean += tl.load(bias + out, row < out_channels, 0.0).to(tl.float32)[:, None]
    tl.store(y + at, (mean + std * noise).to(y.dtype.element_ty), inside)


@triton.jit(do_not_specialize=["band"])
def conv_input_gradient_kernel(
    dy, g2, x, mu, log, dx, images, band, channels, width, out_channels, out_height, out_width, pixels,
    x_n, x_c, x_p, y_n, y_c, y_h, y_w, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w,
    exp_clip, FORM: tl.constexpr, CLIP: tl.constexpr, MEAN: tl.constexpr, VARIANCE: tl.constexpr,
    KW: tl.constexpr, KK: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    ONCE: tl.constexpr,
):  # fmt: skip
    """dx = conv_T(dy, mean) + x conv_T(g2, sigma^2); pixels are the input's, the depth (output, place)."""
    group, row, image, pixel = tile_of_image(channels, images, pixels, band, BLOCK_M, BLOCK_N)
    depth = out_channels * KK
    first = group.to(tl.int64) * out_channels
    image_at = image * y_n + first * y_c
    mean = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    variance = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k0 in range(0, depth, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K)
        out = (k // KK).to(tl.int64)
        inside = (row[:, None] < channels) & (k[None, :] < depth)
        at = ((first + out[None, :]) * channels + row[:, None]) * KK + k[None, :] % KK
        w_mean, w_variance = load_weights(mu, log, at, inside, exp_clip, FORM, CLIP, VARIANCE, ONCE)
        # the output pixel whose window has this input pixel at place k
        h = pixel[None, :] // width + padding_h - k[:, None] % KK // KW * dilation_h
        w = pixel[None, :] % width + padding_w - k[:, None] % KW * dilation_w
        there = (h >= 0) & (w >= 0) & (h % stride_h == 0) & (w % stride_w == 0)
        h = h // stride_h
        w = w // stride_w
        there &= (h < out_height) & (w < out_width) & (k[:, None] < depth) & (pixel[None, :] < pixels)
        from_y = image_at + out[:, None] * y_c + h.to(tl.int64) * y_h + w * y_w
        mean = dot(w_mean, tl.load(dy + from_y, there, 0.0), mean, MEAN)
        variance = dot(w_variance, tl.load(g2 + from_y, there, 0.0), variance, VARIANCE)
    inside = (row[:, None] < channels) & (pixel[None, :] < pixels)
    at = image * x_n + (group * channels + row).to(tl.int64)[:, None] * x_c
    at += pixel.to(tl.int64)[None, :] * x_p
    value = tl.load(x + at, inside, 0.0).to(tl.float32)
    tl.store(dx + at, (mean + value * variance).to(dx.dtype.element_ty), inside)


@triton.jit(do_not_specialize=["band"])
def conv_weight_gradient_kernel(
    dy, g2, x, partial, images, band, channels, height, width, out_channels, out_width, pixels,
    x_n, x_c, x_h, x_w, y_n, y_c, y_p, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w,
    MEAN: tl.constexpr, VARIANCE: tl.constexpr, KW: tl.constexpr, KK: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """partial [SPLIT, 2, groups * out_channels, depth]: wgrad(dy, x), wgrad(g2, x^2), each of some pixels."""
    depth = channels * KK
    tile_m, tile_n = tile_of(out_channels, depth, BLOCK_M, BLOCK_N, band)
    row = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    k = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    group = tl.program_id(1)
    out = (group * out_channels + row).to(tl.int64)
    x += group.to(tl.int64) * channels * x_c
    total = images * pixels
    steps = tl.cdiv(tl.cdiv(total, BLOCK_K), SPLIT)
    begin = tl.program_id(2) * steps * BLOCK_K
    mean = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    variance = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for p0 in range(begin, min(total, begin + steps * BLOCK_K), BLOCK_K):
        p = p0 + tl.arange(0, BLOCK_K)
        image = (p // pixels).to(tl.int64)
        pixel = p % pixels
        inside = (row[:, None] < out_channels) & (p[None, :] < total)
        from_y = (image * y_n + pixel * y_p)[None, :] + out[:, None] * y_c
        h, w = gathered(
            k[None, :], pixel[:, None], out_width, stride_h, stride_w, padding_h, padding_w, dilation_h,
            dilation_w, KW, KK,
        )  # fmt: skip
        there = (h >= 0) & (h < height) & (w >= 0) & (w < width)
        there &= (k[None, :] < depth) & (p[:, None] < total)
        at = image[:, None] * x_n + (k // KK).to(tl.int64)[None, :] * x_c + h.to(tl.int64) * x_h + w * x_w
        x_tile = tl.load(x + at, there, 0.0)
        mean = dot(tl.load(dy + from_y, inside, 0.0), x_tile, mean, MEAN)
        variance = dot(tl.load(g2 + from_y, inside, 0.0), square(x_tile, VARIANCE), variance, VARIANCE)
    size = tl.num_programs(1).to(tl.int64) * out_channels * depth
    inside = (row[:, None] < out_channels) & (k[None, :] < depth)
    at = tl.program_id(2) * 2 * size + out[:, None] * depth + k[None, :]
    tl.store(partial + at, mean, inside)
    tl.store(partial + size + at, variance, inside)
