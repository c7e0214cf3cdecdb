"""Layers of signs: binarised inputs, binarised weights, in the order of XNOR-Net."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as TF
from torch import Tensor

from .. import functional as F
from .._functional_binary import check_estimator

__all__ = ["BinaryConv2d", "BinaryLinear", "Twice", "decouple"]

MIN_GAMMA = 0.01


class Binary(torch.nn.Module):
    """What the two layers share: normalise, binarise, multiply by binary weights, scale."""

    weight: Tensor
    bias: Any
    norm: torch.nn.Module | None
    _channel_dim: int
    _spatial: int  # dimensions of an image

    def _init_binary(
        self,
        channels: int,
        norm: bool,
        estimator: str,
        strength: float | None,
        gradient: str,
        scale: bool,
        input_scale: bool,
    ) -> None:
        where = type(self).__name__
        self.strength = check_estimator(estimator, strength, where)
        if gradient not in F.GRADIENTS:
            raise ValueError(f"{where}: unknown gradient {gradient!r}; accepted: {', '.join(F.GRADIENTS)}")
        self.estimator, self.gradient = estimator, gradient
        self.scale, self.input_scale = scale, input_scale
        kind = torch.nn.BatchNorm1d if self._spatial == 0 else torch.nn.BatchNorm2d
        like: dict[str, Any] = {"device": self.weight.device, "dtype": self.weight.dtype}
        self.norm = kind(channels, **like) if norm else None

    def normalise(self, x: Tensor) -> Tensor:
        """Batch norm; in eval mode x a + b, rounded after the product and after the sum, on any machine."""
        if self.norm is None:
            return x
        shape = (-1, *(1,) * self._spatial)
        if self.norm.training:
            flat = x if self._spatial else x.reshape(-1, x.shape[-1])
            y: Tensor = self.norm(flat)
            return y.reshape(x.shape)
        a, b = self.affine()
        return x * a.reshape(shape) + b.reshape(shape)

    def affine(self) -> tuple[Tensor, Tensor]:
        """(a, b) [C] of the norm in eval mode: gamma / sqrt(var + eps) and beta - mean a."""
        norm = self.norm
        assert isinstance(norm, torch.nn.modules.batchnorm._BatchNorm)
        assert norm.running_mean is not None and norm.running_var is not None
        a = norm.weight / (norm.running_var + norm.eps).sqrt()
        return a, norm.bias - norm.running_mean * a

    def binarise(self, x: Tensor) -> Tensor:
        """The layer's input as its product sees it."""
        strength = self.strength if self.estimator in ("steep", "swish") else None
        if self.estimator == "stochastic" and not self.training:
            return F.sign_ste(x, "hard-tanh")
        return F.sign_ste(x, self.estimator, strength=strength)

    def filter_scale(self) -> Tensor:
        """alpha [O]; ones without `scale`."""
        weight = self.weight
        if not self.scale:
            return weight.new_ones(len(weight))
        alpha = F.binary_weight(weight.detach())[1]
        if torch.is_grad_enabled() and weight.requires_grad:
            mean = weight.abs().flatten(1).mean(1)
            alpha = alpha + (mean - mean.detach())  # + 0, with alpha's gradient
        return alpha

    def forward(self, x: Tensor) -> Tensor:
        """BN, sign, product: see the class."""
        h = self.normalise(x)
        s = self.binarise(h)
        if self.training:
            weight = F.binary_weight(self.weight, self.gradient)[0] if self.scale else self._signs()
            y = self._product(s, weight)
        else:  # sums of signs are exact, so that packed bits can give the same to the bit
            alpha = self.filter_scale().reshape(-1, *(1,) * self._spatial)
            y = self._product(s, self._signs()) * alpha
        if self.input_scale:
            y = y * self._input_scale(h)
        return y if self.bias is None else y + self.bias.reshape(-1, *(1,) * self._spatial)

    def _signs(self) -> Tensor:
        return F.sign_ste(self.weight, "hard-tanh")

    def _product(self, s: Tensor, weight: Tensor) -> Tensor:
        raise NotImplementedError

    def _input_scale(self, h: Tensor) -> Tensor:
        raise NotImplementedError

    @torch.no_grad()
    def project_(self) -> None:
        """After a step of the optimiser: each weight less its mean over input channels, clamped to [-1, 1];
        the norm's gamma at least 0.01, so that a channel never loses its sign.
        """
        if self.weight.shape[1] > 1:
            self.weight.sub_(self.weight.mean(1, keepdim=True))
        self.weight.clamp_(-1, 1)
        if self.norm is not None:
            gamma = self.norm.weight
            assert isinstance(gamma, Tensor)
            gamma.clamp_(min=MIN_GAMMA)

    def extra_repr(self) -> str:
        shown = f"{super().extra_repr()}, estimator={self.estimator!r}"
        return shown + ", input_scale=True" * self.input_scale


