"""LeNet-5 (20-50 convolutions, 500 hidden units) on digits: Molchanov et al. 2017, section 5.1, and others.

Of Molchanov et al. 2017 (arXiv 1701.05369): the net and its schedule, 200 epochs of Adam at 1e-3 that falls
linearly to 0, KL weight 0 up to epoch 5 and 1 from epoch 20; ``--init RUN`` starts from the weights of a run
with ``--method none``. SBP (Neklyudov et al. 2017, arXiv 1705.07283) always does, and its rates fall from
epoch 100 on: ``--method sbp --beta1 0.95 --lr-decay-start 0.5 --init RUN``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .. import nn as vnn
from .config import METHODS, TrainConfig
from .recipe import Recipe, Scale

NAME = "lenet-5"


@dataclass(frozen=True)
class LeNet5Config(TrainConfig):
    """`TrainConfig`, and structured Bayesian pruning among the methods."""

    methods: ClassVar[tuple[str, ...]] = (*METHODS, "sbp")


PUBLISHED = LeNet5Config(recipe=NAME, lr_decay_start=0.0)
# as lenet-300-100's: fewer steps need larger ones, and a KL that weighs more a later start
SMALL_DATA = LeNet5Config(recipe=NAME, epochs=60, noise_lr=1e-2, lr_decay_start=0.0, kl_start=0.1, kl_end=0.5)
SMALL_DATA_BELOW = 20_000  # training examples


def default_config(train_size: int) -> TrainConfig:
    """The published settings, or those for less than 20,000 training examples."""
    return SMALL_DATA if train_size < SMALL_DATA_BELOW else PUBLISHED


def build(config: TrainConfig) -> torch.nn.Sequential:
    """The net, freshly initialised from torch's generator."""
    method = config.make_method()
    return torch.nn.Sequential(
        vnn.Conv2d(1, 20, 5, method=method),  # [B, 1, 28, 28] -> [B, 20, 24, 24]
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        vnn.Conv2d(20, 50, 5, method=method),  # [B, 20, 12, 12] -> [B, 50, 8, 8]
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        vnn.Linear(800, 500, method=method),
        torch.nn.ReLU(),
        vnn.Linear(500, 10, method=method),
    )


def prepare(images: Tensor) -> Tensor:
    """uint8 [N, 784] -> float32 [N, 1, 28, 28] in [0, 1]."""
    return images.reshape(-1, 1, 28, 28).to(torch.float32) / 255


RECIPE = Recipe(
    name=NAME,
    summary="LeNet-5 (20 and 50 filters of 5x5, 500 units) on MNIST digits",
    build=build,
    prepare=prepare,
    default_config=default_config,
    config=LeNet5Config,
    small=Scale(train=10_000, test=5_000, epochs=15),
)
