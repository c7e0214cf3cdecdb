"""The documented functions: shapes, validation, autocast, seeds. Layers call these; so may you."""

from __future__ import annotations

import torch
from torch import Tensor

from .ops.kl import PRIORS
from .ops.kl import kl as _kl
from .ops.kl import kl_grad as _kl_grad
from .ops.linear_lrt import linear_lrt as _linear_lrt
from .ops.philox_bits import philox_bits as _philox_bits
from .ops.philox_normal import philox_normal as _philox_normal
from .ops.spmm import spmm as _spmm
from .ops.spmm.csr import check_csr as _check_csr

__all__ = ["PRIORS", "kl", "kl_value_and_grad", "linear_lrt", "linear_lrt_kl", "new_seed", "philox_bits", "philox_normal", "spmm"]

LRT_EPS = 1e-8
_SEED_MIN, _SEED_MAX = -(2**63), 2**63 - 1


def new_seed(device: torch.device | str = "cpu") -> Tensor:
    """Draw a seed from torch's generator of `device`.

    `torch.manual_seed`, activation checkpointing and per-rank generators therefore act as users expect,
    and no value is read back to the host.

    Returns:
        int64 scalar tensor on `device`.
    """
    return torch.randint(_SEED_MIN, _SEED_MAX, (), dtype=torch.int64, device=device)


def _as_seed(seed: Tensor | int | None, device: torch.device, where: str) -> Tensor:
    if seed is None:
        return new_seed(device)
    if isinstance(seed, int):
        if not _SEED_MIN <= seed <= _SEED_MAX:
            raise ValueError(f"{where}: seed must fit in 64 signed bits, got {seed}")
        return torch.tensor(seed, dtype=torch.int64, device=device)
    if seed.dtype != torch.int64 or seed.numel() != 1:
        raise ValueError(
            f"{where}: seed must be an int or an int64 tensor of one element, "
            f"got {seed.dtype} of shape {tuple(seed.shape)}"
        )
    if seed.device != device:
        raise ValueError(f"{where}: seed is on {seed.device} but the inputs are on {device}; move it there")
    return seed


def _check_rows_cols(rows: int, cols: int, where: str) -> None:
    if rows < 0 or cols < 0:
        raise ValueError(f"{where}: rows and cols must be >= 0, got {rows} and {cols}")


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
    _check_rows_cols(rows, cols, "philox_bits")
    device = seed.device if isinstance(seed, Tensor) else torch.device("cpu")
    return _philox_bits(_as_seed(seed, device, "philox_bits"), rows, cols)


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
    _check_rows_cols(rows, cols, "philox_normal")
    if not dtype.is_floating_point:
        raise ValueError(f"philox_normal: dtype must be floating, got {dtype}")
    device = seed.device if isinstance(seed, Tensor) else torch.device("cpu")
    return _philox_normal(_as_seed(seed, device, "philox_normal"), rows, cols, dtype)


def _check_prior(prior: str, where: str) -> None:
    if prior not in PRIORS:
        raise ValueError(f"{where}: unknown prior {prior!r}; accepted: {', '.join(PRIORS)}")


def _check_kl(mu: Tensor | None, log_sigma2: Tensor | None, log_alpha: Tensor | None, prior: str, where: str) -> None:
    _check_prior(prior, where)
    if log_alpha is not None:
        if mu is not None or log_sigma2 is not None:
            raise ValueError(f"{where}: give either mu and log_sigma2, or log_alpha alone")
    elif mu is None or log_sigma2 is None:
        raise ValueError(f"{where}: give mu and log_sigma2, or log_alpha alone")
    elif mu.shape != log_sigma2.shape:
        raise ValueError(
            f"{where}: mu and log_sigma2 must have one shape, got {tuple(mu.shape)} and {tuple(log_sigma2.shape)}"
        )
    for name, t in (("mu", mu), ("log_sigma2", log_sigma2), ("log_alpha", log_alpha)):
        if t is not None and not t.is_floating_point():
            raise ValueError(f"{where}: {name} must be floating, got {t.dtype}")


