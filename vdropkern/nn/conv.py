"""Convolutions with a method, in place of torch.nn.Conv1d and torch.nn.Conv2d."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from .. import functional as F
from ..methods import Method
from .variational import DEFAULT_METHOD, Variational, check_method

__all__ = ["Conv1d", "Conv2d"]

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
_ARGUMENTS = (
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
    "groups",
    "padding_mode",
)


class _Conv(Variational):
    """What the two have in common: torch's own forward pass, and local reparameterisation."""

    _dense_arguments = _ARGUMENTS
    _functions: ClassVar[tuple[Callable[..., Any], Callable[..., Any]]]  # without and with the KL
    stride: tuple[int, ...]
    padding: str | tuple[int, ...]
    dilation: tuple[int, ...]

    def _dense(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y: Tensor = self._conv_forward(x, weight, bias)  # type: ignore[operator]  # torch's
        return y

    def _arguments(self, x: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """x, padded where that is not with zeros, and the geometry."""
        given: dict[str, Any] = {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
            "clip_log_alpha": self.method.clip_at,
        }
        mode: str = self.padding_mode  # type: ignore[assignment]
        if mode != "zeros":
            sides: list[int] = self._reversed_padding_repeated_twice  # type: ignore[assignment]
            x, given["padding"] = torch.nn.functional.pad(x, sides, mode=mode), 0
        return x, given

    def _lrt(
        self, x: Tensor, log_sigma2: Tensor | None, log_alpha: Tensor | None, mean: Tensor | None = None
    ) -> Tensor:
        mu = self.weight if mean is None else mean
        x, given = self._arguments(x)
        y: Tensor = self._functions[0](x, mu, log_sigma2, self.bias, log_alpha=log_alpha, **given)
        return y

    def _lrt_kl(
        self, x: Tensor, log_sigma2: Tensor | None, log_alpha: Tensor | None, prior: str
    ) -> tuple[Tensor, Tensor]:
        x, given = self._arguments(x)
        y, kl = self._functions[1](
            x, self.weight, log_sigma2, self.bias, log_alpha=log_alpha, prior=prior, **given
        )
        return y, kl


class Conv1d(_Conv, torch.nn.Conv1d):
    """torch.nn.Conv1d whose weights carry the noise of a `Method`.

    As `Conv2d`, over one dimension.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device,
            dtype: as torch.nn.Conv1d.
        method: a `vdropkern.methods.Method`.

    Shapes: x [N, C, L] or [C, L] -> y [N, O, L'] or [O, L']; weight [O, C / groups, k]; log_sigma2 as the
    weight; log_alpha [1, 1, 1], [groups, C / groups, 1], [O, 1, 1] or as the weight.

    Raises:
        TypeError: `method` is no Method.
        ValueError: as torch.nn.Conv1d.
    """

    _dense_class = torch.nn.Conv1d
    _functions = (F.conv1d_lrt, F.conv1d_lrt_kl)
    channel_dim = -2

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int],
        stride: int | tuple[int] = 1,
        padding: str | int | tuple[int] = 0,
        dilation: int | tuple[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        method: Method = DEFAULT_METHOD,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_method(method)
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode,
            device=device, dtype=dtype,
        )  # fmt: skip
        self._init_noise(method)


class Conv2d(_Conv, torch.nn.Conv2d):
    """torch.nn.Conv2d whose weights carry the noise of a `Method`; with `SparseVD` they can be pruned.

    In training, by local reparameterisation (Kingma et al. 2015, arXiv 1506.02557; Molchanov et al. 2017,
    arXiv 1701.05369, section 4.1),

        y = conv(x, mu) + bias + sqrt(conv(x^2, sigma^2) + 1e-8) e,   e ~ N(0, 1) iid per element of y,

    so the noise of two pixels is independent, as if each had weights of its own; other methods have their
    noise elsewhere, see `vdropkern.methods`. Evaluation is as `Linear`'s.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device,
            dtype: as torch.nn.Conv2d.
        method: a `vdropkern.methods.Method`.

    Shapes: x [N, C, H, W] (NCHW or channels_last, which y takes over) or [C, H, W] -> y [N, O, H', W'];
    weight [O, C / groups, kh, kw]; log_sigma2 as the weight; log_alpha [1, 1, 1, 1],
    [groups, C / groups, 1, 1], [O, 1, 1, 1] or as the weight, by the method's granularity.

    Raises:
        TypeError: `method` is no Method.
        ValueError: as torch.nn.Conv2d.
    """

    _dense_class = torch.nn.Conv2d
    _functions = (F.conv2d_lrt, F.conv2d_lrt_kl)
    channel_dim = -3

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        method: Method = DEFAULT_METHOD,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_method(method)
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode,
            device=device, dtype=dtype,
        )  # fmt: skip
        self._init_noise(method)
