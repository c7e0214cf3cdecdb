"""What a layer made of its tensors, and whether they still are what they were.

Asked at every call, where small layers feel each step of Python: so in few, whatever the number of tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter, is_
from typing import Any

import torch
from torch import Tensor

__all__ = ["Packed", "Packings", "Watch", "packed_of"]

_VERSION, _PACK = attrgetter("_version"), attrgetter("_pack")
_PLACE = Tensor.data_ptr
# what a packed form is made of
_OF_LAYER = (("_parameters", "values"), ("_parameters", "bias"), ("_buffers", "scales"))


class Watch:
    """Tensors, how often each had been changed in place, and where it lay."""

    def __init__(self, tensors: Iterable[Tensor | None]) -> None:
        self.tensors = [*tensors]
        self.there = [t for t in self.tensors if t is not None]
        # what was made under inference_mode has no version, and no in-place change outside of it
        self.counted = [t for t in self.there if not t.is_inference()]
        self.versions = [*map(_VERSION, self.counted)]
        # a new `.data`, as `Module.to` and `vector_to_parameters` set it, leaves the version as it was; the
        # old one is kept alive, so that no other tensor can come to lie there
        self.memory = [t.data for t in self.there]
        self.places = [*map(_PLACE, self.memory)]

    @classmethod
    def joined(cls, watches: Iterable[Watch]) -> Watch:
        """One of all their tensors, as they were for each."""
        made = cls(())
        for watch in watches:
            for name, values in watch.__dict__.items():
                made.__dict__[name] += values
        return made

    def is_of(self, tensors: Iterable[Tensor | None]) -> bool:
        """Whether these, as many, are the same and unchanged."""
        return (
            all(map(is_, self.tensors, tensors))
            and [*map(_VERSION, self.counted)] == self.versions
            and [*map(_PLACE, self.there)] == self.places
        )


class Packed:
    """A packed form for a kind of input, `columns`. It is itself wherever its bytes come to be held."""

    def __init__(
        self, watch: Watch, columns: Any, packed: Tensor, arguments: tuple[object, ...] = ()
    ) -> None:
        self.watch, self.columns, self.packed = watch, columns, packed
        self.arguments = arguments  # of the op that runs it, behind the input


def packed_of(layer: torch.nn.Module) -> tuple[Tensor | None, ...]:
    """What the packed form of a layer is made of; None for a parameter that is computed at every call."""
    parameters = layer._parameters
    return parameters.get("values"), parameters.get("bias"), layer._buffers["scales"]


class Packings:
    """The packed forms of some layers, and whether they still are those that the layers would use."""

    def __init__(self, layers: Sequence[torch.nn.Module], packs: Sequence[Packed]) -> None:
        self.layers, self.packs = layers, packs
        self.watch = Watch.joined(made.watch for made in packs)
        self.dicts = [layer.__dict__[where] for layer in layers for where, _ in _OF_LAYER]
        self.names = [name for _, name in _OF_LAYER] * len(layers)

    def hold(self) -> bool:
        packs = map(_PACK, self.layers)
        return all(map(is_, packs, self.packs)) and self.watch.is_of(map(dict.get, self.dicts, self.names))
