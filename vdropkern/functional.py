"""The documented functions: shapes, validation, autocast, seeds. Layers call these; so may you."""

from __future__ import annotations

import torch
from torch import Tensor

from ._functional_binary import ESTIMATORS, GRADIENTS, binary_weight, sign_ste
from ._functional_conv import LRT_EPS, conv1d_lrt, conv1d_lrt_kl, conv2d_lrt, conv2d_lrt_kl
from ._functional_gate import (
    concrete_dropout_kl,
    gate,
    hard_concrete_mean,
    hard_concrete_penalty,
    log_normal_kl,
    log_normal_mean,
    log_normal_snr,
)
from ._functional_head import multi_sample_head
from ._functional_moments import relu_moments
from ._functional_noise import mul_noise, mul_out_noise
from ._functional_spmm import spmm
from ._functional_weights import GRANULARITIES, flipout, weight_mask, weight_noise, weight_thresholds
from ._validate import (
    as_seed,
    check_clip,
    check_eps,
    check_kl,
    check_prior,
    check_rows_cols,
    new_seed,
    prepare_linear,
)
from .ops.kl import PRIORS
from .ops.kl import kl as _kl
from .ops.kl import kl_grad as _kl_grad
from .ops.linear_lrt import linear_lrt as _linear_lrt
from .ops.philox_bits import philox_bits as _philox_bits
from .ops.philox_normal import philox_normal as _philox_normal

__all__ = [
    "ESTIMATORS",
    "GRADIENTS",
    "GRANULARITIES",
    "PRIORS",
    "binary_weight",
    "concrete_dropout_kl",
    "conv1d_lrt",
    "conv1d_lrt_kl",
    "conv2d_lrt",
    "conv2d_lrt_kl",
    "flipout",
    "gate",
    "hard_concrete_mean",
    "hard_concrete_penalty",
    "kl",
    "kl_value_and_grad",
    "linear_lrt",
    "linear_lrt_kl",
    "log_normal_kl",
    "log_normal_mean",
    "log_normal_snr",
    "mul_noise",
    "mul_out_noise",
    "multi_sample_head",
    "new_seed",
    "philox_bits",
    "philox_normal",
    "relu_moments",
    "sign_ste",
    "spmm",
    "weight_mask",
    "weight_noise",
    "weight_thresholds",
]


def philox_bits(seed: Tensor | int, rows: int, cols: int) -> Tensor:
    """32 random bits an element by Philox4x32-10 (Salmon et al. 2011).

    bits[r, c] is word c % 4 of Philox with key = seed and counter = r * ceil(cols / 4) + c // 4: the same
    integers on every backend and device.

    Args:
        seed: int, or int64 tensor of one element.
        rows, cols: shape of the result, >= 0.

    Returns:
        int64 [rows, cols], values in [0, 2^32).

    Raises:
        ValueError: negative shape, or a seed of another dtype or size.
    """
    check_rows_cols(rows, cols, "philox_bits")
    device = seed.device if isinstance(seed, Tensor) else torch.device("cpu")
    return _philox_bits(as_seed(seed, device, "philox_bits"), rows, cols)


