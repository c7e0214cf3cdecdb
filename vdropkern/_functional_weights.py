"""The documented functions whose noise is on the weights themselves; `functional` re-exports them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ._functional_noise import mul_noise
from ._validate import as_scalar, as_seed, check_device, check_granularity, check_weight, weight_log_alpha
from .ops.weight_mask import GRANULARITIES
from .ops.weight_mask import weight_mask as _weight_mask
from .ops.weight_noise import weight_noise as _weight_noise

__all__ = ["GRANULARITIES", "flipout", "weight_mask", "weight_noise", "weight_thresholds"]


def _matrix(weight: Tensor) -> Tensor:
    """A weight [O, ...] as a matrix: itself where it is one, as views cost small ones much."""
    return weight if weight.ndim == 2 else weight.reshape(weight.shape[0], weight.shape[1:].numel())


def _shaped(matrix: Tensor, like: Tensor) -> Tensor:
    """The way back."""
    return matrix if like.ndim == 2 else matrix.reshape(like.shape)


def weight_noise(
    mu: Tensor,
    log_sigma2: Tensor | None = None,
    *,
    log_alpha: Tensor | None = None,
    p: float | None = None,
    seed: Tensor | int | None = None,
) -> Tensor:
    """A noisy copy of a layer's weights, one draw a call: the noise is shared by all examples of a batch.

    - with `log_sigma2`: mu + sigma e, e ~ N(0, 1) (Blundell et al. 2015, arXiv 1505.05424, section 3.2);
    - with `log_alpha`: mu (1 + sqrt(alpha) e), the weights of Kingma et al. 2015 (arXiv 1506.02557),
      section 3.2, without local reparameterisation;
    - with `p`: mu m / (1 - p), m ~ Bernoulli(1 - p) a weight (DropConnect, Wan et al. 2013, ICML).

    Noise is not stored: backward draws it again. dmu = G (times 1 + sqrt(alpha) e, or m / (1 - p)),
    dlog = 1/2 G sigma e. The noise of weight w[o, ...] is that of `philox_normal` or `philox_bits` of the
    seed at row o, the other dimensions being flattened in torch's order whatever the memory format.

    Args:
        mu: [O, ...], floating.
        log_sigma2: of mu's shape.
        log_alpha: scalar, or of mu's dimensions, each 1 or that of mu; with two dimensions also [I] or [O].
        p: probability of dropping a weight, in [0, 1).
        seed: int, int64 tensor of one element, or None: drawn from torch's generator.

    Returns:
        mu's shape and dtype, contiguous; differentiable once (any number of times with `p`).

    Raises:
        ValueError: not exactly one of log_sigma2, log_alpha and p; shapes, dtypes or ranges.
    """
    given = [
        name for name, v in (("log_sigma2", log_sigma2), ("log_alpha", log_alpha), ("p", p)) if v is not None
    ]
    if len(given) != 1:
        raise ValueError(
            f"weight_noise: give exactly one of log_sigma2, log_alpha and p, got {given or 'none'}"
        )
    check_weight(mu, "mu", "weight_noise")
    flat = _matrix(mu)
    if p is not None:
        if not isinstance(p, (int, float)) or not 0 <= p < 1:
            raise ValueError(f"weight_noise: p must be in [0, 1), got {p!r}")
        return _shaped(mul_noise(flat, p, seed=seed), mu)
    if log_sigma2 is not None:
        if log_sigma2.shape != mu.shape:
            raise ValueError(
                f"weight_noise: log_sigma2 must have mu's shape {tuple(mu.shape)}, "
                f"got {tuple(log_sigma2.shape)}"
            )
        check_device(log_sigma2, "log_sigma2", mu.device, "weight_noise")
        log_sigma2 = _matrix(log_sigma2)
    if log_alpha is not None:
        check_device(log_alpha, "log_alpha", mu.device, "weight_noise")
        log_alpha = weight_log_alpha(log_alpha, mu, "weight_noise")
    noisy = _weight_noise(flat, log_sigma2, log_alpha, as_seed(seed, mu.device, "weight_noise"))
    return _shaped(noisy, mu)


def flipout(
    x: Tensor,
    mu: Tensor,
    log_sigma2: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    log_alpha: Tensor | None = None,
    product: Callable[[Tensor, Tensor, Tensor | None], Tensor] = F.linear,
    channel_dim: int = -1,
    seed: Tensor | int | None = None,
) -> Tensor:
    """A layer with one draw of weight noise a batch, decorrelated between examples by random signs.

    y = product(x, mu) + bias + r * product(s * x, W - mu), W = `weight_noise`, with signs s, r = +-1, iid for
    each example and channel (Wen et al. 2018, arXiv 1803.04386, section 3.1, equations 4 and 5). The signs of
    a convolution do not change over its positions. Each example's weights have the right distribution, and
    the noises of two examples are uncorrelated.

    Args:
        x: what `product` takes: [*, I] for `torch.nn.functional.linear`.
        mu, log_sigma2, log_alpha: as in `weight_noise`.
        bias: [O] or None.
        product: (x, weight, bias) -> y, linear in the weight: a layer's own product.
        channel_dim: of x and y. -1: every leading index is an example (linear layers). Else the dimension
            before it, if there is one, holds the examples: 1 for convolutions of batches.
        seed: int, int64 tensor of one element, or None: drawn from torch's generator. The signs' seeds follow
            from it.

    Returns:
        what `product` returns; differentiable once.

    Raises:
        ValueError: as `weight_noise`.
    """
    seed = as_seed(seed, x.device, "flipout")
    delta = weight_noise(mu, log_sigma2, log_alpha=log_alpha, seed=seed) - mu
    mean = product(x, mu, bias)
    flipped = product(x * _signs(x, channel_dim, seed + _OF_INPUTS), delta, None)
    return torch.addcmul(mean, flipped, _signs(flipped, channel_dim, seed + _OF_OUTPUTS))


_OF_INPUTS, _OF_OUTPUTS = (
    0x5851F42D4C957F2D,
    0x14057B7EF767814F,
)  # so that signs do not repeat the noise's words


def _signs(like: Tensor, channel_dim: int, seed: Tensor) -> Tensor:
    """+-1 for each example and channel, broadcastable to `like`."""
    dim = channel_dim % like.ndim
    if dim == like.ndim - 1 and channel_dim < 0:
        shape = list(like.shape)
    else:
        shape = [n if i in (dim - 1, dim) else 1 for i, n in enumerate(like.shape)]
    rows = math.prod(shape[:dim])  # said, as layers without inputs or outputs leave nothing to infer it from
    ones = torch.ones(rows, like.shape[dim], dtype=like.dtype, device=like.device)
    return mul_noise(ones, 0.5, seed=seed).reshape(shape) - 1  # of 0 or 2


def weight_mask(
    w: Tensor,
    gamma: Tensor | float,
    alpha: Tensor | float = 1.0,
    *,
    granularity: str = "weight",
    seed: Tensor | int | None = None,
) -> Tensor:
    """Weights without a random part of the smallest of them: targeted dropout and magnitude pruning.

    The smallest share `gamma` are candidates, and each candidate is 0 with probability `alpha` (Gomez et al.
    2019, arXiv 1905.13678, sections 2 and 3); alpha = 1 is magnitude pruning. Kept weights are not rescaled.
    "The smallest" are those strictly below the one of index int(gamma n) in rising order:

    - ``weight``: |w| among the n weights of one output, w[o, ...];
    - ``unit``: the L2 norms of the n = O outputs, each kept or dropped as a whole;
    - ``unit-element``: candidates are whole outputs, but each weight of them is dropped by itself, as in the
      authors' code.

    Found by selection, without sorting. NaN and infinite weights, and outputs that hold one, are no
    candidates. The mask is a constant to autograd: dw = m G. It is not stored; backward draws it again.

    Args:
        w: [O, ...], floating; any strides.
        gamma, alpha: numbers or scalar tensors, in [0, 1]; as tensors they may change without recompiling
            (values are not checked then, but clamped).
        granularity: one of `GRANULARITIES`.
        seed: int, int64 tensor of one element, or None: drawn from torch's generator. With alpha = 1 it
            changes nothing.

    Returns:
        m w, of w's shape and dtype, contiguous; differentiable in w, any number of times.

    Raises:
        ValueError: an argument out of range, or w not floating.
    """
    check_weight(w, "w", "weight_mask")
    check_granularity(granularity, GRANULARITIES, "weight_mask")
    share = as_scalar(gamma, "gamma", w.device, "weight_mask")
    rate = as_scalar(alpha, "alpha", w.device, "weight_mask")
    if seed is None and not isinstance(alpha, Tensor) and alpha in (0.0, 1.0):
        seed = 0  # nothing is random
    masked, _ = _weight_mask(_matrix(w), share, rate, as_seed(seed, w.device, "weight_mask"), granularity)
    return _shaped(masked, w)


def weight_thresholds(w: Tensor, gamma: Tensor | float, *, granularity: str = "weight") -> Tensor:
    """Magnitudes below which `weight_mask` takes weights for candidates, a row.

    Args:
        w, gamma: as in `weight_mask`.
        granularity: ``weight``: the magnitude of index int(gamma n) in each row, infinite from n on.
            ``unit``: infinite for outputs that are candidates, 0 for others.

    Returns:
        [O], float32 (float64 for float64); not differentiable.

    Raises:
        ValueError: as `weight_mask`.
    """
    check_weight(w, "w", "weight_thresholds")
    check_granularity(granularity, GRANULARITIES, "weight_thresholds")
    share = as_scalar(gamma, "gamma", w.device, "weight_thresholds")
    nothing = torch.zeros((), dtype=torch.float64, device=w.device)
    seed = torch.zeros((), dtype=torch.int64, device=w.device)
    return _weight_mask(_matrix(w.detach()), share, nothing, seed, granularity)[1]
