"""Stretches of sparse layers as one call, their activations kept in the kernel's layout between them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, is_grad_enabled

from ..ops.spmm import spmm_chain_eager
from ..ops.spmm.pack import MOST_LAYERS, chain, chain_parts
from ._layer import may_pack_without_grad
from .conv import SparseConv2d
from .linear import SparseLinear
from .pool import max_pool2d, pools_apart

__all__ = ["SparseSequential", "fuse", "stretch_of"]

# what does nothing in eval mode
IDLE = (torch.nn.Dropout, torch.nn.Identity)


class Stretch(NamedTuple):
    """Modules [begin, end) of a Sequential: sparse layers, each with or without a ReLU behind it."""

    end: int
    modules: list[torch.nn.Module]
    layers: tuple[SparseLinear, ...]
    marks: tuple[object, ...]  # of the layers' packings
    chain: Tensor
    out_features: int


class SparseSequential(torch.nn.Sequential):
    """A torch.nn.Sequential that runs neighbouring `SparseLinear` and ReLU modules as one op, ``spmm_chain``.

    A ReLU behind a `SparseConv2d` is applied by its kernel. Max pooling over windows side by side runs as
    comparisons of whole rows, which are many times faster.
    Only without gradients, in eval mode, on the CPU, and where none of them has hooks; otherwise, and for
    everything else in it, it is a Sequential. Same children, same state dict, same results within rounding.
    Made by `vdropkern.sparsify` of each torch.nn.Sequential that holds sparse layers.
    """

    def __init__(self, *modules: torch.nn.Module) -> None:
        super().__init__(*modules)
        self._stretches: dict[int, Stretch] = {}

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  the name of torch.nn.Sequential.forward
        if self.training or is_grad_enabled() or not may_pack_without_grad(input):
            return super().forward(input)
        modules, at = list(self._modules.values()), 0
        while at < len(modules):
            stretch = self._stretch(modules, at)
            if stretch is None:
                module, behind = modules[at], modules[at + 1] if at + 1 < len(modules) else None
                at += 1
                if type(module) is torch.nn.MaxPool2d and _is_plain(module) and pools_apart(module):
                    input = max_pool2d(module, input)  # noqa: A001
                elif (
                    type(module) is SparseConv2d
                    and type(behind) is torch.nn.ReLU
                    and _are_plain(module, behind)
                ):
                    input = module.run(input, relu=True)  # noqa: A001
                    at += 1
                else:
                    input = module(input)  # noqa: A001
            else:
                input = spmm_chain_eager(input, stretch.chain, stretch.out_features)  # noqa: A001
                at = stretch.end
        return input

    def _stretch(self, modules: list[torch.nn.Module], begin: int) -> Stretch | None:
        """The stretch that begins here, made anew where anything in it changed; None where there is none."""
        if type(modules[begin]) is not SparseLinear:
            return None  # found at once, at every call
        held = self._stretches.get(begin)
        if held is None or not _is_current(held, modules, begin):
            held = stretch_of(modules, begin)
            if held is None:
                self._stretches.pop(begin, None)
            else:
                self._stretches[begin] = held
        return held

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_stretches": {}}


def _is_plain(module: torch.nn.Module) -> bool:
    """In eval mode, and nothing but its own forward is to run."""
    own = module.__dict__  # half the time of attributes, and a stretch asks all its modules at every call
    return not (own["training"] or own["_forward_hooks"] or own["_forward_pre_hooks"] or "forward" in own)


def _are_plain(*modules: torch.nn.Module) -> bool:
    return all(_is_plain(module) for module in modules)


def _is_current(held: Stretch, modules: list[torch.nn.Module], begin: int) -> bool:
    if modules[begin : held.end] != held.modules:
        return False
    for module in held.modules:
        if not _is_plain(module):
            return False
    for layer, mark in zip(held.layers, held.marks, strict=True):
        made = layer._held()
        if made is None or made.mark is not mark:
            return False
    return True


def stretch_of(modules: list[torch.nn.Module], begin: int) -> Stretch | None:
    """The longest stretch that begins at `begin`; None unless a sparse layer without hooks stands there."""
    layers: list[SparseLinear] = []
    relus: list[bool] = []
    end = begin
    for module in modules[begin:]:
        assert module is not None
        if not _is_plain(module):
            break
        if type(module) is SparseLinear:
            fits = not layers or layers[-1].out_features == module.in_features
            packable = module.values.is_cpu and module.values.dtype != torch.float64
            if not fits or not packable or module in layers or len(layers) == MOST_LAYERS:
                break
            layers.append(module)
            relus.append(module.activation == "relu")
        elif not layers:
            return None
        elif type(module) is torch.nn.ReLU:
            relus[-1] = True
        elif type(module) not in IDLE:
            break
        end += 1
    if not layers:
        return None
    packings = [layer.packing() for layer in layers]
    joined = chain([p.packed for p in packings], relus)
    marks = tuple(p.mark for p in packings)
    for layer, mark, (within, _) in zip(layers, marks, chain_parts(joined), strict=True):
        layer.share_pack(mark, within)  # held once, not twice
    return Stretch(end, modules[begin:end], tuple(layers), marks, joined, layers[-1].out_features)


def fuse(model: torch.nn.Module) -> torch.nn.Module:
    """Turn each torch.nn.Sequential of the model with sparse layers into a `SparseSequential`, in place.

    Returns the model, which is another object where it is such a Sequential itself.
    """
    made: dict[torch.nn.Module, torch.nn.Module] = {}
    for module in model.modules():
        sparse = any(type(child) in (SparseLinear, SparseConv2d) for child in module._modules.values())
        if type(module) is torch.nn.Sequential and sparse:
            fused = SparseSequential()
            fused.__dict__.update(module.__dict__)
            made[module] = fused
    for parent in [*model.modules(), *made.values()]:
        for name, child in parent._modules.items():
            if child in made:
                parent._modules[name] = made[child]
    return made.get(model, model)
