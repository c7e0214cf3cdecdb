"""Whole experiments: data, model, schedule, training that can be interrupted, report.

`RECIPES` lists them; ``vdropkern train RECIPE`` runs one. See docs/recipes.md.
"""

from __future__ import annotations

from . import (
    allconv6,
    cifar_dropout,
    lenet_5,
    lenet_300_100,
    multi_sample_dropout,
    targeted_dropout,
    vgg_sparse_vd,
    xnor_resnet18,
)
from .config import TrainConfig
from .recipe import Recipe

__all__ = ["RECIPES", "Recipe", "TrainConfig"]

# one module a recipe; a new one is a module here with a RECIPE in it
RECIPES: dict[str, Recipe] = {
    module.RECIPE.name: module.RECIPE
    for module in (
        lenet_300_100,
        lenet_5,
        vgg_sparse_vd,
        cifar_dropout,
        multi_sample_dropout,
        targeted_dropout,
        allconv6,
        xnor_resnet18,
    )
}
