"""Gradient estimators for nets whose steps have none: NES, coordinate differences, straight-through.

Each takes a loss, a function of parameters by name, and the parameters; `module_loss` makes one of any
module, `SignMlpLoss` is that of a net of sign layers, for which NES and CDG have fast paths.
"""

from ._coordinate import cdg
from ._measure import cosines, loss_decrease, step
from ._nes import FITNESSES, NesResult, candidate_seeds, nes_gradient
from ._net import SignMlpLoss, module_loss, ste_gradient

__all__ = [
    "FITNESSES",
    "NesResult",
    "SignMlpLoss",
    "candidate_seeds",
    "cdg",
    "cosines",
    "loss_decrease",
    "module_loss",
    "nes_gradient",
    "ste_gradient",
    "step",
]
