"""Products of signs on packed bits, as convolutions of +-1 in float64: exact, since all are integers."""

from __future__ import annotations

import torch
import torch.nn.functional as TF
from torch import Tensor

from ..sign_ste.reference import WORD, pack_bits, unpack_bits

OUTPUTS = 8  # whose words lie beside each other in packed weights


def words_of(channels: int) -> int:
    """64-bit words that hold a bit for each of so many channels."""
    return -(-channels // WORD)


def output_size(size: int, kernel: int, stride: int, pad: int, dilation: int) -> int:
    """Outputs of a convolution along one dimension."""
    return (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1


def xnor_pack(x: Tensor, threshold: Tensor | None, flip: Tensor | None, channel_dim: int) -> Tensor:
    """int64 [*rest, words]: bit c is (x_c < threshold_c) ^ flip_c, x's other dimensions in order."""
    last = x.movedim(channel_dim, -1)
    bits = pack_bits(last < (0 if threshold is None else threshold))
    return bits if flip is None else bits ^ flip


def pack_weight(weight: Tensor) -> Tensor:
    """Signs of [O, C, kh, kw] as int64 [ceil(O / 8), kh kw, words, 8]; outputs beyond O are zero."""
    out, channels, kh, kw = weight.shape
    bits = pack_bits((weight < 0).permute(0, 2, 3, 1).reshape(out, kh * kw, channels))
    blocks = -(-out // OUTPUTS)
    bits = torch.cat([bits, bits.new_zeros(blocks * OUTPUTS - out, *bits.shape[1:])])
    return bits.reshape(blocks, OUTPUTS, *bits.shape[1:]).permute(0, 2, 3, 1).contiguous()


def unpack_weight(packed: Tensor, out: int, channels: int, kernel: tuple[int, int]) -> Tensor:
    """The signs, float64 [O, C, kh, kw]."""
    blocks, taps, words, _ = packed.shape
    bits = packed.permute(0, 3, 1, 2).reshape(blocks * OUTPUTS, taps, words)[:out]
    signs = 1.0 - 2.0 * unpack_bits(bits, channels).double()
    return signs.permute(0, 2, 1).reshape(out, channels, *kernel)


def _sums(
    bits: Tensor,  # [N, H, W, words]
    weight: Tensor,
    out: int,
    channels: int,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
) -> Tensor:
    """z: sums of signs over the taps inside the image, [N, O, H', W'], integers in float64."""
    a = (1.0 - 2.0 * unpack_bits(bits, channels).double()).permute(0, 3, 1, 2)
    w = unpack_weight(weight, out, channels, (kernel_h, kernel_w))
    return TF.conv2d(a, w, None, (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w))


def xnor_conv2d(
    bits: Tensor,
    weight: Tensor,
    alpha: Tensor,  # [O]
    bias: Tensor | None,  # [O]
    channels: int,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    pixels_first: bool,
) -> Tensor:
    """alpha z + bias in float32, [N, O, H', W'], rounded after the product and after the sum."""
    geometry = (kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w)
    z = _sums(bits, weight, alpha.numel(), channels, *geometry).float()
    y = z * alpha[:, None, None]
    if bias is not None:
        y = y + bias[:, None, None]
    return y.contiguous(memory_format=torch.channels_last if pixels_first else torch.contiguous_format)


def xnor_conv2d_bits(
    bits: Tensor,
    weight: Tensor,
    threshold: Tensor,  # int32 [O]
    flip: Tensor,  # int64 [words of O]
    channels: int,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
) -> Tensor:
    """int64 [N, H', W', words of O]: bit o is (z_o < threshold_o) ^ flip_o."""
    geometry = (kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w)
    z = _sums(bits, weight, threshold.numel(), channels, *geometry)
    return xnor_pack(z, threshold.double()[:, None, None].movedim(0, -1), flip, 1)
