"""Multiplicative noise of `vdropkern.functional`: of a layer's input, and of its output."""

from __future__ import annotations

import math

from torch import Tensor

from ._validate import as_seed, check_device, check_tensor
from .ops.mul_noise import NOISES, mul_noise_learned
from .ops.mul_noise import mul_noise as _mul_noise

__all__ = ["mul_noise", "mul_out_noise"]


def mul_noise(
    x: Tensor,
    strength: float | None = None,
    *,
    log_alpha: Tensor | None = None,
    noise: str | None = None,
    seed: Tensor | int | None = None,
) -> Tensor:
    """x times noise of mean 1, drawn for every element and never stored: y = x * xi.

    - ``bernoulli``: xi = 0 with probability p, else 1 / (1 - p) (Srivastava et al. 2014, JMLR 15, sections 4
      and 10), p = `strength`; `torch.nn.functional.dropout` with a seed;
    - ``gaussian``: xi ~ N(1, alpha), alpha = `strength` (the same paper, section 10; alpha = p / (1 - p) has
      the variance of Bernoulli dropout at rate p), or alpha = exp(`log_alpha`), a parameter that is learned
      (Kingma et al. 2015, arXiv 1506.02557, section 3.2, "correlated weight noise").

    The noise of element (r, c), rows being all leading dimensions flattened, is that of `philox_bits` or
    `philox_normal` of the seed, however x lies in memory. The backward pass draws it again; it gives
    dx = dy xi and dlog_alpha = 1/2 sqrt(alpha) sum dy x e in one pass.

    Args:
        x: [*, C], float32, float64, bfloat16 or float16; any strides, those of the contiguous and of the
            channels-last format without a copy.
        strength: p in [0, 1), or alpha >= 0.
        log_alpha: instead of strength, any floating tensor that broadcasts to x's shape: [1] for a layer, [C]
            for the units of a linear layer, [C, 1, 1] for the channels of an image, [C, H, W] for its
            elements.
        noise: ``bernoulli`` or ``gaussian``; None: the first for a strength, the second, the only one, for a
            log_alpha.
        seed: int, int64 tensor of one element, or None: drawn from torch's generator.

    Returns:
        x's shape and dtype, channels last where x is, else contiguous. With a strength differentiable in x
        any number of times, with a log_alpha once in both.

    Raises:
        ValueError: strength or noise out of range or missing, x or log_alpha not floating, a log_alpha that
            does not broadcast to x, or a seed of another dtype or size.
    """
    check_tensor(x, "x", "mul_noise")
    if not x.is_floating_point():
        raise ValueError(f"mul_noise: x must be floating, got {x.dtype}")
    if (strength is None) == (log_alpha is None):
        raise ValueError("mul_noise: give exactly one of strength and log_alpha")
    if noise is None:
        noise = "bernoulli" if log_alpha is None else "gaussian"
    if noise not in NOISES:
        raise ValueError(f"mul_noise: unknown noise {noise!r}; accepted: {', '.join(NOISES)}")
    if log_alpha is not None:
        if noise != "gaussian":
            raise ValueError(f"mul_noise: with log_alpha the noise is gaussian, got {noise!r}")
        _check_broadcast(log_alpha, x, "log_alpha", "mul_noise")
        return mul_noise_learned(x, log_alpha, None, as_seed(seed, x.device, "mul_noise"))
    _check_strength(strength, noise)
    assert strength is not None
    return _mul_noise(x, as_seed(seed, x.device, "mul_noise"), noise, float(strength))


def mul_out_noise(
    z: Tensor, log_alpha: Tensor, bias: Tensor | None = None, *, seed: Tensor | int | None = None
) -> Tensor:
    """Noise on a layer's output: y = (z + bias) * (1 + sqrt(alpha) e), alpha = exp(log_alpha), e ~ N(0, 1).

    The bias gets noise too, and all inputs of a unit share it: this is neither noise on the weights nor
    their local reparameterisation (`linear_lrt`), whose noise knows the inputs' sizes. Bias, noise and, in
    the backward pass, all three gradients take one pass over z.

    Args:
        z: [*, O], or [N, O, H, W]; as x of `mul_noise`.
        log_alpha: floating, broadcastable to z's shape: [1], [O], [O, 1, 1], ...
        bias: floating, broadcastable to z's shape, or None.
        seed: int, int64 tensor of one element, or None: drawn from torch's generator.

    Returns:
        z's shape and dtype, channels last where z is, else contiguous; differentiable once in z, log_alpha
        and bias.

    Raises:
        ValueError: a tensor is not floating or does not broadcast to z, or a seed of another dtype or size.
    """
    check_tensor(z, "z", "mul_out_noise")
    if not z.is_floating_point():
        raise ValueError(f"mul_out_noise: z must be floating, got {z.dtype}")
    _check_broadcast(log_alpha, z, "log_alpha", "mul_out_noise")
    if bias is not None:
        _check_broadcast(bias, z, "bias", "mul_out_noise")
    return mul_noise_learned(z, log_alpha, bias, as_seed(seed, z.device, "mul_out_noise"))


def _check_strength(strength: float | None, noise: str) -> None:
    what, top = (
        ("p of bernoulli noise", 1.0) if noise == "bernoulli" else ("alpha of gaussian noise", math.inf)
    )
    if not isinstance(strength, (int, float)) or not 0 <= strength < top:
        raise ValueError(f"mul_noise: strength, the {what}, must be in [0, {top:g}), got {strength!r}")


def _check_broadcast(t: Tensor, x: Tensor, name: str, where: str) -> None:
    check_tensor(t, name, where)
    if not t.is_floating_point():
        raise ValueError(f"{where}: {name} must be floating, got {t.dtype}")
    # not `n in (1, m)`, which torch.compile takes for false where m is symbolic
    fits = t.ndim <= x.ndim and all(
        n == 1 or n == m for n, m in zip(reversed(t.shape), reversed(x.shape), strict=False)
    )
    if not fits:
        raise ValueError(
            f"{where}: {name} must broadcast to the shape {tuple(x.shape)}, got {tuple(t.shape)}"
        )
    check_device(t, name, x.device, where)
