"""Multi-sample dropout of `vdropkern.functional`."""

from __future__ import annotations

import torch
from torch import Tensor

from ._validate import as_seed, check_device, check_tensor
from .ops.multi_sample_head import REDUCTIONS
from .ops.multi_sample_head import multi_sample_head as _multi_sample_head

__all__ = ["multi_sample_head"]


def multi_sample_head(
    h: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    samples: int = 8,
    p: float = 0.5,
    *,
    class_weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    seed: Tensor | int | None = None,
) -> Tensor:
    """Loss of a classifier's head under multi-sample dropout: M masks, one head, the mean of M losses.

    loss = 1/M sum_i CE((h * xi_i) W^T + b, target), xi_i = mask_i / (1 - p) (Inoue 2019, arXiv 1905.09788,
    section 3): the features are computed once, dropped out M times, and the gradients averaged, so that
    training takes fewer steps. No [M, B, D] tensor is made: masks are drawn from the seed where they are
    used, and the gradients are computed along with the loss.

    The mask of pass 0 is that of ``mul_noise(h, p, seed=seed)``, so samples=1 is dropout, a linear layer and
    cross-entropy. Passes share random words four by four, each reading them from another byte: every pass
    drops with probability exactly p, passes are independent where 256 p is an integer (1/2, 1/4, ...) and
    correlated by less than 1/128 elsewhere.

    Args:
        h: features [*, D], float32, float64, bfloat16 or float16; any strides.
        weight: [K, D], of h's dtype.
        bias: [K] or None.
        target: classes, int64 [*], in [0, K) or `ignore_index`.
        samples: M >= 1; 8 is the paper's usual choice.
        p: probability of dropping a feature, in [0, 1).
        class_weight, ignore_index, reduction, label_smoothing: as `torch.nn.functional.cross_entropy`. Class
            weights get no gradient.
        seed: int, int64 tensor of one element, or None: drawn from torch's generator.

    Returns:
        scalar, or [*] with reduction ``none``; float32 (float64 for float64 inputs) whatever the dtype of h;
        differentiable once in h, weight and bias.

    Raises:
        ValueError: shapes, dtypes or ranges are wrong; the message names them. Whether targets are in range
            is checked by the CPU's kernel alone (a RuntimeError): elsewhere it would wait for the device.
    """
    where = "multi_sample_head"
    for name, t in (("h", h), ("weight", weight), ("target", target)):
        check_tensor(t, name, where)
    if h.device.type != "meta" and torch.is_autocast_enabled(h.device.type) and h.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(h.device.type)
        h, weight = h.to(dtype), weight.to(dtype)
    _check_tensors(h, weight, bias, target, class_weight)
    if not isinstance(samples, int) or isinstance(samples, bool) or samples < 1:
        raise ValueError(f"{where}: samples must be an int >= 1, got {samples!r}")
    for name, value, top in (("p", p, 1.0), ("label_smoothing", label_smoothing, None)):
        fits = isinstance(value, (int, float)) and 0 <= value <= 1 and value != top
        if not fits:
            raise ValueError(f"{where}: {name} must be in [0, 1{')' if top else ']'}, got {value!r}")
    if reduction not in REDUCTIONS:
        raise ValueError(f"{where}: unknown reduction {reduction!r}; accepted: {', '.join(REDUCTIONS)}")
    loss = _multi_sample_head(
        h.reshape(-1, h.shape[-1]) if h.ndim != 2 else h, weight, bias, target.reshape(-1), class_weight,
        as_seed(seed, h.device, where), samples, float(p), reduction, ignore_index, float(label_smoothing),
    )  # fmt: skip
    return loss.reshape(target.shape) if reduction == "none" else loss


def _check_tensors(
    h: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, class_weight: Tensor | None
) -> None:
    where = "multi_sample_head"
    if weight.ndim != 2:
        raise ValueError(f"{where}: weight must be [K, D], got shape {tuple(weight.shape)}")
    if h.ndim == 0 or h.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"{where}: h must be [*, D] with D = {weight.shape[1]} (weight is {tuple(weight.shape)}), "
            f"got {tuple(h.shape)}"
        )
    if not h.is_floating_point() or h.dtype != weight.dtype:
        raise ValueError(
            f"{where}: h and weight must share one floating dtype, got {h.dtype} and {weight.dtype}; "
            "cast one, or run under torch.autocast"
        )
    if target.dtype != torch.int64 or target.shape != h.shape[:-1]:
        raise ValueError(
            f"{where}: target must be int64 of shape {tuple(h.shape[:-1])}, "
            f"got {target.dtype} of shape {tuple(target.shape)}"
        )
    for name, t in (("weight", weight), ("bias", bias), ("target", target), ("class_weight", class_weight)):
        check_device(t, name, h.device, where)
    for name, t in (("bias", bias), ("class_weight", class_weight)):
        if t is not None and (t.shape != weight.shape[:1] or not t.is_floating_point()):
            raise ValueError(
                f"{where}: {name} must be floating of shape [K] = ({weight.shape[0]},), "
                f"got {t.dtype} of shape {tuple(t.shape)}"
            )
