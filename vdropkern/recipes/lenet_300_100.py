"""LeNet-300-100 (784-300-100-10, ReLU) on digits: Molchanov et al. 2017 (arXiv 1701.05369), section 5.1."""

from __future__ import annotations

import itertools
from collections import OrderedDict

import torch
from torch import Tensor

from .. import nn as vnn
from .config import TrainConfig
from .recipe import Recipe, Scale

NAME = "lenet-300-100"
WIDTHS = (784, 300, 100, 10)
INPUT_DROPOUT = 0.2  # Srivastava et al. 2014, section 4, for the input; 0.5 for what is hidden

# The published schedule: Adam 1e-3 for 100 epochs, then linearly to 0; KL weight 0 up to epoch 5, 1 from 20.
PUBLISHED = TrainConfig(recipe=NAME)
# With 15 times less data each epoch has 15 times fewer steps and the KL weighs 15 times more: the noise
# needs larger steps to get anywhere, the KL a later start so that something is learned before it prunes.
SMALL_DATA = TrainConfig(recipe=NAME, epochs=100, lr=2e-3, noise_lr=1e-2, kl_start=0.1, kl_end=0.5)
SMALL_DATA_BELOW = 20_000  # training examples


def default_config(train_size: int) -> TrainConfig:
    """The published settings, or those for less than 20,000 training examples."""
    return SMALL_DATA if train_size < SMALL_DATA_BELOW else PUBLISHED


def build(config: TrainConfig) -> torch.nn.Sequential:
    """The net, freshly initialised from torch's generator; method ``none`` gives plain `torch.nn.Linear`."""
    layers: OrderedDict[str, torch.nn.Module] = OrderedDict()
    for i, (inputs, outputs) in enumerate(itertools.pairwise(WIDTHS), 1):
        if config.method == "none":
            layers[f"fc{i}"] = torch.nn.Linear(inputs, outputs)
        else:
            method = config.make_method(p=INPUT_DROPOUT if config.method == "bernoulli" and i == 1 else 0.5)
            layers[f"fc{i}"] = vnn.Linear(inputs, outputs, method=method)
        if i < len(WIDTHS) - 1:
            layers[f"relu{i}"] = torch.nn.ReLU()
    return torch.nn.Sequential(layers)


def prepare(images: Tensor) -> Tensor:
    """uint8 [N, 784] -> float32 [N, 784] in [0, 1]."""
    return images.to(torch.float32) / 255


RECIPE = Recipe(
    name=NAME,
    summary="784-300-100-10 with ReLU on MNIST digits",
    build=build,
    prepare=prepare,
    default_config=default_config,
    image_size=(28, 28),
    small=Scale(epochs=20),
)