def kl(
    mu: Tensor | None = None,
    log_sigma2: Tensor | None = None,
    *,
    log_alpha: Tensor | None = None,
    prior: str = "log-uniform",
) -> Tensor:
    """KL divergence of the posterior N(mu, sigma^2) from its prior, summed over all weights, in nats.

    Every prior here depends on log_alpha = log_sigma2 - log(mu^2 + 1e-8) alone (or on a free `log_alpha`):

    - ``log-uniform``: 1/2 softplus(-la) + k1 sigmoid(-(k2 + k3 la)), Molchanov et al. 2017 (arXiv
      1701.05369), eq. 14, within 0.007 a weight of the exact value up to a constant;
    - ``log-uniform-kingma``: Kingma et al. 2015 (arXiv 1506.02557), eq. 14, a cubic in alpha, valid for
      alpha <= 1, with KL(alpha = 1) = 0;
    - ``log-uniform-exact``: dKL/dla = -sqrt(u) Dawson(sqrt(u)), u = 1 / (2 alpha), and its integral;
    - ``ard``: 1/2 softplus(-la), Kharitonov et al. 2018 (arXiv 1811.00596), the same as the hierarchical
      prior of Liu et al. 2019 (arXiv 1811.07533).

    Args:
        mu, log_sigma2: posterior mean and log variance, one shape, any strides, floating.
        log_alpha: instead of both, log(sigma^2 / mu^2) where that is the parameter.
        prior: one of `PRIORS`.

    Returns:
        scalar, float32 (float64 for float64 parameters); differentiable once.

    Raises:
        ValueError: unknown prior, wrong combination, shapes or dtypes.
    """
    _check_kl(mu, log_sigma2, log_alpha, prior, "kl")
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
    _check_kl(mu, log_sigma2, log_alpha, prior, "kl_value_and_grad")
    given = log_alpha if log_alpha is not None else log_sigma2
    assert given is not None
    if scale is None:
        scale = torch.ones((), dtype=torch.float64 if given.dtype == torch.float64 else torch.float32, device=given.device)
    value, dmu, dlog = _kl_grad(scale, mu, log_sigma2, log_alpha, prior)
    return value, None if mu is None else dmu, dlog


def _log_alpha_2d(log_alpha: Tensor, mu: Tensor, where: str) -> Tensor:
    """View log_alpha as [1|O, 1|I]; 1-D is per input [I], or per output [O] where I != O."""
    out, inp = mu.shape
    if log_alpha.ndim == 2 and log_alpha.shape[0] in (1, out) and log_alpha.shape[1] in (1, inp):
        return log_alpha
    if log_alpha.numel() == 1 and log_alpha.ndim < 2:
        return log_alpha.reshape(1, 1)
    if log_alpha.ndim == 1 and out == inp and log_alpha.shape[0] == out:
        raise ValueError(
            f"{where}: log_alpha of shape ({out},) is ambiguous for a square layer; "
            f"say (1, {inp}) for per input or ({out}, 1) for per output"
        )
    if log_alpha.ndim == 1 and log_alpha.shape[0] == inp:
        return log_alpha.reshape(1, inp)
    if log_alpha.ndim == 1 and log_alpha.shape[0] == out:
        return log_alpha.reshape(out, 1)
    raise ValueError(
        f"{where}: log_alpha must be a scalar, [I], [O] or [O, I] (here I={inp}, O={out}), "
        f"got shape {tuple(log_alpha.shape)}"
    )


def _check_linear(x: Tensor, mu: Tensor, log_sigma2: Tensor | None, bias: Tensor | None, where: str) -> None:
    if mu.ndim != 2:
        raise ValueError(f"{where}: mu must be [O, I], got shape {tuple(mu.shape)}")
    if x.ndim == 0 or x.shape[-1] != mu.shape[1]:
        raise ValueError(
            f"{where}: x must be [*, I] with I = {mu.shape[1]} (mu is {tuple(mu.shape)}), got {tuple(x.shape)}"
        )
    if log_sigma2 is not None and log_sigma2.shape != mu.shape:
        raise ValueError(
            f"{where}: log_sigma2 must have mu's shape {tuple(mu.shape)}, got {tuple(log_sigma2.shape)}"
        )
    if bias is not None and bias.shape != mu.shape[:1]:
        raise ValueError(f"{where}: bias must be [O] = ({mu.shape[0]},), got {tuple(bias.shape)}")
    if not x.is_floating_point() or x.dtype != mu.dtype:
        raise ValueError(
            f"{where}: x and mu must share one floating dtype, got {x.dtype} and {mu.dtype}; "
            "cast one, or run under torch.autocast"
        )


def _prepare(
    x: Tensor,
    mu: Tensor,
    log_sigma2: Tensor | None,
    bias: Tensor | None,
    log_alpha: Tensor | None,
    seed: Tensor | int | None,
    where: str,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor]:
    if (log_sigma2 is None) == (log_alpha is None):
        raise ValueError(f"{where}: give exactly one of log_sigma2 and log_alpha")
    if x.device.type != "meta" and torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        # the noise parameter stays as it is: the variance runs in float32 whatever autocast says
        dtype = torch.get_autocast_dtype(x.device.type)
        x, mu = x.to(dtype), mu.to(dtype)
    _check_linear(x, mu, log_sigma2, bias, where)
    if log_alpha is not None:
        log_alpha = _log_alpha_2d(log_alpha, mu, where)
    return x, mu, log_sigma2, log_alpha, bias, _as_seed(seed, x.device, where)


