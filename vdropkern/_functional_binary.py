"""The documented functions of binarised layers, which `functional` re-exports."""

from __future__ import annotations

from torch import Tensor

from ._validate import as_seed, check_tensor, check_weight
from .ops.binary_weight import GRADIENTS
from .ops.binary_weight import binary_weight as _binary_weight
from .ops.sign_ste import ESTIMATORS
from .ops.sign_ste import sign_ste as _sign_ste

__all__ = ["ESTIMATORS", "GRADIENTS", "binary_weight", "sign_ste"]

_STRENGTHS = {"steep": 2.0, "swish": 5.0}


def check_estimator(estimator: str, strength: float | None, where: str) -> float:
    """The strength that holds: the one given, or the estimator's own."""
    if estimator not in ESTIMATORS:
        raise ValueError(f"{where}: unknown estimator {estimator!r}; accepted: {', '.join(ESTIMATORS)}")
    if strength is None:
        return _STRENGTHS.get(estimator, 1.0)
    if estimator not in _STRENGTHS:
        raise ValueError(f"{where}: strength is for {' and '.join(_STRENGTHS)}, got it with {estimator!r}")
    if not isinstance(strength, (int, float)) or not 0 < strength < float("inf"):
        raise ValueError(f"{where}: strength must be a finite number > 0, got {strength!r}")
    return float(strength)


def sign_ste(
    x: Tensor,
    estimator: str = "hard-tanh",
    *,
    strength: float | None = None,
    seed: Tensor | int | None = None,
) -> Tensor:
    """Binarised x, with a stand-in g(x) for the derivative that a step has not: dx = dy g(x).

    ==============  =========================================  ==============================================
    estimator       y                                          g(x)
    ==============  =========================================  ==============================================
    ``identity``    sign(x)                                    1 (Bengio et al. 2013, arXiv 1308.3432)
    ``hard-tanh``   sign(x)                                    1[abs(x) <= 1] (Hubara et al. 2016,
                                                               arXiv 1602.02830, section 1.3)
    ``steep``       sign(x)                                    k 1[abs(x) <= 1/k], k = `strength`
    ``swish``       sign(x)                                    beta (2 - u tanh(u/2)) / (1 + cosh u), u = beta
                                                               x (Darabi et al. 2018, arXiv 1812.11800),
                                                               beta = `strength`
    ``polynomial``  sign(x)                                    2 - 2 abs(x) within [-1, 1] (Liu et al. 2018,
                                                               arXiv 1808.00278, section 3.2)
    ``stochastic``  +1 with probability clip((x + 1) / 2), or  1[abs(x) <= 1] (Courbariaux et al. 2015,
                    -1                                         arXiv 1511.00363, section 2.2)
    ``clipped``     1[x >= 1/2]                                1[0 <= x <= 1]
    ``ternary``     clip(x) rounded to 0, 1/2, 1               1[0 <= x <= 1] (Kim et al. 2020,
                                                               arXiv 2002.06517, section 5)
    ``two-bit``     clip(x) rounded to 0, 1/3, 2/3, 1          1[0 <= x <= 1]
    ==============  =========================================  ==============================================

    clip is to [0, 1]. sign(0) = +1, halves round upwards, NaN stays NaN. Saved for backward: nothing for
    ``identity``, x itself for the two smooth ones, one bit an element for all others.

    Args:
        x: any shape, float32, float64, bfloat16 or float16; any strides, those of the contiguous and of the
            channels-last format without a copy.
        estimator: one of `ESTIMATORS`.
        strength: > 0, of ``steep`` (default 2) and ``swish`` (default 5) alone.
        seed: of ``stochastic``: int, int64 tensor of one element, or None: drawn from torch's generator. The
            random word of an element is that of `philox_bits` at its row (all leading dimensions) and column.

    Returns:
        x's shape and dtype, channels last where x is, else contiguous; differentiable once.

    Raises:
        ValueError: unknown estimator, a strength out of range or for another estimator, x not floating, a
            seed of another dtype or size.
    """
    held = check_estimator(estimator, strength, "sign_ste")
    check_tensor(x, "x", "sign_ste")
    if not x.is_floating_point():
        raise ValueError(f"sign_ste: x must be floating, got {x.dtype}")
    drawn = as_seed(seed, x.device, "sign_ste") if estimator == "stochastic" else None
    return _sign_ste(x, drawn, estimator, held)


def binary_weight(w: Tensor, gradient: str = "corrected") -> tuple[Tensor, Tensor]:
    """A layer's weights with one magnitude a filter: W~ = alpha_o sign(w), alpha_o = ||w_o||_1 / n.

    The best approximation of that form in the 2-norm (Rastegari et al. 2016, arXiv 1603.05279, section 3.1).
    With G the gradient of W~ and sign taken for hard tanh, ``corrected`` is what follows,

        dw_i = sign(w_i) / n sum_j G_j sign(w_j) + alpha G_i 1[|w_i| <= 1],

    and ``original`` the paper's equation 11, which forgets that all weights of a filter share its alpha:

        dw_i = G_i (1 / n + alpha 1[|w_i| <= 1]).

    Args:
        w: [O, ...], floating; the other dimensions are a filter's.
        gradient: ``corrected`` or ``original``.

    Returns:
        (W~ of w's shape and dtype, differentiable once; alpha [O], not differentiable). sign(0) = +1.

    Raises:
        ValueError: w has less than two dimensions or is not floating; unknown gradient.
    """
    check_weight(w, "w", "binary_weight")
    if w.ndim < 2:
        raise ValueError(f"binary_weight: w must be [O, ...] with a filter's weights, got {tuple(w.shape)}")
    if gradient not in GRADIENTS:
        raise ValueError(f"binary_weight: unknown gradient {gradient!r}; accepted: {', '.join(GRADIENTS)}")
    binary, alpha = _binary_weight(w.reshape(w.shape[0], w.shape[1:].numel()), gradient)
    return binary.reshape(w.shape), alpha