def philox_normal(seed: Tensor | int, rows: int, cols: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normals by Box-Muller from `philox_bits`: z = sqrt(-2 ln u0) (cos, sin)(2 pi u1).

    u = (bits + 1/2) 2^-32, so |z| <= 6.77. Backends agree to a few units in the last place.

    Args:
        seed: int, or int64 tensor of one element.
        rows, cols: shape of the result, >= 0.
        dtype: float32, float64, float16 or bfloat16 (the last two rounded from float32).

    Returns:
        [rows, cols] of `dtype`, on the seed's device.

    Raises:
        ValueError: negative shape, a seed of another dtype or size, or a dtype that is not floating.
    """
    check_rows_cols(rows, cols, "philox_normal")
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"philox_normal: dtype must be floating, got {dtype}")
    device = seed.device if isinstance(seed, Tensor) else torch.device("cpu")
    return _philox_normal(as_seed(seed, device, "philox_normal"), rows, cols, dtype)


def kl(
    mu: Tensor | None = None,
    log_sigma2: Tensor | None = None,
    *,
    log_alpha: Tensor | None = None,
    prior: str = "log-uniform",
) -> Tensor:
    """KL divergence of the posterior N(mu, sigma^2) from its prior, summed over all weights, in nats.

    Every prior but the last depends on log_alpha = log_sigma2 - log(mu^2 + 1e-8) alone (or on a free
    `log_alpha`):

    - ``log-uniform``: 1/2 softplus(-la) + k1 sigmoid(-(k2 + k3 la)), Molchanov et al. 2017 (arXiv
      1701.05369), eq. 14, within 0.007 a weight of the exact value up to a constant;
    - ``log-uniform-kingma``: Kingma et al. 2015 (arXiv 1506.02557), eq. 14, a cubic in alpha, valid for
      alpha <= 1, with KL(alpha = 1) = 0;
    - ``log-uniform-exact``: dKL/dla = -sqrt(u) Dawson(sqrt(u)), u = 1 / (2 alpha), and its integral;
    - ``ard``: 1/2 softplus(-la), Kharitonov et al. 2018 (arXiv 1811.00596), the same as the hierarchical
      prior of Liu et al. 2019 (arXiv 1811.07533);
    - ``normal`` or ``normal(s)``: N(0, s^2), s = 1 unless given, as ``normal(0.1)``: 1/2 (sigma^2 / s^2 +
      mu^2 / s^2 - 1 - log(sigma^2 / s^2)), Blundell et al. 2015 (arXiv 1505.05424), section 3.

    Args:
        mu, log_sigma2: posterior mean and log variance, one shape, any strides, floating.
        log_alpha: instead of both, log(sigma^2 / mu^2) where that is the parameter; not with ``normal``.
        prior: one of `PRIORS`, or ``normal(s)``.

    Returns:
        scalar, float32 (float64 for float64 parameters); differentiable once.

    Raises:
        ValueError: unknown prior, wrong combination, shapes or dtypes.
    """
    check_kl(mu, log_sigma2, log_alpha, prior, "kl")
    return _kl(mu, log_sigma2, log_alpha, prior)


def kl_value_and_grad(
    mu: Tensor | None = None,
    log_sigma2: Tensor | None = None,
    *,
    log_alpha: Tensor | None = None,
    prior: str = "log-uniform",
    scale: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """`kl` and its gradients in one pass over memory, without autograd.

    Args:
        mu, log_sigma2, log_alpha, prior: as in `kl`.
        scale: scalar tensor the gradients are multiplied by; None: 1.

    Returns:
        (KL unscaled, scale dKL/dmu, scale dKL/dlog_sigma2), or (KL, None, scale dKL/dlog_alpha).

    Raises:
        ValueError: as `kl`.
    """
    check_kl(mu, log_sigma2, log_alpha, prior, "kl_value_and_grad")
    given = log_alpha if log_alpha is not None else log_sigma2
    assert given is not None
    if scale is None:
        scale = torch.ones(
            (), dtype=torch.float64 if given.dtype == torch.float64 else torch.float32, device=given.device
        )
    value, dmu, dlog = _kl_grad(scale, mu, log_sigma2, log_alpha, prior)
    return value, None if mu is None else dmu, dlog


def linear_lrt(
    x: Tensor,
    mu: Tensor,
    log_sigma2: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    log_alpha: Tensor | None = None,
    seed: Tensor | int | None = None,
    eps: float = LRT_EPS,
    clip_log_alpha: float | None = None,
) -> Tensor:
    """Linear layer with weights N(mu, sigma^2), sampled by local reparameterisation.

    y = x mu^T + bias + sqrt(x^2 (sigma^2)^T + eps) * e, e ~ N(0, 1) iid per element of y, with
    sigma^2 = exp(log_sigma2), or exp(log_alpha) mu^2 (Kingma et al. 2015, arXiv 1506.02557, section 2.3;
    Molchanov et al. 2017, arXiv 1701.05369, section 4.1). The variance never sees the bias and runs in
    float32 (float64 for float64 inputs) whatever the dtype of x.

    Args:
        x: [*, I], float32, float64, bfloat16 or float16; any strides.
        mu: [O, I], of x's dtype.
        log_sigma2: [O, I]; meant for [-20, 4].
        bias: [O] or None.
        log_alpha: instead of log_sigma2, a scalar, [I] or [1, I], [O] or [O, 1], or [O, I].
        seed: int, int64 tensor of one element, or None: drawn from torch's generator.
        eps: >= 0, added to the variance inside the square root, so that gradients at x = 0 are finite.
        clip_log_alpha: weights whose log_alpha is at or above it take part with mean 0 and their full
            variance; their mu gets no gradient from the mean. So a net trains as it will be pruned
            (`train_clip` of Molchanov et al. 2017's code). None: no weight.

    Returns:
        [*, O], of x's dtype; differentiable once in every tensor but the seed.

    Raises:
        ValueError: shapes, dtypes or the combination of arguments are wrong; the message names them.
    """
    args = prepare_linear(x, mu, log_sigma2, bias, log_alpha, seed, "linear_lrt")
    eps, clip = check_eps(eps, "linear_lrt"), check_clip(clip_log_alpha, "linear_lrt")
    return _linear_lrt(*args, "none", eps, clip)[0]


def linear_lrt_kl(
    x: Tensor,
    mu: Tensor,
    log_sigma2: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    log_alpha: Tensor | None = None,
    prior: str = "log-uniform",
    seed: Tensor | int | None = None,
    eps: float = LRT_EPS,
    clip_log_alpha: float | None = None,
) -> tuple[Tensor, Tensor]:
    """`linear_lrt` and `kl` of its weights in one op.

    The KL is summed while the weights are packed for the products, and its gradient is added where the
    weight gradient is written: no pass over the weights is spent on it.

    Args:
        x, mu, log_sigma2, bias, log_alpha, seed, eps, clip_log_alpha: as in `linear_lrt`; log_alpha must be
            [O, I] here. The KL is that of the weights as they are, clipped or not.
        prior: as in `kl`.

    Returns:
        (y [*, O], KL scalar).

    Raises:
        ValueError: as `linear_lrt`, or an unknown prior, or a log_alpha that is not [O, I].
    """
    check_prior(prior, "linear_lrt_kl", log_alpha=log_alpha is not None)
    args = prepare_linear(x, mu, log_sigma2, bias, log_alpha, seed, "linear_lrt_kl")
    if args[3] is not None and args[3].shape != mu.shape:
        raise ValueError(
            f"linear_lrt_kl: log_alpha must be [O, I] = {tuple(mu.shape)}, got {tuple(args[3].shape)}; "
            "for shared log_alpha use linear_lrt and kl"
        )
    eps, clip = check_eps(eps, "linear_lrt_kl"), check_clip(clip_log_alpha, "linear_lrt_kl")
    return _linear_lrt(*args, prior, eps, clip)
