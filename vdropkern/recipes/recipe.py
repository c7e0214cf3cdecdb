"""What a recipe is: an experiment as data, which the engine trains, tests and reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import parameter_groups
from .config import TrainConfig

if TYPE_CHECKING:
    from .train import Trainer

__all__ = ["Recipe", "Scale", "cross_entropy", "make_optimizer", "plain_groups"]


@dataclass(frozen=True)
class Scale:
    """How much is done. train, test: examples at most, None: all. epochs: None: the recipe's."""

    train: int | None = None
    test: int | None = None
    epochs: int | None = None


FULL = Scale()
SMOKE = Scale(train=512, test=256, epochs=2)


def cross_entropy(model: torch.nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The likelihood's part of most losses: mean cross-entropy of the model's logits."""
    return F.cross_entropy(model(x), y)


def plain_groups(model: torch.nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """The optimiser's parameters: the noise's with a rate of their own and no weight decay."""
    return parameter_groups(model, config.lr, config.noise_lr, config.weight_decay)


def make_optimizer(groups: list[dict[str, Any]], config: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser of a configuration; each group keeps its first rate as ``base_lr`` for schedules."""
    for group in groups:
        group["base_lr"] = group["lr"]
    if config.optimizer == "sgd":
        nesterov = config.nesterov and config.momentum > 0
        return torch.optim.SGD(groups, config.lr, momentum=config.momentum, nesterov=nesterov)
    return torch.optim.Adam(groups, betas=(config.beta1, 0.999), fused=True)


def no_numbers(trainer: Trainer) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Recipe:
    """An experiment: how its net, its inputs and its default settings are made.

    Attributes:
        name, summary: on the command line and in reports.
        build: the net of a configuration, freshly initialised from torch's generator.
        prepare: uint8 inputs -> what the net takes.
        default_config: settings for so many training examples.
        config: class of the settings, `TrainConfig` or a frozen dataclass derived from it, whose fields
            become flags of `vdropkern train`.
        data: ``digits`` (uint8 [N, 784]) or ``images`` (uint8 [N, C, H, W]).
        image_size: of the first layer's inputs, for pictures of its receptive fields; None: none are drawn.
        loss: (model in training mode, x, y) -> the likelihood's part of the loss, a mean over the batch; the
            engine adds KL and penalty.
        groups: the optimiser's parameter groups.
        measure: further numbers of an epoch, by name, for its row in metrics.csv.
        finish: further tables of the run by title, each a list of rows, values by column, for results.json
            and the report; called on the trained net in eval mode.
        small: what ``--scale small`` does: minutes on two cores.
        smoke: what ``--scale smoke`` does: seconds, to see that it runs.
    """

    name: str
    summary: str
    build: Callable[[Any], torch.nn.Module]
    prepare: Callable[[Tensor], Tensor]
    default_config: Callable[[int], TrainConfig]
    config: type[TrainConfig] = TrainConfig
    data: Literal["digits", "images"] = "digits"
    image_size: tuple[int, int] | None = None
    loss: Callable[[torch.nn.Module, Tensor, Tensor], Tensor] = cross_entropy
    groups: Callable[[torch.nn.Module, Any], list[dict[str, Any]]] = plain_groups
    measure: Callable[[Trainer], dict[str, float]] = no_numbers
    finish: Callable[[Trainer], dict[str, Any]] = no_numbers
    small: Scale = Scale(train=10_000, test=2_000, epochs=10)
    smoke: Scale = SMOKE

    def scale(self, name: str) -> Scale:
        return {"full": FULL, "small": self.small, "smoke": self.smoke}[name]
