"""ResNet-32 on CIFAR-10, trained to be pruned: targeted dropout (Gomez et al. 2019, arXiv 1905.13678).

Net and schedule of the authors' code, github for-ai/TD: pre-activation blocks, a stem of 7x7 and 16 filters,
then five blocks each of 32, 64 and 128; SGD with momentum 0.9, batches of 128, 0.4 falling tenfold at 0.4,
0.6 and 0.8 of 256 epochs, weight decay 2e-4 (none with ``sparse-vd``), gradients of norm 1 at most. Stem
and classifier carry no method and are not pruned. In the end the net is pruned by magnitude, weights within
each output and whole outputs, at every share of `SHARES`, and tested: that is the experiment's result.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .. import functional as F
from .. import nn as vnn
from ..methods import Method
from .config import ImageConfig, TrainConfig, setting
from .recipe import Recipe, Scale, plain_groups
from .results import dense_twin
from .train import Trainer

NAME = "targeted-dropout"
STEM, STAGES = 16, (32, 64, 128)
SHARES = (0.0, 0.25, 0.5, 0.75, 0.8, 0.9, 0.95, 0.99)
RAMP = 0.4  # of the run: the authors' 40,000 of 100,000 steps

# gamma and alpha where none are given: the authors', but for magnitude pruning's, which are ours
DEFAULTS = {
    "bernoulli": (1.0, 0.25),  # as many as targeted dropout of (0.5, 0.5) drops
    "drop-connect": (1.0, 0.25),
    "targeted-weight": (0.5, 0.5),
    "targeted-unit": (0.5, 0.5),
    "ramping-targeted-weight": (0.99, 0.99),
    "ramping-targeted-unit": (0.9, 0.99),
    "magnitude-weight": (0.9, 1.0),
    "magnitude-unit": (0.5, 1.0),
}


@dataclass(frozen=True)
class TargetedConfig(ImageConfig):
    """What is dropped, and the net's size."""

    methods: ClassVar[tuple[str, ...]] = ("none", *DEFAULTS, "smallify", "sparse-vd")

    gamma: float = setting(0.0, "share of candidates, or pruned by magnitude-*; 0: the method's usual one")
    alpha: float = setting(0.0, "probability of dropping (a candidate); 0: the method's usual one")
    width: float = setting(1.0, "factor of all widths")
    blocks: int = setting(5, "blocks of two convolutions in each of the three stages; 5: ResNet-32")
    train_size: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("gamma", 0, 1)
        self.check_range("alpha", 0, 1 if "targeted" in self.method else 0.99)
        self.check_range("width", 0.0625, 16)
        self.check_range("blocks", 1, 32)

    def layer_method(self) -> Method:
        """The method of the layers between stem and classifier."""
        usual_gamma, usual_alpha = DEFAULTS.get(self.method, (0.0, 0.0))
        gamma, alpha = self.gamma or usual_gamma, self.alpha or usual_alpha
        targets = self.method.rpartition("-")[2]
        ramp = max(1, round(RAMP * self.epochs * math.ceil(self.train_size / self.batch_size)))
        if self.method.endswith(("targeted-weight", "targeted-unit")):
            ramps = {"ramp_steps": ramp} if self.method.startswith("ramping") else {}
            return self.make_method("targeted-dropout", gamma=gamma, alpha=alpha, targets=targets, **ramps)
        if self.method.startswith("magnitude"):
            return self.make_method("magnitude-pruning", fraction=gamma, targets=targets, ramp_steps=ramp)
        if self.method == "smallify":  # the setting threshold is log_alpha's, not that of switches
            return self.make_method(threshold=0.5)
        return self.make_method(p=alpha)


class PreActivation(torch.nn.Module):
    """h = relu(bn(x)); body(h) + x, or + shortcut(h) where the size changes (He et al. 2016, 1603.05027)."""

    def __init__(self, inputs: int, outputs: int, stride: int, project: bool, method: Method) -> None:
        super().__init__()
        self.before = torch.nn.Sequential(torch.nn.BatchNorm2d(inputs), torch.nn.ReLU())
        self.body = torch.nn.Sequential(
            vnn.Conv2d(inputs, outputs, 3, stride, 1, bias=False, method=method),
            torch.nn.BatchNorm2d(outputs),
            torch.nn.ReLU(),
            vnn.Conv2d(outputs, outputs, 3, 1, 1, bias=False, method=method),
        )
        self.shortcut = vnn.Conv2d(inputs, outputs, 1, stride, bias=False, method=method) if project else None

    def forward(self, x: Tensor) -> Tensor:
        """x [N, C, H, W] -> [N, C', H', W']."""
        h = self.before(x)
        y: Tensor = self.body(h) + (x if self.shortcut is None else self.shortcut(h))
        return y


