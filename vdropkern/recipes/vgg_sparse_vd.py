"""The VGG-like net of Molchanov et al. 2017 (arXiv 1701.05369), section 5.2, on CIFAR-10, pruned by SparseVD.

Thirteen convolutions of 3x3 with batch normalisation, then 512 units, all widths times ``--width``. The paper
starts from trained weights: ``--method none`` first, then ``--method sparse-vd --init RUN`` with its rate of
1e-5, 200 epochs, batches of 100, KL weight 0 up to epoch 5 and 1 from epoch 20. ``none`` is the dense net
with the paper's dropout and weight decay, trained with ``--lr 1e-3 --weight-decay 1e-5``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .. import nn as vnn
from .config import ImageConfig, TrainConfig, setting
from .recipe import Recipe, Scale

NAME = "vgg-sparse-vd"
# filters by block of convolutions of one resolution, and the dense net's dropout between them
BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


@dataclass(frozen=True)
class VggConfig(ImageConfig):
    """The net's width."""

    methods: ClassVar[tuple[str, ...]] = ("sparse-vd", "ard", "hierarchical-vd", "none")

    width: float = setting(1.0, "factor of all widths")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("width", 0.015625, 4)


def build(config: VggConfig) -> torch.nn.Sequential:
    """The net, freshly initialised from torch's generator."""
    method, dense = config.make_method(), config.method == "none"
    net, before = torch.nn.Sequential(), config.image[0]
    for block, filters in enumerate(BLOCKS):
        for i, count in enumerate(filters):
            width = max(1, round(count * config.width))
            net.append(vnn.Conv2d(before, width, 3, padding=1, method=method))
            net.extend([torch.nn.BatchNorm2d(width, eps=1e-3), torch.nn.ReLU()])
            if i < len(filters) - 1:  # an Identity in the noisy net, so that both have the same names
                net.append(torch.nn.Dropout(0.3 if block == 0 else 0.4) if dense else torch.nn.Identity())
            before = width
        net.append(torch.nn.MaxPool2d(2, ceil_mode=True))
    side = [-(-size // 2 ** len(BLOCKS)) for size in config.image[1:]]
    hidden = max(1, round(512 * config.width))
    drop = torch.nn.Dropout(0.5) if dense else torch.nn.Identity()
    net.extend([torch.nn.Flatten(), drop, vnn.Linear(before * side[0] * side[1], hidden, method=method)])
    net.extend([torch.nn.BatchNorm1d(hidden, eps=1e-3), torch.nn.ReLU()])
    return net.append(vnn.Linear(hidden, config.classes, method=method))


def prepare(images: Tensor) -> Tensor:
    """uint8 [N, C, H, W] -> float32 in [-1, 1]."""
    return images.to(torch.float32) / 127.5 - 1


def default_config(train_size: int) -> TrainConfig:
    """The published settings, which are for trained weights; --init RUN gives them."""
    return VggConfig(recipe=NAME, lr=1e-5, noise_lr=1e-5, log_sigma2=-15.0)


RECIPE = Recipe(
    name=NAME,
    summary="the VGG-like net of Molchanov et al., pruned, on CIFAR-10",
    build=build,
    prepare=prepare,
    default_config=default_config,
    config=VggConfig,
    data="images",
    small=Scale(train=2_000, test=1_000, epochs=5),
)
