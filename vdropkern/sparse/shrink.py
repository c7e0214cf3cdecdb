"""Exact shrinking: a smaller dense net that computes the same."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .._surgery import PLAIN, carry_over, check_whole, replace_, table, with_replaced
from ..nn import Variational
from .shrinking.analysis import Analysis
from .shrinking.cut import cut
from .shrinking.layers import Layer
from .shrinking.scales import fold_into_layers
from .shrinking.tables import IDENTITIES
from .shrinking.trace import ShrinkError, arguments, made_sample, run_sample, trace, without_hooks
from .structure import describe_tree
from .trial import largest_difference, strays

__all__ = [
    "Sample",
    "ShrinkError",
    "ShrinkReport",
    "ShrinkRow",
    "is_shrunk",
    "mark_shrunk",
    "shrink",
    "shrunk",
]

_MARK = "_vdropkern_shrunk"
Sample = Tensor | tuple[Tensor, ...]
IDLE = "does nothing in evaluation"


@dataclass(frozen=True)
class ShrinkRow:
    """One layer's weight: its shape and its nonzero weights, before and after."""

    name: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    nonzero_before: int
    nonzero_after: int


@dataclass(frozen=True)
class ShrinkReport:
    """What went, layer by layer; prints as a table.

    Attributes:
        rows: one a linear or convolution layer that was looked into.
        gone: modules that have no work left, each with the reason.
        remarks: what could not be followed, and so kept the units that it reads.
        difference: the largest difference of the two nets' results over the largest result, on the sample.
    """

    rows: tuple[ShrinkRow, ...]
    gone: tuple[str, ...]
    remarks: tuple[str, ...]
    difference: float

    @property
    def weights_before(self) -> int:
        """Weights, zeros included, of the layers in `rows`."""
        return sum(torch.Size(row.before).numel() for row in self.rows)

    @property
    def weights_after(self) -> int:
        return sum(torch.Size(row.after).numel() for row in self.rows)

    def __str__(self) -> str:
        head = ("layer", "before", "after", "nonzero before", "after")
        lines: list[tuple[str, ...]] = [
            (
                row.name,
                _shape(row.before),
                _shape(row.after),
                f"{row.nonzero_before:,}",
                f"{row.nonzero_after:,}",
            )
            for row in self.rows
        ]
        text = table(head, lines, right=(1, 2, 3, 4))
        total = f"weights, zeros included: {self.weights_before:,} before, {self.weights_after:,} after"
        return "\n".join((text, total, *self.gone, *self.remarks))


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(str(size) for size in shape)


