"""Multi-sample dropout on a small ResNet for CIFAR-10: Inoue 2019 (arXiv 1905.09788).

Net and schedule of github lonePatient/multi-sample_dropout_pytorch: a stem of 32 filters, four stages of two
blocks (32, 64, 64, 128 filters), 4x4 average pooling, a linear head; 20 epochs of Adam, 1e-2 and from epoch
10 on 1e-3, batches of 128, no augmentation. ``--samples`` is M: 0 no dropout, 1 plain dropout, 8 the usual.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..nn import MultiSampleHead
from .config import ImageConfig, TrainConfig, setting
from .recipe import Recipe, Scale

NAME = "multi-sample-dropout"
STAGES = ((32, 1), (64, 2), (64, 2), (128, 2))  # filters, stride


@dataclass(frozen=True)
class MultiSampleConfig(ImageConfig):
    """The head's settings."""

    methods: ClassVar[tuple[str, ...]] = ("multi-sample",)

    samples: int = setting(8, "M, dropout masks of the head; 0: none, 1: plain dropout")
    drop: float = setting(0.5, "probability of dropping a feature")
    variant: str = setting("correct", "correct, or as-in-blog: that code's loss, a bug in it included")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("samples", 0, 1024)
        self.check_range("drop", 0, 0.999)
        self.check_choice("variant", ("correct", "as-in-blog"))


class Block(torch.nn.Module):
    """relu(body(x) + shortcut(x)), 3x3 convolutions with batch normalisation."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(
            torch.nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            torch.nn.BatchNorm2d(outputs),
            torch.nn.ReLU(),
            torch.nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            torch.nn.BatchNorm2d(outputs),
        )
        self.shortcut = torch.nn.Sequential()
        if stride > 1 or inputs != outputs:
            self.shortcut.append(torch.nn.Conv2d(inputs, outputs, 1, stride, bias=False))
            self.shortcut.append(torch.nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, C', H', W']."""
        return torch.relu(self.body(x) + self.shortcut(x))


def build(config: MultiSampleConfig) -> torch.nn.Sequential:
    """Trunk and head, freshly initialised from torch's generator."""
    stem = [torch.nn.Conv2d(config.image[0], 32, 3, 1, 1, bias=False), torch.nn.BatchNorm2d(32)]
    trunk, before = torch.nn.Sequential(*stem, torch.nn.ReLU()), 32
    for width, stride in STAGES:
        trunk.extend([Block(before, width, stride), Block(width, width, 1)])
        before = width
    trunk.extend([torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()])
    head = MultiSampleHead(
        before, config.classes, samples=config.samples, p=config.drop,
        variant="as-in-blog" if config.variant == "as-in-blog" else "correct",
    )  # fmt: skip
    return torch.nn.Sequential(trunk, head)


def loss(model: torch.nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The mean of M cross-entropies: the head's own loss on features that are computed once."""
    trunk, head = model.children()
    value: Tensor = head(trunk(x), y)
    return value


def prepare(images: Tensor) -> Tensor:
    """uint8 [N, C, H, W] -> float32 in [-1, 1]."""
    return images.to(torch.float32) / 127.5 - 1


def default_config(train_size: int) -> TrainConfig:
    """The published code's settings."""
    return MultiSampleConfig(
        recipe=NAME, method="multi-sample", epochs=20, batch_size=128, lr=1e-2, lr_decay_start=1.0,
        lr_steps=(0.5,), lr_gamma=0.1,
    )  # fmt: skip


RECIPE = Recipe(
    name=NAME,
    summary="a small ResNet whose head trains on M dropout masks at once, on CIFAR-10",
    build=build,
    prepare=prepare,
    default_config=default_config,
    config=MultiSampleConfig,
    data="images",
    loss=loss,
    small=Scale(train=5_000, test=2_000, epochs=5),
)