class BinaryLinear(Binary, torch.nn.Linear):
    """A linear layer of signs: y = alpha_o sum_i sign(w_oi) sign(BN(x)_i) + bias.

    Rastegari et al. 2016 (arXiv 1603.05279), section 3: batch norm comes before sign, so that few activations
    lie where sign loses them; alpha_o = ||w_o||_1 / n (`vdropkern.functional.binary_weight`). Train with
    `vdropkern.attach_projection(optimizer, net)`, which keeps the weights centred and in [-1, 1].
    `vdropkern.binarize` makes a net run on packed bits, with the results of eval mode to the bit.

    Args:
        in_features, out_features, device, dtype: as torch.nn.Linear.
        bias: none by default: a norm that follows would take it away.
        norm: whether the layer begins with BatchNorm1d.
        estimator, strength: how the input is binarised, and the stand-in for sign's derivative; see
            `vdropkern.functional.sign_ste`. In eval mode ``stochastic`` takes the sign.
        gradient: of the weights, ``corrected`` or ``original``; see `binary_weight`.
        scale: whether alpha is used; else 1.
        input_scale: whether y is multiplied by K = mean_i |BN(x)_i| (section 3.2, equation 11). The authors
            left it out in the end: it costs more than it brings.

    Shapes: x [*, I] -> y [*, O]; weight [O, I].

    Raises:
        ValueError: unknown estimator or gradient, strength out of range.
    """

    _channel_dim, _spatial = -1, 0

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        *,
        norm: bool = True,
        estimator: str = "hard-tanh",
        strength: float | None = None,
        gradient: str = "corrected",
        scale: bool = True,
        input_scale: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias=bias, device=device, dtype=dtype)
        self._init_binary(in_features, norm, estimator, strength, gradient, scale, input_scale)

    def _product(self, s: Tensor, weight: Tensor) -> Tensor:
        return TF.linear(s, weight)

    def _input_scale(self, h: Tensor) -> Tensor:
        return h.abs().mean(-1, keepdim=True)


class BinaryConv2d(Binary, torch.nn.Conv2d):
    """A convolution of signs: y = alpha_o conv(sign(BN(x)), sign(w)) + bias.

    As `BinaryLinear`. Padding adds zeros after the sign: what lies outside counts as 0, not as -1 or +1.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, device, dtype: as
            torch.nn.Conv2d.
        bias, norm, estimator, strength, gradient, scale: as `BinaryLinear`, with BatchNorm2d.
        input_scale: whether y is multiplied by K, the mean of |BN(x)| over the channels, averaged over the
            window of each output (section 3.2, equation 11).

    Shapes: x [N, C, H, W] -> y [N, O, H', W'], without N where the norm does not train; weight
    [O, C / groups, kh, kw].

    Raises:
        ValueError: as `BinaryLinear`, and as torch.nn.Conv2d.
    """

    _channel_dim, _spatial = 1, 2

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = False,
        *,
        norm: bool = True,
        estimator: str = "hard-tanh",
        strength: float | None = None,
        gradient: str = "corrected",
        scale: bool = True,
        input_scale: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
            device=device, dtype=dtype,
        )  # fmt: skip
        self._init_binary(in_channels, norm, estimator, strength, gradient, scale, input_scale)

    def _product(self, s: Tensor, weight: Tensor) -> Tensor:
        return TF.conv2d(s, weight, None, self.stride, self.padding, self.dilation, self.groups)

    def _input_scale(self, h: Tensor) -> Tensor:
        mean = h.abs().mean(-3, keepdim=True)
        kh, kw = self.kernel_size
        box = mean.new_full((1, 1, kh, kw), 1 / (kh * kw))
        return TF.conv2d(mean, box, None, self.stride, self.padding, self.dilation)


class Twice(torch.nn.Module):
    """x beside itself along the channels, for the two halves of a decoupled layer."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """x [.., C, ..] -> [.., 2 C, ..]."""
        return torch.cat([x, x], self.dim)


@torch.no_grad()
def decouple(layer: Binary) -> torch.nn.Sequential:
    """BinaryDuo: a layer with ternary activations as one of twice as many binary ones, computing the same.

    Kim et al. 2020 (arXiv 2002.06517), section 5: a net is trained with activations 0, 1/2, 1, whose gradient
    estimates are better, then each becomes the sum of two of 0, 1 with thresholds 1/4 higher and lower and
    half the weight, which are trained on as a binary net.

    Args:
        layer: with estimator ``ternary`` and a norm, whose shift takes up the two thresholds.

    Returns:
        `Twice`, then a layer with estimator ``clipped``, 2 C channels and norms of their own.

    Raises:
        ValueError: another estimator, no norm, no scale (which takes up the halved weights), groups, or an
            input scale.
    """
    if not isinstance(layer, Binary):
        raise TypeError(f"decouple: layer must be a BinaryLinear or BinaryConv2d, got {type(layer).__name__}")
    if layer.estimator != "ternary" or layer.norm is None or not layer.scale:
        raise ValueError(f"decouple: the layer must have a norm, a scale, estimator 'ternary', got {layer}")
    if getattr(layer, "groups", 1) != 1 or layer.input_scale:
        raise ValueError(f"decouple: layers with groups or an input scale are not supported, got {layer}")
    twin = copy.deepcopy(layer)
    twin.estimator = "clipped"
    twin.weight = torch.nn.Parameter(torch.cat([layer.weight, layer.weight], 1) / 2)
    norm = twin.norm
    assert isinstance(norm, torch.nn.modules.batchnorm._BatchNorm)
    for name, t in (*norm.named_parameters(), *norm.named_buffers()):
        if t.ndim:
            doubled = torch.cat([t, t])
            setattr(norm, name, torch.nn.Parameter(doubled) if isinstance(t, torch.nn.Parameter) else doubled)
    half = norm.num_features
    norm.num_features = 2 * half
    norm.bias[:half] += 0.25
    norm.bias[half:] -= 0.25
    setattr(twin, "in_channels" if layer._spatial else "in_features", 2 * half)
    return torch.nn.Sequential(Twice(layer._channel_dim), twin)
