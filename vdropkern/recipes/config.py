"""What a run was asked to do: every number that decides its result, and the schedules made of them."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from ..kl import LinearWarmup
from ..methods import METHODS as ALL_METHODS
from ..methods import Method

# Schedules are staircases of this many steps over a run of any length, so 200 epochs follow the published
# per-epoch schedules exactly and shorter runs follow the same curves, squeezed.
SCHEDULE_STEPS = 200
# those whose loss is the likelihood and a weighted KL, which suit any net
METHODS = (
    "bernoulli",
    "gaussian-s",
    "gaussian-w",
    "variational-a",
    "variational-b",
    "sparse-vd",
    "ard",
    "hierarchical-vd",
    "none",
)
ALIASES = {"hvd": "hierarchical-vd"}
CHOICES = {
    "optimizer": ("adam", "sgd"),
    "augment": ("none", "flip", "pad-crop-flip"),
    "precision": ("fp32", "bf16"),
    "scale": ("smoke", "small", "full"),
}

C = TypeVar("C", bound="TrainConfig")


class ConfigError(ValueError):
    """A setting is out of its range. The message names it, what was given and what is accepted."""


def setting(default: Any, help: str) -> Any:  # noqa: A002  argparse's and typer's name of it
    """A field of a recipe's own settings, with its line of help."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class TrainConfig:
    """The settings of one run; two runs with equal ones on one machine give equal numbers.

    A recipe with settings of its own derives a frozen dataclass from this one.

    Attributes:
        recipe: name of the recipe.
        method: one of `methods`, or an alias of one.
        epochs: passes over the training set, 1 to 10^9.
        batch_size: examples a step, 1 to 10^9.
        lr: the optimiser's learning rate of weights and biases, > 0.
        noise_lr: the same of the noise parameters (log_sigma2 or log_alpha), > 0.
        lr_decay_start: part of the run in [0, 1] after which both fall linearly to zero.
        lr_steps: parts of the run at which both are multiplied by `lr_gamma`.
        kl_start, kl_end: parts of the run between which the KL weight rises linearly from 0 to kl_scale; both
            0: no warm-up.
        kl_scale: last KL weight, >= 0; 1 is the variational bound.
        log_sigma2: where log_sigma2 starts (methods that have one).
        threshold: weights with log_alpha at or above it are pruned.
        clip_start: part of the run in [0, 1] after which such weights already train with mean 0 (methods
            that prune; `SparseVD.train_clip`); 0: from the start, as in the authors' scripts; 1: never.
        optimizer: ``adam`` (beta1) or ``sgd`` (momentum, nesterov).
        weight_decay: of all but the noise parameters, >= 0.
        clip_norm: the gradient is scaled down to this norm; 0: never.
        augment: ``none``, ``flip`` or ``pad-crop-flip`` (4 pixels), of training images.
        precision: ``fp32``, or ``bf16`` by autocast.
        scale: ``full``, or ``small`` or ``smoke``: fewer examples and epochs, as the recipe has it.
        init: folder of a run whose trained weights this one starts from; empty: none.
        seed: of the weights, the noise, the augmentation and the order of the examples, 0 to 2^63 - 1.
    """

    methods: ClassVar[tuple[str, ...]] = METHODS

    recipe: str = "lenet-300-100"
    method: str = "sparse-vd"
    epochs: int = 200
    batch_size: int = 100
    lr: float = 1e-3
    noise_lr: float = 1e-3
    lr_decay_start: float = setting(0.5, "part of the run after which rates fall linearly to 0")
    lr_steps: tuple[float, ...] = setting((), "parts of the run at which rates are multiplied by lr-gamma")
    lr_gamma: float = setting(0.1, "see lr-steps")
    kl_start: float = 0.025
    kl_end: float = 0.1
    kl_scale: float = setting(1.0, "last weight of the KL")
    log_sigma2: float = -10.0
    threshold: float = 3.0
    clip_start: float = 0.5
    optimizer: str = setting("adam", "adam or sgd")
    beta1: float = setting(0.9, "Adam's first beta")
    momentum: float = setting(0.9, "SGD's momentum")
    nesterov: bool = setting(False, "SGD's Nesterov momentum")
    weight_decay: float = setting(0.0, "of all but the noise's parameters")
    clip_norm: float = setting(0.0, "norm to which gradients are scaled down; 0: never")
    augment: str = "none"
    precision: str = "fp32"
    scale: str = "full"
    init: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "method", ALIASES.get(self.method, self.method))
        object.__setattr__(self, "lr_steps", tuple(self.lr_steps))
        self.check_choice("method", self.methods, (*self.methods, *ALIASES))
        for name, accepted in CHOICES.items():
            self.check_choice(name, accepted)
        for name in ("epochs", "batch_size"):
            if not 1 <= getattr(self, name) <= 10**9:
                raise ConfigError(f"{name}: {getattr(self, name)} given, 1 to 10^9 accepted")
        for name in ("lr", "noise_lr", "lr_gamma"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name}: {getattr(self, name)} given, a positive number accepted")
        for name in ("lr_decay_start", "kl_start", "kl_end", "clip_start"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}: {getattr(self, name)} given, 0 to 1 (parts of the run) accepted")
        if not all(0 < part < 1 for part in self.lr_steps):
            raise ConfigError(f"lr_steps: {self.lr_steps} given, parts between 0 and 1 accepted")
        if self.kl_start > self.kl_end:
            raise ConfigError(
                f"kl_start: {self.kl_start} given, less than kl_end = {self.kl_end}, or as much, accepted"
            )
        for name in ("beta1", "momentum"):
            self.check_range(name, 0, 0.9999)
        for name in ("kl_scale", "weight_decay", "clip_norm"):
            self.check_range(name, 0, 1e6)
        for name in ("log_sigma2", "threshold"):
            self.check_range(name, -20, 20)
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed: {self.seed} given, 0 to 2^63 - 1 accepted")

    def check_choice(self, name: str, choices: tuple[Any, ...], told: tuple[Any, ...] = ()) -> None:
        """Raise ConfigError unless the setting is one of `choices`."""
        if (value := getattr(self, name)) not in choices:
            accepted = ", ".join(map(str, told or choices))
            raise ConfigError(f"{name}: {value!r} is unknown; accepted: {accepted}")

    def check_range(self, name: str, low: float, high: float) -> None:
        """Raise ConfigError unless the setting lies in [low, high]."""
        if not low <= (value := getattr(self, name)) <= high:
            raise ConfigError(f"{name}: {value} given, {low:g} to {high:g} accepted")

    def make_method(self, name: str | None = None, **given: Any) -> Method:
        """The method, or that of another name, with the settings and the arguments that it knows."""
        cls = ALL_METHODS[name or self.method]
        known = {f.name for f in dataclasses.fields(cls)}
        given = {"init_log_sigma2": self.log_sigma2, "threshold": self.threshold, **given}
        return cls(**{key: value for key, value in given.items() if key in known})

    def for_data(self, image: tuple[int, ...], classes: int) -> TrainConfig:
        """These settings for inputs [C, H, W] (or [I]) of so many classes."""
        return self

    def as_dict(self) -> dict[str, Any]:
        """As JSON would give it back."""
        items = dataclasses.asdict(self).items()
        return {name: list(value) if isinstance(value, tuple) else value for name, value in items}

    @classmethod
    def types(cls) -> dict[str, Any]:
        """The type of each setting."""
        hints = typing.get_type_hints(cls)
        return {f.name: hints[f.name] for f in dataclasses.fields(cls)}

    @classmethod
    def from_dict(cls: type[C], values: Mapping[str, Any]) -> C:
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ConfigError(f"unknown settings: {', '.join(unknown)}; accepted: {', '.join(sorted(known))}")
        return cls(**values)


