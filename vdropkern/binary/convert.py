"""`binarize`: a copy of a net whose binary layers run on packed bits."""

from __future__ import annotations

import copy

import torch

from .._surgery import check_whole
from ..nn.binary import Binary
from .packed import PackedChain, PackedLayer, why_not


def binarize(model: torch.nn.Module) -> torch.nn.Module:
    """A copy of `model` for inference, with binary layers on packed bits, equal to eval mode to the bit.

    Every `BinaryLinear` and `BinaryConv2d` becomes a `PackedLayer`: weights take a bit, norm and sign become
    a comparison, products count bits. Binary layers that follow each other directly in a
    `torch.nn.Sequential` become a `PackedChain`, between which activations stay packed. What cannot be packed
    (levels 0 and 1, input scales, groups, dtypes other than float32) stays as it is.

    Args:
        model: any module; it is not changed.

    Returns:
        the copy, in eval mode.

    Raises:
        ValueError: there is no layer that can be packed; the message says why not, layer by layer.
    """
    check_whole(model, "binarize")
    if isinstance(model, Binary):
        return PackedLayer(model).eval()
    layers = {name: m for name, m in model.named_modules() if isinstance(m, Binary)}
    reasons = {name: why_not(layer) for name, layer in layers.items()}
    if all(reason is not None for reason in reasons.values()):
        said = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise ValueError(f"binarize: no layer can be packed: {said or 'the net has no binary layer'}")
    return _converted(copy.deepcopy(model)).eval()


def _converted(module: torch.nn.Module) -> torch.nn.Module:
    for name, child in list(module.named_children()):
        setattr(module, name, _converted(child))
    if isinstance(module, Binary) and why_not(module) is None:
        return PackedLayer(module)
    # a class derived from it may call its children in another order
    if isinstance(module, torch.nn.Sequential) and type(module).forward is torch.nn.Sequential.forward:
        _chain(module)
    return module


def _chain(sequence: torch.nn.Sequential) -> None:
    """Join packed layers that follow each other, under the name of the first."""
    run: list[tuple[str, PackedLayer]] = []
    # named_children leaves out the second place of a module that stands in two
    children: list[tuple[str, torch.nn.Module | None]] = [*sequence._modules.items(), ("", None)]
    for name, child in children:
        if isinstance(child, PackedLayer) and (not run or run[-1][1].image == child.image):
            run.append((name, child))
            continue
        if len(run) > 1:
            setattr(sequence, run[0][0], PackedChain([layer for _, layer in run]))
            for later, _ in run[1:]:
                delattr(sequence, later)
        run = [(name, child)] if isinstance(child, PackedLayer) else []
