"""Five strided convolutions and a classifier: dropout, batch normalisation, pooling or a linear layer.

Convolutions of 3x3 at stride 2 with 64, 64, 128, 128 and 256 filters, each with a ReLU; ``--drop`` (0, 0.5 or
0.9 in the study) after the last; then the mean over the image (``--head gap``) or all of its features
(``--head fc``) into a linear layer. SGD with momentum 0.9, rates falling tenfold every tenth of the run,
biases at twice the rate and without weight decay, as Caffe has it. On any images; the study's were 224x224,
of 20 classes.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .. import nn as vnn
from .config import ImageConfig, TrainConfig, setting
from .recipe import Recipe, Scale

NAME = "allconv6"
FILTERS = (64, 64, 128, 128, 256)
BIAS_LR = 2.0  # times the weights'


@dataclass(frozen=True)
class AllConvConfig(ImageConfig):
    """The study's switches."""

    methods: ClassVar[tuple[str, ...]] = ("bernoulli",)

    drop: float = setting(0.5, "probability of dropping a feature of the last convolution; 0: none")
    batch_norm: bool = setting(False, "batch normalisation between convolution and ReLU")
    head: str = setting("gap", "gap: mean over the image, or fc: all features")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("drop", 0, 0.999)
        self.check_choice("head", ("gap", "fc"))


def build(config: AllConvConfig) -> torch.nn.Sequential:
    """The net: filters from N(0, 0.01^2), the classifier by Xavier's rule, biases 0."""
    channels, high, wide = config.image
    net = torch.nn.Sequential()
    for inputs, outputs in itertools.pairwise((channels, *FILTERS)):
        conv = torch.nn.Conv2d(inputs, outputs, 3, 2, 1)
        torch.nn.init.normal_(conv.weight, std=0.01)
        assert conv.bias is not None  # as torch makes it by default
        torch.nn.init.zeros_(conv.bias)
        norm = [torch.nn.BatchNorm2d(outputs)] if config.batch_norm else []
        net.extend([conv, *norm, torch.nn.ReLU()])
        high, wide = -(-high // 2), -(-wide // 2)
    if config.drop:
        net.append(vnn.Dropout(FILTERS[-1], config.make_method(p=config.drop), channel_dim=-3))
    if config.head == "gap":
        net.append(torch.nn.AdaptiveAvgPool2d(1))
        high = wide = 1
    classifier = torch.nn.Linear(FILTERS[-1] * high * wide, config.classes)
    torch.nn.init.xavier_uniform_(classifier.weight)
    torch.nn.init.zeros_(classifier.bias)
    return net.extend([torch.nn.Flatten(), classifier])


def groups(model: torch.nn.Module, config: AllConvConfig) -> list[dict[str, Any]]:
    """Weights with decay, biases at twice the rate without."""
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    return [
        {"name": "weights", "params": weights, "lr": config.lr, "weight_decay": config.weight_decay},
        {"name": "biases", "params": others, "lr": BIAS_LR * config.lr, "weight_decay": 0.0},
    ]


def prepare(images: Tensor) -> Tensor:
    """uint8 [N, C, H, W] -> float32, the study's mean colour subtracted (ImageNet's), not scaled."""
    mean = torch.tensor((124.0, 117.0, 104.0), device=images.device).reshape(3, 1, 1)
    return images.to(torch.float32) - (mean if images.shape[1] == 3 else 117.0)


def default_config(train_size: int) -> TrainConfig:
    """The study's schedule, 100,000 steps of 64 images, as epochs of the data at hand."""
    return AllConvConfig(
        recipe=NAME, method="bernoulli", epochs=max(1, round(6_400_000 / max(train_size, 1))), batch_size=64,
        optimizer="sgd", lr=1e-2, noise_lr=1e-2, lr_decay_start=1.0,
        lr_steps=tuple(i / 10 for i in range(1, 10)), weight_decay=5e-3, augment="flip",
    )  # fmt: skip


RECIPE = Recipe(
    name=NAME,
    summary="five strided convolutions; dropout, batch normalisation, mean or linear head, on any images",
    build=build,
    prepare=prepare,
    default_config=default_config,
    config=AllConvConfig,
    data="images",
    groups=groups,
    small=Scale(train=5_000, test=2_000, epochs=20),
)
