"""Drop-in modules: torch.nn's layers with a `method` that says what noise their weights carry."""

from .binary import BinaryConv2d, BinaryLinear, decouple
from .conv import Conv1d, Conv2d
from .dropout import Dropout
from .linear import Linear
from .modes import mc_predict, use_eval_mode
from .multi_sample import MultiSampleHead
from .training import attach_projection, parameter_groups, project_
from .variational import Variational

__all__ = [
    "BinaryConv2d",
    "BinaryLinear",
    "Conv1d",
    "Conv2d",
    "Dropout",
    "Linear",
    "MultiSampleHead",
    "Variational",
    "attach_projection",
    "decouple",
    "mc_predict",
    "parameter_groups",
    "project_",
    "use_eval_mode",
]