def linear_lrt(
    x: Tensor,
    mu: Tensor,
    log_sigma2: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    log_alpha: Tensor | None = None,
    seed: Tensor | int | None = None,
    eps: float = LRT_EPS,
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
        eps: added to the variance inside the square root, so that gradients at x = 0 are finite.

    Returns:
        [*, O], of x's dtype; differentiable once in every tensor but the seed.

    Raises:
        ValueError: shapes, dtypes or the combination of arguments are wrong; the message names them.
    """
    args = _prepare(x, mu, log_sigma2, bias, log_alpha, seed, "linear_lrt")
    return _linear_lrt(*args, "none", eps)[0]


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
) -> tuple[Tensor, Tensor]:
    """`linear_lrt` and `kl` of its weights in one op.

    The KL is summed while the weights are packed for the products, and its gradient is added where the
    weight gradient is written: no pass over the weights is spent on it.

    Args:
        x, mu, log_sigma2, bias, log_alpha, seed, eps: as in `linear_lrt`; log_alpha must be [O, I] here.
        prior: one of `PRIORS`.

    Returns:
        (y [*, O], KL scalar).

    Raises:
        ValueError: as `linear_lrt`, or an unknown prior, or a log_alpha that is not [O, I].
    """
    _check_prior(prior, "linear_lrt_kl")
    args = _prepare(x, mu, log_sigma2, bias, log_alpha, seed, "linear_lrt_kl")
    if args[3] is not None and args[3].shape != mu.shape:
        raise ValueError(
            f"linear_lrt_kl: log_alpha must be [O, I] = {tuple(mu.shape)}, got {tuple(args[3].shape)}; "
            "for shared log_alpha use linear_lrt and kl"
        )
    return _linear_lrt(*args, prior, eps)


def _check_spmm(
    x: Tensor, values: Tensor, col_indices: Tensor, row_offsets: Tensor, bias: Tensor | None
) -> None:
    if x.ndim == 0 or not x.is_floating_point() or not values.is_floating_point():
        raise ValueError(
            f"spmm: x must be [*, I] and x and values floating, got x {x.dtype} of shape {tuple(x.shape)} "
            f"and values {values.dtype}"
        )
    if values.ndim != 1 or col_indices.shape != values.shape:
        raise ValueError(
            f"spmm: values and col_indices must be [nnz], "
            f"got {tuple(values.shape)} and {tuple(col_indices.shape)}"
        )
    if row_offsets.ndim != 1 or row_offsets.shape[0] == 0:
        raise ValueError(f"spmm: row_offsets must be [O + 1], got {tuple(row_offsets.shape)}")
    if col_indices.dtype != row_offsets.dtype or col_indices.dtype not in (torch.int32, torch.int64):
        raise ValueError(
            f"spmm: col_indices and row_offsets must both be int32 or both int64, "
            f"got {col_indices.dtype} and {row_offsets.dtype}"
        )
    if bias is not None and (bias.ndim != 1 or bias.shape[0] != row_offsets.shape[0] - 1):
        raise ValueError(f"spmm: bias must be [O] = ({row_offsets.shape[0] - 1},), got {tuple(bias.shape)}")


def spmm(
    x: Tensor,
    values: Tensor,
    col_indices: Tensor,
    row_offsets: Tensor,
    bias: Tensor | None = None,
    *,
    check_invariants: bool = False,
) -> Tensor:
    """Linear layer with a sparse weight in compressed rows (CSR).

    y[b, o] = bias[o] + sum_k values[k] x[b, col_indices[k]], k from row_offsets[o] to row_offsets[o + 1]:
    the product of a pruned weight, for inference (Molchanov et al. 2017, arXiv 1701.05369, section 4.3) and
    for fine-tuning what was kept. Sums run in float32 (float64 where x or values are).

    Args:
        x: [*, I], float32, float64, bfloat16 or float16; any strides.
        values: [nnz], floating.
        col_indices: [nnz], int32 or int64, in [0, I), increasing within each row.
        row_offsets: [O + 1], of col_indices' dtype, from 0 to nnz, not decreasing.
        bias: [O] or None.
        check_invariants: check what is said above of the indices' values, which kernels rely on. It costs a
            pass over them and waits for the device.

    Returns:
        [*, O], of x's dtype (autocast's under torch.autocast); differentiable once in x, values and bias.

    Raises:
        ValueError: shapes or dtypes are wrong, or, with check_invariants, the indices are.
    """
    _check_spmm(x, values, col_indices, row_offsets, bias)
    if check_invariants:
        try:
            _check_csr(values, col_indices, row_offsets, x.shape[-1])
        except ValueError as err:
            raise ValueError(f"spmm: {err}") from None
    if x.device.type != "meta" and torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        x = x.to(torch.get_autocast_dtype(x.device.type))
    return _spmm(x, values, col_indices, row_offsets, bias)