@dataclass(frozen=True)
class ImageConfig(TrainConfig):
    """Settings of a net for images; their size and number of classes are those of the data."""

    image: tuple[int, ...] = (3, 32, 32)
    classes: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "image", tuple(self.image))

    def for_data(self, image: tuple[int, ...], classes: int) -> TrainConfig:
        return dataclasses.replace(self, image=tuple(image), classes=classes)


FROM_DATA = ("image", "classes", "train_size")  # settings that no flag gives


@dataclass(frozen=True)
class Schedule:
    """Learning-rate factor and KL weight of each optimiser step of a run."""

    config: TrainConfig
    total_steps: int

    def position(self, step: int) -> int:
        """Stair of a step, 0 to `SCHEDULE_STEPS` - 1."""
        return step * SCHEDULE_STEPS // self.total_steps

    def lr_factor(self, position: int) -> float:
        """1, then a straight line to 0 from `lr_decay_start` on; lr_gamma from each of `lr_steps` on."""
        part_done = position / SCHEDULE_STEPS  # a part times the stairs may lie just above a whole number
        left = 1 - part_done
        decay = 1 - self.config.lr_decay_start
        line = 1.0 if left >= decay else left / decay
        passed = sum(part_done >= part for part in self.config.lr_steps)
        return line * self.config.lr_gamma**passed

    def clips(self, position: int) -> bool:
        """Whether weights that would be pruned train with mean 0."""
        return position / SCHEDULE_STEPS >= self.config.clip_start

    def kl_weight(self, position: int) -> float:
        """0 up to `kl_start`, kl_scale from `kl_end` on, a straight line between."""
        start, end = self.config.kl_start, self.config.kl_end
        if start == end:
            return self.config.kl_scale if position / SCHEDULE_STEPS >= end else 0.0
        return LinearWarmup(start * SCHEDULE_STEPS, end * SCHEDULE_STEPS, self.config.kl_scale)(position)
