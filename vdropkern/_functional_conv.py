"""The documented functions of convolutions, which `functional` re-exports."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ._validate import check_clip, check_eps, check_prior
from ._validate_conv import Conv, prepare_conv
from .ops.conv2d_lrt import conv2d_lrt as _conv2d_lrt

LRT_EPS = 1e-8


def _run(
    conv: Conv, x: Tensor, spatial: int, prior: str, eps: float, clip: float | None, where: str
) -> tuple[Tensor, Tensor]:
    """(y in x's dimensions, KL)."""
    if prior != "none":
        check_prior(prior, where, log_alpha=conv.log_alpha is not None)
        if conv.log_alpha is not None and conv.log_alpha.shape != conv.mu.shape:
            raise ValueError(
                f"{where}: log_alpha must have mu's shape, here it is shared: "
                f"{conv.log_alpha.numel()} for {conv.mu.numel()} weights; "
                f"use {where.removesuffix('_kl')} and kl"
            )
    y, kl = _conv2d_lrt(*conv, prior, check_eps(eps, where), check_clip(clip, where))
    if spatial == 1:
        y = y[:, :, 0]
    return (y[0] if x.ndim == spatial + 1 else y), kl


def conv2d_lrt(
    x: Tensor,
    mu: Tensor,
    log_sigma2: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    log_alpha: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    seed: Tensor | int | None = None,
    eps: float = LRT_EPS,
    clip_log_alpha: float | None = None,
) -> Tensor:
    """Convolution with weights N(mu, sigma^2), sampled by local reparameterisation.

    y = conv(x, mu) + bias + sqrt(conv(x^2, sigma^2) + eps) * e, e ~ N(0, 1) iid per element of y, with
    sigma^2 = exp(log_sigma2), or exp(log_alpha) mu^2 (Kingma et al. 2015, arXiv 1506.02557, section 2.3;
    Molchanov et al. 2017, arXiv 1701.05369, section 4.1). Outputs that share a weight get independent noise,
    so y has the right mean and variance, pixel by pixel, but not the covariance of one draw of the weights.
    The variance never sees the bias and runs in float32 (float64 for float64 inputs) whatever x's dtype.

    Args:
        x: [N, C, H, W] or [C, H, W], float32, float64, bfloat16 or float16. NCHW and channels_last are taken
            as they are, other strides are copied; y has x's memory format.
        mu: [O, C / groups, kh, kw], of x's dtype.
        log_sigma2: as mu; meant for [-20, 4].
        bias: [O] or None.
        log_alpha: instead of log_sigma2, a scalar, [C / groups], [O], or of mu's dimensions with mu's sizes
            or 1.
        stride, dilation: int or pair, >= 1.
        padding: int or pair, >= 0, of zeros on both sides; ``"valid"``: none; ``"same"``: y as large as x
            (stride 1; the far side gets the odd one).
        groups: the channels are split into so many convolutions.
        seed: int, int64 tensor of one element, or None: drawn from torch's generator.
        eps: >= 0, added to the variance inside the square root, so that gradients at x = 0 are finite.
        clip_log_alpha: as in `linear_lrt`.

    Returns:
        [N, O, Ho, Wo] or [O, Ho, Wo], of x's dtype; differentiable once in every tensor but the seed. The
        noise of element (n, o, h, w) is that of `philox_normal` at row n O + o, column h Wo + w.

    Raises:
        ValueError: shapes, dtypes or the combination of arguments are wrong; the message names them.
    """
    conv = prepare_conv(
        x, mu, log_sigma2, bias, log_alpha, stride, padding, dilation, groups, seed, 2, "conv2d_lrt"
    )
    return _run(conv, x, 2, "none", eps, clip_log_alpha, "conv2d_lrt")[0]


def conv2d_lrt_kl(
    x: Tensor,
    mu: Tensor,
    log_sigma2: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    log_alpha: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    prior: str = "log-uniform",
    seed: Tensor | int | None = None,
    eps: float = LRT_EPS,
    clip_log_alpha: float | None = None,
) -> tuple[Tensor, Tensor]:
    """`conv2d_lrt` and `kl` of its weights in one op.

    Args:
        x, mu, log_sigma2, bias, log_alpha, stride, padding, dilation, groups, seed, eps, clip_log_alpha: as
            in `conv2d_lrt`; log_alpha must have mu's shape here. The KL is that of the weights as they are,
            clipped or not.
        prior: as in `kl`.

    Returns:
        (y [N, O, Ho, Wo], KL scalar).

    Raises:
        ValueError: as `conv2d_lrt`, or an unknown prior, or a log_alpha that is not of mu's shape.
    """
    check_prior(prior, "conv2d_lrt_kl")
    conv = prepare_conv(
        x, mu, log_sigma2, bias, log_alpha, stride, padding, dilation, groups, seed, 2, "conv2d_lrt_kl"
    )
    return _run(conv, x, 2, prior, eps, clip_log_alpha, "conv2d_lrt_kl")


def conv1d_lrt(
    x: Tensor,
    mu: Tensor,
    log_sigma2: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    log_alpha: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    seed: Tensor | int | None = None,
    eps: float = LRT_EPS,
    clip_log_alpha: float | None = None,
) -> Tensor:
    """`conv2d_lrt` over one dimension: x [N, C, L] or [C, L], mu [O, C / groups, k], the result [N, O, Lo].

    Args:
        x, mu, log_sigma2, bias, log_alpha, stride, padding, dilation, groups, seed, eps, clip_log_alpha: as
            in `conv2d_lrt`, with one spatial dimension instead of two.

    Returns:
        [N, O, Lo] or [O, Lo], of x's dtype; differentiable once in every tensor but the seed.

    Raises:
        ValueError: shapes, dtypes or the combination of arguments are wrong; the message names them.
    """
    conv = prepare_conv(
        x, mu, log_sigma2, bias, log_alpha, stride, padding, dilation, groups, seed, 1, "conv1d_lrt"
    )
    return _run(conv, x, 1, "none", eps, clip_log_alpha, "conv1d_lrt")[0]


def conv1d_lrt_kl(
    x: Tensor,
    mu: Tensor,
    log_sigma2: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    log_alpha: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    prior: str = "log-uniform",
    seed: Tensor | int | None = None,
    eps: float = LRT_EPS,
    clip_log_alpha: float | None = None,
) -> tuple[Tensor, Tensor]:
    """`conv1d_lrt` and `kl` of its weights in one op.

    Args:
        x, mu, log_sigma2, bias, log_alpha, stride, padding, dilation, groups, seed, eps, clip_log_alpha: as
            in `conv1d_lrt`; log_alpha must have mu's shape here.
        prior: as in `kl`.

    Returns:
        (y [N, O, Lo], KL scalar).

    Raises:
        ValueError: as `conv1d_lrt`, or an unknown prior, or a log_alpha that is not of mu's shape.
    """
    check_prior(prior, "conv1d_lrt_kl")
    conv = prepare_conv(
        x, mu, log_sigma2, bias, log_alpha, stride, padding, dilation, groups, seed, 1, "conv1d_lrt_kl"
    )
    return _run(conv, x, 1, prior, eps, clip_log_alpha, "conv1d_lrt_kl")
