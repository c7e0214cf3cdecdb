"""The steps of a `SparseSequential`, those in a row together that one call of op ``sparse_net`` runs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, float32

from ..ops.sparse_net import conv_numbers, linear_numbers, pool_numbers, sparse_net_native
from ._calls import tracing_state
from ._layer import SparseLayer
from ._watch import Packed, Packings
from .steps import JOINED, Chain, Convolution, Flat, Idle, Packing, Pool, Step, is_plain, steps_of

__all__ = ["Plan", "Run"]


class Program(NamedTuple):
    """What a `Run` calls for images of one size."""

    image: tuple[int, ...]
    packings: Packings  # of the layers, which it was made of
    packed: list[Tensor]
    numbers: Tensor
    out_sizes: tuple[int, ...]


class Run(Packing):
    """Sparse convolutions and poolings in a row, at the end flattened and a chain of linear layers."""

    def __init__(self, steps: list[Step]) -> None:
        super().__init__([module for step in steps for module in step.modules])
        self.steps = steps
        self.layers: list[SparseLayer] = []
        for step in steps:
            if isinstance(step, Convolution):
                self.layers.append(step.layer)
            elif isinstance(step, Chain):
                self.layers += step.layers
        self.made: Program | None = None

    def __call__(self, x: Tensor) -> Tensor:
        if tracing_state() is not None:  # TorchScript empties lists of tensors that it takes for constant
            for step in self.steps:
                x = step(x)
            return x
        made = self.made
        if (
            made is not None
            and x.shape[1:] == made.image
            and x.dtype is float32
            and x.is_cpu
            and x.is_contiguous()
            and made.packings.hold()
        ):
            y: Tensor = sparse_net_native(x, made.packed, made.numbers, made.out_sizes)
            return y
        return self._one_by_one(x)

    def _one_by_one(self, x: Tensor) -> Tensor:
        """Step after step; then what they called is held as a program, where a kernel ran each of them."""
        self.made, y = None, x
        may_join = x.ndim == 4 and x.dtype is float32 and x.is_cpu and x.is_contiguous()
        numbers: list[int] = []
        packed: list[Tensor] = []
        packs: list[Packed] = []
        for step in self.steps:
            given, y = y, step(y)
            if isinstance(step, Pool):
                numbers += pool_numbers(step.geometry, step.relu)
            elif isinstance(step, Convolution):
                held = step.held_for(given)
                if held is None:
                    may_join = False  # it ran dense, or in another thread with images of another size since
                else:
                    numbers += conv_numbers(len(packed), step.layer.out_channels, held.columns, step.relu)
                    packed.append(held.packed)
                    packs.append(held)
            elif isinstance(step, Chain):
                joined = step.joined()
                if joined is None:
                    may_join = False
                else:
                    numbers += linear_numbers(len(packed))
                    packed.append(joined[1])
                    packs += joined[0].packs
        if may_join:
            sizes = tuple(x.shape[1:]), tuple(y.shape[1:])
            packings, program = Packings(self.layers, packs), torch.tensor(numbers, device="cpu")
            self.made = Program(sizes[0], packings, packed, program, sizes[1])
        return y


def _joined(steps: list[Step]) -> list[Step]:
    """The steps, those in a row that a `Run` takes as one."""
    found: list[Step] = []
    at = 0
    while at < len(steps):
        end = at
        while end < len(steps) and isinstance(steps[end], (Convolution, Pool, Idle)):
            end += 1
        if at < end < len(steps) - 1 and _ends(steps[end], steps[end + 1]):
            end += 2
        work = [step for step in steps[at:end] if not isinstance(step, Idle)]
        if len(work) > 1:
            found.append(Run(steps[at:end]))
            at = end
        else:
            found.append(steps[at])
            at += 1
    return found


def _ends(flat: Step, chain: Step) -> bool:
    return isinstance(flat, Flat) and flat.dims == (1, -1) and isinstance(chain, Chain)


class Plan:
    """The steps of these modules, as long as they are the same in what decides over them."""

    def __init__(self, modules: list[torch.nn.Module]) -> None:
        steps = steps_of(modules)
        self.modules, self.steps = modules, _joined(steps)
        self.types = [*map(type, modules)]  # parametrizations, and sharding, change a module's class in place
        joined = [module for module in modules if type(module) in JOINED]
        self.apart = [module for module in joined if not is_plain(module)]
        self.plain = [module.__dict__ for module in joined if is_plain(module)]
        self.read = [step for step in steps if type(step).fits is not Step.fits]

    def holds(self, modules: list[torch.nn.Module]) -> bool:
        """Whether these are the modules, as they were. At every call, so `is_plain` is written out."""
        if self.modules != modules or self.types != [*map(type, modules)]:
            return False
        for d in self.plain:
            if d["training"] or d["_forward_hooks"] or d["_forward_pre_hooks"] or "forward" in d:
                return False
        for step in self.read:
            if not step.fits():
                return False
        return not (self.apart and any(map(is_plain, self.apart)))
