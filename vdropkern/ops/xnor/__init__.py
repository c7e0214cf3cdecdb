"""``xnor_pack``, ``xnor_conv2d``, ``xnor_conv2d_bits``: products of signs on packed bits, for inference."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._backend import choose
from .._register import register
from . import reference
from .reference import OUTPUTS, output_size, pack_weight, unpack_weight, words_of

__all__ = [
    "OUTPUTS",
    "output_size",
    "pack_weight",
    "unpack_weight",
    "words_of",
    "xnor_conv2d",
    "xnor_conv2d_bits",
    "xnor_pack",
]

_GEOMETRY = (
    "int channels, int kernel_h, int kernel_w, int stride_h, int stride_w, int pad_h, int pad_w,"
    " int dilation_h, int dilation_w"
)
PACK_SCHEMA = "xnor_pack(Tensor x, Tensor? threshold, Tensor? flip, int channel_dim) -> Tensor"
SCHEMA = (
    "xnor_conv2d(Tensor bits, Tensor weight, Tensor alpha, Tensor? bias,"
    f" {_GEOMETRY}, bool pixels_first) -> Tensor"
)
BITS_SCHEMA = (
    f"xnor_conv2d_bits(Tensor bits, Tensor weight, Tensor threshold, Tensor flip, {_GEOMETRY}) -> Tensor"
)


def _pack_fake(x: Tensor, threshold: Tensor | None, flip: Tensor | None, channel_dim: int) -> Tensor:
    sizes = list(x.shape)
    channels = sizes.pop(channel_dim)
    return x.new_empty((*sizes, words_of(channels)), dtype=torch.int64)


def _image(bits: Tensor, geometry: tuple[int, ...]) -> tuple[int, int]:
    kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w = geometry
    return (
        output_size(bits.shape[1], kernel_h, stride_h, pad_h, dilation_h),
        output_size(bits.shape[2], kernel_w, stride_w, pad_w, dilation_w),
    )


def _fake(bits: Tensor, weight: Tensor, alpha: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
    height, width = _image(bits, rest[1:9])
    y = alpha.new_empty((bits.shape[0], alpha.numel(), height, width))
    return y.contiguous(memory_format=torch.channels_last if rest[9] else torch.contiguous_format)


def _bits_fake(bits: Tensor, weight: Tensor, threshold: Tensor, flip: Tensor, *rest: Any) -> Tensor:
    return bits.new_empty((bits.shape[0], *_image(bits, rest[1:9]), words_of(threshold.numel())))


_TRITON = f"{__name__}.triton"
_pack_op = register(PACK_SCHEMA, reference.xnor_pack, _pack_fake, triton=_TRITON)
_op = register(SCHEMA, reference.xnor_conv2d, _fake, triton=_TRITON)
_bits_op = register(BITS_SCHEMA, reference.xnor_conv2d_bits, _bits_fake, triton=_TRITON)


def xnor_pack(x: Tensor, threshold: Tensor | None, flip: Tensor | None, channel_dim: int) -> Tensor:
    """See `reference.xnor_pack`."""
    bits: Tensor = choose(_pack_op, x)(x, threshold, flip, channel_dim)
    return bits


def xnor_conv2d(bits: Tensor, *arguments: Any) -> Tensor:
    """See `reference.xnor_conv2d`."""
    y: Tensor = choose(_op, bits)(bits, *arguments)
    return y


def xnor_conv2d_bits(bits: Tensor, *arguments: Any) -> Tensor:
    """See `reference.xnor_conv2d_bits`."""
    packed: Tensor = choose(_bits_op, bits)(bits, *arguments)
    return packed
