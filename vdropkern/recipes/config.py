"""What a run was asked to do: every number that decides its result, and the schedules made of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..kl import LinearWarmup

# Schedules are staircases of this many steps over a run of any length, so 200 epochs follow the published
# per-epoch schedules exactly and shorter runs follow the same curves, squeezed.
SCHEDULE_STEPS = 200
# those whose loss is the likelihood and a weighted KL, which is what the recipes train
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


class ConfigError(ValueError):
    """A setting is out of its range. The message names it, what was given and what is accepted."""


@dataclass(frozen=True)
class TrainConfig:
    """The settings of one run; two runs with equal ones on one machine give equal numbers.

    Attributes:
        recipe: name of the recipe.
        method: one of `METHODS`, or an alias of one.
        epochs: passes over the training set, >= 1.
        batch_size: examples a step, >= 1.
        lr: Adam's learning rate of weights and biases, > 0.
        noise_lr: the same of the noise parameters (log_sigma2 or log_alpha), > 0.
        lr_decay_start: part of the run in [0, 1] after which both fall linearly to zero.
        kl_start, kl_end: parts of the run between which the KL weight rises linearly from 0 to 1.
        log_sigma2: where log_sigma2 starts (methods that have one).
        threshold: weights with log_alpha at or above it are pruned.
        clip_start: part of the run in [0, 1] after which such weights already train with mean 0 (methods
            that prune; `SparseVD.train_clip`); 0: from the start, as in the authors' scripts; 1: never.
        seed: of the weights, the noise and the order of the examples, 0 to 2^63 - 1.
    """

    recipe: str = "lenet-300-100"
    method: str = "sparse-vd"
    epochs: int = 200
    batch_size: int = 100
    lr: float = 1e-3
    noise_lr: float = 1e-3
    lr_decay_start: float = 0.5
    kl_start: float = 0.025
    kl_end: float = 0.1
    log_sigma2: float = -10.0
    threshold: float = 3.0
    clip_start: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "method", ALIASES.get(self.method, self.method))
        if self.method not in METHODS:
            accepted = ", ".join((*METHODS, *ALIASES))
            raise ConfigError(f"method: {self.method!r} is unknown; accepted: {accepted}")
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: {getattr(self, name)} given, at least 1 accepted")
        for name in ("lr", "noise_lr"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name}: {getattr(self, name)} given, a positive number accepted")
        for name in ("lr_decay_start", "kl_start", "kl_end", "clip_start"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}: {getattr(self, name)} given, 0 to 1 (parts of the run) accepted")
        if self.kl_start >= self.kl_end:
            raise ConfigError(f"kl_start: {self.kl_start} given, less than kl_end = {self.kl_end} accepted")
        for name in ("log_sigma2", "threshold"):
            if not -20 <= getattr(self, name) <= 20:
                raise ConfigError(f"{name}: {getattr(self, name)} given, -20 to 20 accepted")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed: {self.seed} given, 0 to 2^63 - 1 accepted")

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ConfigError(f"unknown settings: {', '.join(unknown)}; accepted: {', '.join(sorted(known))}")
        return cls(**values)


@dataclass(frozen=True)
class Schedule:
    """Learning-rate factor and KL weight of each optimiser step of a run."""

    config: TrainConfig
    total_steps: int

    def position(self, step: int) -> int:
        """Stair of a step, 0 to `SCHEDULE_STEPS` - 1."""
        return step * SCHEDULE_STEPS // self.total_steps

    def lr_factor(self, position: int) -> float:
        """1, then a straight line to 0 from `lr_decay_start` on."""
        left = 1 - position / SCHEDULE_STEPS
        decay = 1 - self.config.lr_decay_start
        return 1.0 if left >= decay else left / decay

    def clips(self, position: int) -> bool:
        """Whether weights that would be pruned train with mean 0."""
        return position >= self.config.clip_start * SCHEDULE_STEPS

    def kl_weight(self, position: int) -> float:
        """0 up to `kl_start`, 1 from `kl_end` on, a straight line between."""
        start, end = self.config.kl_start * SCHEDULE_STEPS, self.config.kl_end * SCHEDULE_STEPS
        return LinearWarmup(start, end)(position)
