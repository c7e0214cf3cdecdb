"""Layers of packed signs, as `binarize` makes them."""

from __future__ import annotations

import torch
from torch import Tensor

from ..nn.binary import Binary, BinaryConv2d
from ..ops.sign_ste.reference import pack_bits
from ..ops.xnor import pack_weight, xnor_conv2d, xnor_conv2d_bits, xnor_pack
from .thresholds import float_threshold, integer_threshold

SIGNS = ("identity", "hard-tanh", "steep", "swish", "polynomial", "stochastic")


def why_not(layer: Binary) -> str | None:
    """Why a layer cannot run on packed bits, or None."""
    if layer.estimator not in SIGNS:
        return f"its activations are those of {layer.estimator!r}, not signs"
    if layer.input_scale:
        return "its input scale needs the activations' magnitudes"
    if layer.weight.dtype != torch.float32:
        return f"its weights are {layer.weight.dtype}, not float32"
    if isinstance(layer, BinaryConv2d):
        if layer.groups != 1:
            return "it has groups"
        if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
            return "its padding is not a number of zeros"
        if layer.kernel_size[0] * layer.kernel_size[1] > 256:
            return "its kernel has more than 256 taps"
    return None


class PackedLayer(torch.nn.Module):
    """A `BinaryLinear` or `BinaryConv2d` in eval mode on packed bits, equal to it to the bit.

    Buffers: ``weight`` int64 [ceil(O / 8), kh kw, ceil(C / 64), 8], a bit a weight; ``alpha`` [O]; ``bias``;
    ``threshold`` [C] and ``flip``: the norm and the sign as a comparison of the input.

    Raises:
        ValueError: the layer cannot run on packed bits; `why_not` says why.
    """

    weight: Tensor
    alpha: Tensor
    bias: Tensor | None
    threshold: Tensor | None
    flip: Tensor | None

    @torch.no_grad()
    def __init__(self, layer: Binary) -> None:
        super().__init__()
        if (reason := why_not(layer)) is not None:
            raise ValueError(f"PackedLayer: {layer} cannot run on packed bits: {reason}")
        self.image = isinstance(layer, BinaryConv2d)
        weight = layer.weight.detach()
        weight = weight if self.image else weight[:, :, None, None]
        self.outputs, self.channels, *kernel = weight.shape
        self.geometry = (*kernel, 1, 1, 0, 0, 1, 1)
        if isinstance(layer, BinaryConv2d):
            assert not isinstance(layer.padding, str)
            self.geometry = (*kernel, *layer.stride, *layer.padding, *layer.dilation)
        self.register_buffer("weight", pack_weight(weight))
        self.register_buffer("alpha", layer.filter_scale().clone())
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().clone())
        self.register_buffer("threshold", None)
        self.register_buffer("flip", None)
        self.signs_of = float_threshold(*layer.affine()) if layer.norm is not None else None
        if self.signs_of is not None:
            self.threshold, self.flip = self.signs_of[0], pack_bits(self.signs_of[1])

    def pack(self, x: Tensor) -> Tensor:
        """The layer's input, normalised and binarised, as bits [N, H, W, words] ([*, words] for linear).

        Raises:
            ValueError: x is not float32, or of another shape.
        """
        fits = x.ndim == 4 if self.image else x.ndim > 0
        if not fits or x.shape[1 if self.image else -1] != self.channels or x.dtype != torch.float32:
            wanted = f"[N, {self.channels}, H, W]" if self.image else f"[*, {self.channels}]"
            raise ValueError(
                f"PackedLayer: x must be float32 {wanted}, got {x.dtype} of shape {tuple(x.shape)}"
            )
        return xnor_pack(x, self.threshold, self.flip, 1 if self.image else -1)

    def _as_image(self, bits: Tensor) -> Tensor:
        return bits if self.image else bits.reshape(-1, 1, 1, bits.shape[-1])

    def from_bits(self, bits: Tensor, pixels_first: bool = False) -> Tensor:
        """Packed input -> float32 output."""
        y = xnor_conv2d(
            self._as_image(bits), self.weight, self.alpha, self.bias, self.channels, *self.geometry,
            pixels_first,
        )  # fmt: skip
        return y if self.image else y.reshape(*bits.shape[:-1], self.outputs)

    def bits_from_bits(self, bits: Tensor, threshold: Tensor, flip: Tensor) -> Tensor:
        """Packed input -> the packed input of the layer whose comparison is given."""
        packed = xnor_conv2d_bits(
            self._as_image(bits), self.weight, threshold, flip, self.channels, *self.geometry
        )
        return packed if self.image else packed.reshape(*bits.shape[:-1], packed.shape[-1])

    def forward(self, x: Tensor) -> Tensor:
        """float32 [N, C, H, W] or [*, I] -> float32, in x's memory format."""
        last = x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
        return self.from_bits(self.pack(x), last)

    def extra_repr(self) -> str:
        kind = f"kernel_size={self.geometry[:2]}, stride={self.geometry[2:4]}, padding={self.geometry[4:6]}"
        return f"{self.channels}, {self.outputs}" + f", {kind}" * self.image


class PackedChain(torch.nn.Module):
    """Packed layers one after the other: between them activations stay bits.

    Each layer's scale, bias, and the next one's norm and sign are one comparison of the integer sum.
    """

    @torch.no_grad()
    def __init__(self, layers: list[PackedLayer]) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(layers)
        for i in range(len(layers) - 1):
            before, after = layers[i], layers[i + 1]
            zeros = torch.zeros(before.outputs)
            t, flip = after.signs_of if after.signs_of is not None else (zeros, zeros.bool())
            most = before.channels * before.geometry[0] * before.geometry[1]
            threshold, flip = integer_threshold(t, flip, before.alpha, before.bias, most)
            self.register_buffer(f"threshold{i}", threshold)
            self.register_buffer(f"flip{i}", pack_bits(flip))

    def forward(self, x: Tensor) -> Tensor:
        """float32 -> float32, in x's memory format."""
        last = x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
        layers = [layer for layer in self.layers if isinstance(layer, PackedLayer)]
        bits = layers[0].pack(x)
        for i, layer in enumerate(layers[:-1]):
            bits = layer.bits_from_bits(bits, getattr(self, f"threshold{i}"), getattr(self, f"flip{i}"))
        return layers[-1].from_bits(bits, last)
