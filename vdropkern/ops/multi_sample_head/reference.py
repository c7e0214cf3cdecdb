"""Multi-sample dropout (Inoue 2019, arXiv 1905.09788): M masked passes of a linear head, the mean loss."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..philox_bits.reference import philox_bits

REDUCTIONS = ("mean", "sum", "none")
_WORD = 2**32 - 1


def keep_masks(seed: Tensor, samples: int, rows: int, cols: int, p: float) -> Tensor:
    """Which features each of the M passes keeps, bool [M, rows, cols].

    Four samples share a random word, which each reads from another byte on: sample i compares the word
    philox_bits[(i // 4) rows + r, c], rotated left by 8 (i % 4) bits, with p 2^32. Rotated words are uniform,
    so each sample drops with probability p to 32 bits; sample 0 has the mask of `mul_noise`. Two samples of a
    word are independent where 256 p is an integer, else correlated by less than 1/128.
    """
    below = min(math.floor(p * 2.0**32), _WORD)
    shared = (samples + 3) // 4  # words
    words = philox_bits(seed, shared * rows, cols).reshape(shared, rows, cols)
    masks = []
    for sample in range(samples):
        word, turn = words[sample // 4], 8 * (sample % 4)
        masks.append(((word << turn & _WORD) | word >> (32 - turn)) >= below)
    return torch.stack(masks) if masks else words.new_zeros((0, rows, cols), dtype=torch.bool)


def compute_dtype(h: Tensor, weight: Tensor) -> torch.dtype:
    """float64 as soon as one is, else float32."""
    return torch.float64 if torch.float64 in (h.dtype, weight.dtype) else torch.float32


def _losses(
    h: Tensor,  # [B, D]
    weight: Tensor,  # [K, D]
    bias: Tensor | None,  # [K]
    target: Tensor,  # [B]
    class_weight: Tensor | None,  # [K]
    seed: Tensor,
    samples: int,
    p: float,
    ignore_index: int,
    label_smoothing: float,
) -> Tensor:
    """Cross-entropy of each row, [B]: the mean over the M passes f(h * mask_i / (1 - p))."""
    total = h.new_zeros(h.shape[0])
    for mask in keep_masks(seed, samples, h.shape[0], h.shape[1], p):
        logits = F.linear(h * mask * (1 / (1 - p)), weight, bias)
        total = total + F.cross_entropy(
            logits,
            target,
            class_weight,
            ignore_index=ignore_index,
            reduction="none",
            label_smoothing=label_smoothing,
        )
    return total / samples


def row_norm(
    target: Tensor, class_weight: Tensor | None, ignore_index: int, reduction: str, dtype: torch.dtype
) -> Tensor:
    """What the sum of the rows' losses is divided by: as `torch.nn.functional.cross_entropy` does it."""
    if reduction != "mean":
        return torch.ones((), dtype=dtype, device=target.device)
    counted = target != ignore_index
    if class_weight is None:
        return counted.sum().to(dtype)
    return torch.where(counted, class_weight.to(dtype)[torch.where(counted, target, 0)], 0).sum()


def multi_sample_head(
    h: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    class_weight: Tensor | None,
    seed: Tensor,
    samples: int,
    p: float,
    reduction: str,
    ignore_index: int,
    label_smoothing: float,
    needs_h: bool,
    needs_weight: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss, and its gradients in h, weight and bias, those not asked for empty.

    The loss is a scalar, or [B] with reduction ``none``, which gives no gradients.
    """
    arguments = (seed, samples, p, ignore_index, label_smoothing)
    dtype = compute_dtype(h, weight)
    with torch.enable_grad():
        leaves = [None if t is None else t.detach().to(dtype).requires_grad_() for t in (h, weight, bias)]
        own_weight = None if class_weight is None else class_weight.to(dtype)
        losses = _losses(leaves[0], leaves[1], leaves[2], target, own_weight, *arguments)  # type: ignore[arg-type]
        if reduction == "none":
            return losses.detach(), *_gradients(losses, leaves, False, False, losses)
        loss = losses.sum() / row_norm(target, class_weight, ignore_index, reduction, dtype)
    return loss.detach(), *_gradients(loss, leaves, needs_h, needs_weight, torch.ones_like(loss))


def multi_sample_head_backward(
    grad: Tensor,  # [B]
    h: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    class_weight: Tensor | None,
    seed: Tensor,
    samples: int,
    p: float,
    ignore_index: int,
    label_smoothing: float,
    needs_h: bool,
    needs_weight: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for reduction ``none``, the masks drawn again."""
    dtype = compute_dtype(h, weight)
    with torch.enable_grad():
        leaves = [None if t is None else t.detach().to(dtype).requires_grad_() for t in (h, weight, bias)]
        own_weight = None if class_weight is None else class_weight.to(dtype)
        losses = _losses(
            leaves[0], leaves[1], leaves[2], target, own_weight,  # type: ignore[arg-type]
            seed, samples, p, ignore_index, label_smoothing,
        )  # fmt: skip
    return _gradients(losses, leaves, needs_h, needs_weight, grad.to(dtype))


def _gradients(
    loss: Tensor, leaves: list[Tensor | None], needs_h: bool, needs_weight: bool, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    wanted = (needs_h, needs_weight, needs_weight)
    asked = [t for t, need in zip(leaves, wanted, strict=True) if t is not None and need]
    found = iter(torch.autograd.grad(loss, asked, grad) if asked else ())
    h, weight, bias = (
        next(found) if t is not None and need else loss.new_empty(0)
        for t, need in zip(leaves, wanted, strict=True)
    )
    return h, weight, bias
