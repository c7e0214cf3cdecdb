"""Which units something reads, and cutting the others out of the modules."""

from __future__ import annotations

import torch
from torch import Tensor

from ...nn import Dropout
from .analysis import Analysis
from .layers import Layer
from .scales import cut_units, scale_and_shift
from .select import Select

__all__ = ["cut", "needed_units"]

# a layer that reads less of its input than this gets a Select
_WORTH_SELECTING = 0.75


def needed_units(analysis: Analysis) -> Tensor:
    """bool [units]: those that reach a result through weights that are not zero.

    Of every layer at least one unit stays on either side, as torch has no layers without any.
    """
    roots = analysis.sets.roots()
    needed = torch.zeros(len(roots), dtype=torch.bool)
    needed[roots[analysis.sets.pinned()]] = True
    while True:
        before = needed.clone()
        for layer in reversed(analysis.layers):
            rows = needed[roots[layer.ids_out]]
            needed[roots[layer.ids_in[layer.reads(rows)]]] = True
        if torch.equal(before, needed):
            for layer in analysis.layers:
                for ids in (layer.ids_in, layer.ids_out):
                    if ids.numel() and not needed[roots[ids]].any():
                        needed[roots[ids[0]]] = True
        if torch.equal(before, needed):
            return needed[roots]


def cut(analysis: Analysis, inputs: bool) -> dict[torch.nn.Module, torch.nn.Module]:
    """Cut the modules in place.

    Returns:
        what is to take the place of a module as a whole: an Identity for noise that has become silent and,
        if `inputs`, a layer behind a `Select`.
    """
    needed = needed_units(analysis)
    replacements: dict[torch.nn.Module, torch.nn.Module] = {}
    for layer in analysis.layers:
        columns = needed[layer.ids_in]
        layer.cut(needed[layer.ids_out], columns)
        read = layer.reads(torch.ones(layer.weight.shape[0], dtype=torch.bool))
        if inputs and layer.groups == 1 and 0 < int(read.sum()) < _WORTH_SELECTING * read.numel():
            replacements[layer.module] = _behind_select(layer, read)
    for module, ids in analysis.per_unit:
        keep = needed[ids]
        if not bool(keep.all()):
            cut_units(module, keep)
        if isinstance(module, Dropout):
            fixed = scale_and_shift(module)
            if fixed is not None and bool((fixed[0] == 1).all()):
                replacements[module] = torch.nn.Identity()
    return replacements


def _behind_select(layer: Layer, read: Tensor) -> torch.nn.Module:
    module = layer.module
    layer.cut(torch.ones(layer.weight.shape[0], dtype=torch.bool), read)
    dim = -1 if isinstance(module, torch.nn.Linear) else 1 - module.weight.ndim
    select = Select.of(read, dim).to(module.weight.device)
    return torch.nn.Sequential(select, module)
