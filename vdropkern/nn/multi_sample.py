"""A classifier's head under multi-sample dropout."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as TF
from torch import Tensor

from .. import functional as F

__all__ = ["MultiSampleHead"]

Variant = Literal["correct", "as-in-blog"]


def mean_dropped(x: Tensor, samples: int, p: float) -> Tensor:
    """Mean of M dropped copies of x: a linear layer's output for it is the mean of M passes' outputs."""
    total = F.mul_noise(x, p)
    for _ in range(samples - 1):
        total = total + F.mul_noise(x, p)
    return total if samples == 1 else total / samples


class MultiSampleHead(torch.nn.Linear):
    """torch.nn.Linear as a classifier's head that trains on M dropout masks at once, and knows its loss.

    Inoue 2019 (arXiv 1905.09788), section 3: loss = 1/M sum_i CE((h * xi_i) W^T + b, target), xi_i ~
    Bernoulli(1 - p) / (1 - p), in one op (`vdropkern.functional.multi_sample_head`): the trunk runs once, and
    no M-fold copy of the features is made.

        head = vnn.MultiSampleHead(128, 10, samples=8)
        loss = head(trunk(images), labels)  # training
        logits = head(trunk(images))  # after head.eval(): plain logits, no noise

    Args:
        in_features, out_features, bias, device, dtype: as torch.nn.Linear.
        samples: M; 1 is plain dropout, 0 none.
        p: probability of dropping a feature, in [0, 1).
        class_weight, ignore_index, reduction, label_smoothing: as torch.nn.CrossEntropyLoss.
        variant: ``correct``, or ``as-in-blog``: what the code of lonePatient/multi-sample_dropout_pytorch
            computes, for comparisons. There only the first sample goes through the layer; the loss of every
            other is the cross-entropy of the dropped features themselves, taken as D logits. It needs
            targets below D.

    Shapes: h [*, D] -> logits [*, K] without a target. With target, int64 [*], -> the loss: a scalar, or [*]
    with reduction ``none``. In training without a target: the mean of M passes' logits.

    Raises:
        ValueError: an argument out of range.
    """

    class_weight: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        samples: int = 8,
        p: float = 0.5,
        class_weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        variant: Variant = "correct",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not isinstance(samples, int) or isinstance(samples, bool) or samples < 0:
            raise ValueError(f"MultiSampleHead: samples must be an int >= 0, got {samples!r}")
        if not 0 <= p < 1:
            raise ValueError(f"MultiSampleHead: p must be in [0, 1), got {p!r}")
        if variant not in get_args(Variant):
            accepted = ", ".join(map(repr, get_args(Variant)))
            raise ValueError(f"MultiSampleHead: variant must be one of {accepted}, got {variant!r}")
        super().__init__(in_features, out_features, bias=bias, device=device, dtype=dtype)
        self.samples, self.p, self.variant = samples, p, variant
        self.ignore_index, self.reduction, self.label_smoothing = ignore_index, reduction, label_smoothing
        self.register_buffer("class_weight", class_weight)

    def extra_repr(self) -> str:
        told = f"{super().extra_repr()}, samples={self.samples}, p={self.p}"
        return told if self.variant == "correct" else f"{told}, variant={self.variant!r}"

    def forward(self, input: Tensor, target: Tensor | None = None) -> Tensor:  # noqa: A002  torch's name
        noisy = self.training and self.samples > 0
        if target is None:
            h = mean_dropped(input, self.samples, self.p) if noisy else input
            return TF.linear(h, self.weight, self.bias)
        if not noisy:
            return self._loss(TF.linear(input, self.weight, self.bias), target)
        if self.variant == "as-in-blog":
            return self._loss_as_in_blog(input, target)
        return F.multi_sample_head(
            input,
            self.weight,
            self.bias,
            target,
            self.samples,
            self.p,
            class_weight=self.class_weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )

    def _loss_as_in_blog(self, h: Tensor, target: Tensor) -> Tensor:
        loss = self._loss(TF.linear(F.mul_noise(h, self.p), self.weight, self.bias), target)
        for _ in range(self.samples - 1):
            loss = loss + self._loss(F.mul_noise(h, self.p), target, of_classes=False)
        return loss / self.samples

    def _loss(self, logits: Tensor, target: Tensor, of_classes: bool = True) -> Tensor:
        return TF.cross_entropy(
            logits.reshape(target.numel(), logits.shape[-1]),
            target.reshape(-1),
            self.class_weight if of_classes else None,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        ).reshape(target.shape if self.reduction == "none" else ())
