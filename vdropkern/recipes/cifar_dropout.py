"""Dropout of every kind on a small net for CIFAR-10: github lumosity4tpj/a-series-of-dropout's comparison.

Two strided convolutions and three linear layers, with no nonlinearity between the latter, as there
(``--activation softplus`` puts one). The noise is in the linear layers; ``--drop-where conv`` puts that of
the first one on the C channels before the flatten, ``fc`` (default) on the C H W features after it. 100
epochs of Adam, 1e-3 falling linearly to 0, batches of 1000. The loss is CE + beta KL / N, beta 0 up to epoch
5 and 1 from epoch 20: at 1 from the first step, as in the comparison (``--kl-start 0 --kl-end 0``), the KL of
the first linear layer's 401,408 weights is 2.8 nats at log_alpha 0, more than the 2.3 of guessing. Test
numbers are of the mean weights, and of one noisy sample (``sample_error``), which is what that comparison's
code measured, save for no dropout and Bernoulli's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .. import nn as vnn
from .. import use_eval_mode
from ..methods import METHODS
from .config import METHODS as COMMON
from .config import ConfigError, ImageConfig, TrainConfig, setting
from .recipe import Recipe, Scale
from .train import Trainer

NAME = "cifar-dropout"
LEAST_SIDE = 7  # of which two convolutions leave one pixel
UNIT_METHODS = ("bernoulli", "gaussian-s", "variational-a", "sparse-vd-a", "hierarchical-vd-a", "none")


@dataclass(frozen=True)
class CifarDropoutConfig(ImageConfig):
    """Settings of the comparison: width, where the noise is, and what its parameter is."""

    methods: ClassVar[tuple[str, ...]] = (*COMMON, "sparse-vd-a", "hierarchical-vd-a")

    scale_width: float = setting(1.0, "factor of all widths; the comparison has 1, 1.5 and 2")
    drop_where: str = setting(
        "fc", "fc or conv: what the noise of the first linear layer's inputs is a unit of"
    )
    parameter: str = setting("log_alpha", "log_alpha or log_sigma2 of each weight; unit: log_alpha an output")
    activation: str = setting("none", "between linear layers: none or softplus")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("scale_width", 0.0625, 16)
        self.check_choice("drop_where", ("fc", "conv"))
        self.check_choice("parameter", ("log_alpha", "log_sigma2", "unit"))
        self.check_choice("activation", ("none", "softplus"))
        if min(self.image[1:]) < LEAST_SIDE:
            raise ConfigError(
                f"image: {list(self.image)} given, at least {LEAST_SIDE} pixels a side accepted"
            )
        if self.drop_where == "conv" and self.method not in UNIT_METHODS:
            self.check_choice("method", UNIT_METHODS, (*UNIT_METHODS, "(with drop_where conv)"))

    def method_arguments(self) -> tuple[str, dict[str, Any]]:
        """Name of the method in `vdropkern.methods`, and its arguments."""
        name = self.method.removesuffix("-a") if self.method not in METHODS else self.method
        if self.method.endswith("-a") and self.method != "variational-a":
            return name, {"noise": "input", "init_log_alpha": 0.0}
        if self.parameter == "unit" and name not in UNIT_METHODS:
            return name, {"noise": "output", "init_log_alpha": 0.0}
        if self.parameter == "log_sigma2":
            return name, {"parameterisation": "log_sigma2"}
        return name, {"parameterisation": "log_alpha", "init_log_alpha": 0.0}


def build(config: CifarDropoutConfig) -> torch.nn.Sequential:
    """The net, freshly initialised from torch's generator."""
    first, second, hidden = (round(width * config.scale_width) for width in (32, 64, 128))
    channels, *size = config.image
    high, wide = (((side - 3) // 2 + 1 - 3) // 2 + 1 for side in size)
    name, arguments = config.method_arguments()
    method, none = config.make_method(name, **arguments), config.make_method("none")
    early = config.drop_where == "conv"
    between = [torch.nn.Softplus()] if config.activation == "softplus" else []
    return torch.nn.Sequential(
        torch.nn.Conv2d(channels, first, 3, 2),
        torch.nn.Softplus(),
        torch.nn.Conv2d(first, second, 3, 2),
        torch.nn.Softplus(),
        *([vnn.Dropout(second, method, channel_dim=-3)] if early else []),
        torch.nn.Flatten(),
        vnn.Linear(second * high * wide, hidden, method=none if early else method),
        *between,
        vnn.Linear(hidden, hidden, method=method),
        *between,
        vnn.Linear(hidden, config.classes, method=method),
    )


def prepare(images: Tensor) -> Tensor:
    """uint8 [N, C, H, W] -> float32 in [-1, 1]."""
    return images.to(torch.float32) / 127.5 - 1


def measure(trainer: Trainer) -> dict[str, float]:
    """The other protocol: one noisy sample."""
    with use_eval_mode(trainer.model, "sample"):
        nll, error = trainer.test()
    return {"sample_nll": nll, "sample_error": error}


def default_config(train_size: int) -> TrainConfig:
    """The comparison's settings, and a KL warm-up."""
    return CifarDropoutConfig(
        recipe=NAME, epochs=100, batch_size=1000 if train_size > 10_000 else 100, lr_decay_start=0.0,
        kl_start=0.05, kl_end=0.2, clip_start=1.0,
    )  # fmt: skip


RECIPE = Recipe(
    name=NAME,
    summary="two convolutions, three linear layers, dropout of every kind, on CIFAR-10",
    build=build,
    prepare=prepare,
    default_config=default_config,
    config=CifarDropoutConfig,
    data="images",
    measure=measure,
    small=Scale(train=10_000, test=2_000, epochs=20),
)
