"""What the estimator study runs, at three scales, and its teacher and student."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import estimators

STES = ("hard-tanh", "steep", "swish", "polynomial")
CHECKED_LR = 0.1


@dataclass(frozen=True)
class StudyConfig:
    """What is run. Two runs with equal settings on one machine give equal numbers.

    `widths` to `lrs` are of the comparison of estimators; `width`, `draws` and `steps` of the questions after
    it: how many samples NES takes there, and how many steps training is.
    """

    widths: tuple[int, ...] = (2, 4, 8, 16, 32, 64)
    samples: tuple[int, ...] = (500, 5_000, 50_000)
    rows: int = 4_000
    repeats: int = 4  # each with a teacher, a student and a batch of its own
    sigma: float = 0.1
    eps: float = 0.1
    lrs: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
    width: int = 16
    draws: int = 5_000
    steps: int = 200
    seed: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The estimators, CDG first."""
        return ("cdg", *(f"nes-{m}" for m in self.samples), *STES)


# smoke: seconds, to see that all of it works; its numbers mean nothing
SCALES = {
    "smoke": StudyConfig(widths=(2, 8), samples=(20, 40), rows=200, repeats=2, width=4, draws=200, steps=8),
    "small": StudyConfig(widths=(2, 4, 8, 16, 32), samples=(500, 5_000), rows=2_000, repeats=3, draws=2_000),
    "full": StudyConfig(),
}


def problem(width: int, rows: int, seed: int) -> tuple[estimators.SignMlpLoss, dict[str, Tensor]]:
    """The loss of a student of three sign layers to a teacher, and the student's first weights."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, width, generator=generator)
    loss = estimators.SignMlpLoss(x, torch.zeros(rows))
    teacher, student = loss.init(generator), loss.init(generator)
    loss.y = loss.outputs(teacher)
    return loss, student
