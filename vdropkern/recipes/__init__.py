"""Whole experiments: data, model, schedule, training that can be interrupted, report.

`RECIPES` lists them; ``vdropkern train RECIPE`` runs one. See docs/recipes.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from . import lenet_300_100
from .config import TrainConfig

__all__ = ["RECIPES", "Recipe"]


@dataclass(frozen=True)
class Recipe:
    """An experiment: how its net, its inputs and its default settings are made.

    image_size is that of the first layer's inputs, for pictures of its receptive fields.
    """

    name: str
    summary: str
    build: Callable[[TrainConfig], torch.nn.Sequential]
    prepare: Callable[[Tensor], Tensor]
    default_config: Callable[[int], TrainConfig]
    image_size: tuple[int, int]


RECIPES = {
    lenet_300_100.NAME: Recipe(
        name=lenet_300_100.NAME,
        summary="784-300-100-10 with ReLU on MNIST digits",
        build=lenet_300_100.build,
        prepare=lenet_300_100.prepare,
        default_config=lenet_300_100.default_config,
        image_size=(28, 28),
    )
}