@torch.no_grad()
def shrink(
    model: torch.nn.Module, sample_input: Sample | None = None, *, inputs: bool = True
) -> tuple[torch.nn.Module, ShrinkReport]:
    """A smaller copy of the model that computes the same in eval mode, within rounding.

    Inputs, units and channels that no result depends on are removed. What a dead unit still says, such as
    relu(b), moves into the next bias; where it meets a border padded with zeros it is no constant, so there
    one channel stays for all of them. Normalisation folds into the layer before it. What does nothing in
    evaluation (dropout of any kind, `nn.Dropout` with nothing pruned) goes. Units are followed by torch.fx
    through linear and convolution layers (with groups), normalisation, activations, dropout, pooling,
    flattening, sums, products and concatenation; anything else keeps all that it reads. The copy has the
    model's own class and code: only its layers change.

    Args:
        model: any module, trained by this library or with zeros in its weights by other means. Variational
            layers become plain ones, pruned, as in eval mode ``mean``.
        sample_input: a batch, or a tuple of arguments; its sizes do not matter where the model takes any.
            None: made from the first layer, for nets that take batches of vectors, signals or images.
        inputs: let layers that read less than 3/4 of what they are given, such as the first of a net, read
            through a `vdropkern.sparse.Select`. Sparse layers pass over what they do not read anyway.

    Returns:
        the copy, in eval mode, and a `ShrinkReport`.

    Raises:
        ShrinkError: the model's forward cannot be traced (the message names the place), no sample fits, or
            what was made computes something else.
        ValueError: the model cannot run on `sample_input`.
        TypeError: `model` is no module, or `sample_input` no tensors.
    """
    check_whole(model, "shrink")
    # a net that is one layer is traced as a net of one layer
    holder = torch.nn.Sequential(OrderedDict({"(model)": _without_noise(model)}))
    root = holder if isinstance(holder[0], PLAIN) else holder[0]
    names = {module: name for name, module in root.named_modules()}
    count = 1 if sample_input is None else len(arguments(sample_input))
    traced = trace(root, count)
    with without_hooks(root):
        sample = made_sample(root) if sample_input is None else arguments(sample_input)
        try:
            expected = run_sample(root, sample)
        except ValueError as err:
            if not traced.with_hooks:
                raise
            raise ShrinkError(f"shrink: without its forward hooks, {err}") from err
        first = Analysis(traced).run_on(*sample)
        if strays(first.result, expected, root, sample):
            raise ShrinkError(f"shrink: {type(model).__name__} traced by torch.fx computes something else")
    before = {layer.module: _size(layer.module.weight) for layer in first.layers}
    folded = fold_into_layers(traced, first.shapes)
    idle: dict[torch.nn.Module, torch.nn.Module] = {module: torch.nn.Identity() for module in folded}
    replace_(root, idle)
    traced = trace(root, count)
    with without_hooks(root):
        analysis = Analysis(traced).run_on(*sample)
        replacements = cut(analysis, inputs)
        silent = {m for m in names if type(m) in IDENTITIES and type(m) is not torch.nn.Identity}
        for module in silent - traced.with_hooks:
            replacements[module] = torch.nn.Identity()
        idle.update({m: new for m, new in replacements.items() if type(new) is torch.nn.Identity})
        replace_(root, replacements)
        if describe_tree(root) is not None:
            _leave_out(root, set(idle.values()))
        results = run_sample(root, sample)
        if strays(results, expected, partial(_trial, model), sample):
            raise ShrinkError(
                f"shrink: {type(model).__name__} shrunk computes something else; its code may ask what its "
                "layers are, or hold them where torch.nn does not find them"
            )
        difference = largest_difference(results, expected)
    gone = tuple(
        f"{names[m]} {f'is folded into {folded[m]}' if m in folded else IDLE}" for m in names if m in idle
    )
    rows = tuple(_row(layer, before[layer.module]) for layer in analysis.layers)
    mark_shrunk(holder[0], True)
    return holder[0], ShrinkReport(rows, gone, tuple(analysis.remarks), difference)


def shrunk(model: torch.nn.Module, sample_input: Sample | None = None) -> torch.nn.Module:
    """The copy that `shrink` makes for sparse layers; the model itself where it cannot be shrunk."""
    try:
        return shrink(model, sample_input, inputs=False)[0]
    except ShrinkError:
        return model


def is_shrunk(model: torch.nn.Module) -> bool:
    """Whether the model came out of `shrink`."""
    return bool(getattr(model, _MARK, False))


def mark_shrunk(model: torch.nn.Module, shrunk: bool) -> None:
    """Say so of a model; its file then tells `load` that layers are smaller than its class makes them."""
    if shrunk:
        setattr(model, _MARK, True)


def _without_noise(model: torch.nn.Module) -> torch.nn.Module:
    """A copy in eval mode, its variational layers plain and pruned."""
    noisy = [module for module in model.modules() if isinstance(module, Variational)]
    return with_replaced(model, {module: carry_over(module, module.to_dense()) for module in noisy}).eval()


def _leave_out(root: torch.nn.Module, idle: Collection[torch.nn.Module]) -> None:
    """Take modules without work out of a net that is nothing but Sequentials.

    The code of other models may reach for their children by name or number: there an Identity stays.
    """
    if type(root) is torch.nn.Sequential:
        for name, child in list(root._modules.items()):
            assert child is not None
            if child in idle:
                del root._modules[name]
            else:
                _leave_out(child, idle)


def _size(weight: Tensor) -> tuple[tuple[int, ...], int]:
    return tuple(weight.shape), int(torch.count_nonzero(weight))


def _row(layer: Layer, before: tuple[tuple[int, ...], int]) -> ShrinkRow:
    after = _size(layer.module.weight)
    return ShrinkRow(layer.name, before[0], after[0], before[1], after[1])


def _trial(model: torch.nn.Module, *sample: Tensor) -> Any:
    copy = _without_noise(model)
    with without_hooks(copy):
        return copy(*sample)
