"""Where noise enters: one stateless object a place, which layers ask for all that depends on it.

`PLACES[method.enters]` is the method's. A new place is a subclass of `Place` in a module of its own here and
a line in the table.
"""

from __future__ import annotations

from ..._method import Enters
from ._base import Place
from .gate import Gate
from .input import Input
from .mask import Mask
from .nowhere import Nowhere
from .output import Output
from .preactivation import PreActivation
from .weight import Weight

__all__ = ["PLACES", "Place"]

PLACES: dict[Enters, Place] = {
    "nowhere": Nowhere(),
    "input": Input(),
    "pre-activation": PreActivation(),
    "output": Output(),
    "weight": Weight(),
    "mask": Mask(),
    "gate": Gate(),
}
