"""Whole experiments: data, model, schedule, training that can be interrupted, report.

`RECIPES` lists them; ``vdropkern train RECIPE`` runs one. See docs/recipes.md.
"""

from __future__ import annotations

from . import lenet_300_100, targeted_dropout, xnor_resnet18
from .config import TrainConfig
from .recipe import Recipe

__all__ = ["RECIPES", "Recipe", "TrainConfig"]

# one module a recipe; a new one is a module here with a RECIPE in it
RECIPES: dict[str, Recipe] = {
    module.RECIPE.name: module.RECIPE for module in (lenet_300_100, targeted_dropout, xnor_resnet18)
}