def build(config: TargetedConfig) -> torch.nn.Sequential:
    """The net, freshly initialised from torch's generator."""
    method = config.layer_method()
    stem, *stages = (max(1, round(width * config.width)) for width in (STEM, *STAGES))
    net = torch.nn.Sequential(torch.nn.Conv2d(config.image[0], stem, 7, 1, 3, bias=False))
    before = stem
    for stage, width in enumerate(stages):
        for block in range(config.blocks):
            stride = 2 if stage and not block else 1
            net.append(PreActivation(before, width, stride, not block, method))
            before = width
    net.extend([torch.nn.BatchNorm2d(before), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1)])
    return net.extend([torch.nn.Flatten(), torch.nn.Linear(before, config.classes)])


def prepare(images: Tensor) -> Tensor:
    """uint8 [N, C, H, W] -> float32, each image with mean 0 and deviation 1."""
    x = images.to(torch.float32)
    std, mean = torch.std_mean(x, (1, 2, 3), correction=0, keepdim=True)
    return (x - mean) / std.clamp(min=x[0].numel() ** -0.5)


def groups(model: torch.nn.Module, config: TargetedConfig) -> list[dict[str, Any]]:
    """As usual, without weight decay where a prior takes its place."""
    decay = 0.0 if config.method == "sparse-vd" else config.weight_decay
    return plain_groups(model, dataclasses.replace(config, weight_decay=decay))


@torch.no_grad()
def pruned(net: torch.nn.Module, share: float, targets: str) -> torch.nn.Module:
    """A copy of a net of torch's layers without that share of the weights of each output, or of its outputs.

    Those of least magnitude, or L2 norm, go (section 2 of the paper); stem and classifier stay whole.
    """
    smaller = copy.deepcopy(net)
    convolutions = [m for m in smaller.modules() if isinstance(m, torch.nn.Conv2d)]
    for layer in convolutions[1:]:
        bound = F.weight_thresholds(layer.weight, share, granularity=targets)
        layer.weight.masked_fill_(layer.weight.abs() < bound.reshape(-1, 1, 1, 1), 0.0)
    return smaller


def finish(trainer: Trainer) -> dict[str, Any]:
    """Accuracy of the net before (share 0) and after pruning, by share."""
    net = dense_twin(trainer.model)
    return {
        f"Accuracy after pruning {what}": [_tested(trainer, net, share, targets) for share in SHARES]
        for what, targets in (("weights of each output", "weight"), ("whole outputs", "unit"))
    }


def _tested(trainer: Trainer, net: torch.nn.Module, share: float, targets: str) -> dict[str, Any]:
    smaller = pruned(net, share, targets)
    _, error = trainer.test(smaller)
    weights = [m.weight for m in smaller.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
    return {
        "share": share,
        "accuracy": round(100 - error, 4),
        "nonzero": sum(int(torch.count_nonzero(w)) for w in weights),
        "weights": sum(w.numel() for w in weights),
    }


def default_config(train_size: int) -> TrainConfig:
    """The authors' settings."""
    return TargetedConfig(
        recipe=NAME, method="targeted-weight", epochs=256, batch_size=128, optimizer="sgd", lr=0.4,
        noise_lr=0.4, lr_decay_start=1.0, lr_steps=(0.4, 0.6, 0.8), kl_start=0.0, kl_end=0.5, kl_scale=0.01,
        weight_decay=2e-4, clip_norm=1.0, augment="pad-crop-flip", train_size=train_size,
    )  # fmt: skip


RECIPE = Recipe(
    name=NAME,
    summary="ResNet-32 on CIFAR-10, tested at rising shares of pruned weights and units",
    build=build,
    prepare=prepare,
    default_config=default_config,
    config=TargetedConfig,
    data="images",
    groups=groups,
    finish=finish,
    small=Scale(train=5_000, test=2_000, epochs=10),
    smoke=Scale(train=128, test=32, epochs=2),
)
