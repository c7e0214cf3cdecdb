"""From a trained net to the net that is left: pruned, its layers sparse where that is faster."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from .._surgery import (
    PLAIN,
    ChangeReport,
    LayerChange,
    WeightLayer,
    carry_over,
    check_whole,
    plain_class,
    weight_layers,
    why_not_plain,
    with_replaced,
)
from ..nn import Variational
from .choice import conv_shape, densest_conv2d, densest_linear, faster
from .conv import SparseConv2d
from .linear import SparseLinear
from .sequential import fuse
from .shrink import Sample, shrunk
from .steps import IDLE
from .trial import inputs_of_layers, warn_of_other_results

__all__ = ["plan_sparsification", "sparsify"]

_DENSITY = 0.1  # of layers that `min_weights` alone asks for
# what is faster than a dense layer of its own within a neighbour's call: few nonzeros, or few of all
_SMALL, _SPARSE = 1024, 0.3
_SHARED = 2**15  # weights of layers that are worth a shared call, though none is worth its own


class Limits(NamedTuple):
    """The arguments of `sparsify` that decide what becomes sparse."""

    max_density: float | None
    min_weights: int | None
    inputs: dict[WeightLayer, list[Tensor]]  # what layers got of the sample input; empty without tuning
    shapes: dict[WeightLayer, list[tuple[int, ...]]]  # of these inputs; empty without a sample input


def sparsify(
    model: torch.nn.Module,
    sample_input: Sample | None = None,
    *,
    shrink: bool = True,
    tune: bool = False,
    max_density: float | None = None,
    min_weights: int | None = None,
) -> torch.nn.Module:
    """A pruned copy of the model for inference; the model itself stays as it is.

    Variational layers lose their noise and the weights their method prunes. They, and plain layers of
    torch.nn, become `SparseLinear` or `SparseConv2d` where that is faster, and torch's dense layers
    otherwise. Whether it is says a table measured for each instruction set, on one thread: of linear layers
    at batches of 1 to 64, of convolutions at the batch and the sizes of images that `sample_input` brings
    them, without it at all of them; or, with `tune`, a timing of the very layer. Each torch.nn.Sequential
    with sparse layers becomes a `SparseSequential`. The copy is in eval mode and computes what the model
    computes in eval mode ``mean``.

    Args:
        model: any module, trained by this library or pruned by other means.
        sample_input: a batch, or a tuple of arguments, for shrinking, choosing and tuning, of the size the
            model will meet; without tuning None will do: one is made from the first layer for shrinking.
        shrink: begin with `vdropkern.shrink`, which removes dead units and folds normalisation, where the
            model can be traced. False: every layer keeps its size.
        tune: time every layer, dense and sparse, on what it gets of `sample_input`, in place of the table.
        max_density: layers with a larger share of nonzero weights stay dense, in [0, 1]. None: by the table.
        min_weights: layers with fewer weights, zeros included, stay dense, >= 0; others are sparse up to
            `max_density`, without it at 10 % or what the table says. None: by the table, or 0 if
            `max_density` is given. With max_density=1 and min_weights=0 every layer becomes sparse.

    Returns:
        the copy. It is fastest under torch.inference_mode; with gradients on, autograd notes every call.
        `plan_sparsification` says what becomes of each layer, `vdropkern.sparsity` what is left.

    Warns:
        UserWarning: the copy computes something else, as where the model's code asks for the class of its
            layers.

    Raises:
        ValueError: a limit is out of range, `tune` lacks `sample_input` or has limits beside it, or the model
            does not take `sample_input`.
        TypeError: `model` is no module.
    """
    check_whole(model, "sparsify")
    model = shrunk(model, sample_input) if shrink else model
    plan = _plan(model, _limits(model, sample_input, tune, max_density, min_weights))
    replacements = {layer: _made(layer, change.after) for layer, change in plan.items() if change.changed}
    result = fuse(with_replaced(model, replacements)).eval()
    if any(isinstance(new, (SparseLinear, SparseConv2d)) for new in replacements.values()):
        warn_of_other_results(model, result, sample_input)
    return result


def plan_sparsification(
    model: torch.nn.Module,
    sample_input: Sample | None = None,
    *,
    shrink: bool = True,
    tune: bool = False,
    max_density: float | None = None,
    min_weights: int | None = None,
) -> ChangeReport:
    """What `sparsify` with the same arguments makes of each layer, shrunk if so, and why. Changes nothing.

    Raises:
        ValueError, TypeError: as `sparsify`.
    """
    check_whole(model, "sparsify")
    model = shrunk(model, sample_input) if shrink else model
    limits = _limits(model, sample_input, tune, max_density, min_weights)
    return ChangeReport(tuple(_plan(model, limits).values()))


def _limits(
    model: torch.nn.Module,
    sample_input: Sample | None,
    tune: bool,
    max_density: float | None,
    min_weights: int | None,
) -> Limits:
    if max_density is not None and not 0 <= max_density <= 1:
        raise ValueError(f"sparsify: max_density must lie in [0, 1], got {max_density}")
    if min_weights is not None and min_weights < 0:
        raise ValueError(f"sparsify: min_weights must be >= 0, got {min_weights}")
    if not tune:
        known = sample_input is not None and max_density is None
        seen = inputs_of_layers(model, sample_input, _shape) if known else {}
        return Limits(max_density, min_weights, {}, seen)
    if sample_input is None:
        raise ValueError("sparsify: tune=True needs a sample_input to time the layers on")
    if max_density is not None or min_weights is not None:
        raise ValueError("sparsify: tune=True decides by time; leave out max_density and min_weights")
    return Limits(None, None, inputs_of_layers(model, sample_input, torch.clone), {})


def _shape(x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape)


@torch.no_grad()
def _plan(model: torch.nn.Module, limits: Limits) -> dict[WeightLayer, LayerChange]:
    plan = {}
    for layer, names in weight_layers(model).items():
        kind = str(layer.method) if isinstance(layer, Variational) else type(layer).__name__
        hooked = not {"weight", "bias"} <= layer._parameters.keys() and not parametrize.is_parametrized(layer)
        if isinstance(layer, Variational) and not hooked:
            after, reason = _choose(layer, limits)
        elif (why := why_not_plain(layer)) is not None:
            after, reason = kind, why
        elif type(layer) is not (plain := plain_class(layer)):
            after, reason = kind, f"a subclass of torch.nn.{plain.__name__}, which may compute something else"
        else:
            after, reason = _choose(layer, limits)
        plan[layer] = LayerChange(names[0], kind, after, reason)
    if limits.max_density is None and limits.min_weights is None:
        _join(model, plan)
    return plan


def _weight_of(layer: WeightLayer) -> Tensor:
    """The weight in eval mode, pruned ones at zero."""
    return layer.pruned_weight() if isinstance(layer, Variational) else layer.weight


def _kind_of(layer: WeightLayer) -> str | None:
    """`choice`'s name of the layer's kind; None where there is no sparse one."""
    if isinstance(layer, torch.nn.Linear):
        return "linear"
    plain = isinstance(layer, torch.nn.Conv2d) and layer.padding_mode == "zeros"
    even = plain and all(d * (k - 1) % 2 == 0 for d, k in zip(layer.dilation, layer.kernel_size, strict=True))
    return "conv2d" if plain and (even or layer.padding != "same") else None


def _choose(layer: WeightLayer, limits: Limits) -> tuple[str, str]:
    """What a layer is to be, and why."""
    dense, weight = plain_class(layer).__name__, _weight_of(layer)
    size, kind = weight.numel(), _kind_of(layer)
    density = int(torch.count_nonzero(weight)) / max(size, 1)
    left = f"{density:.2%} of {size:,} weights left"
    if kind is None:
        return dense, f"{left}; there is no sparse layer of this kind"
    sparse = "SparseLinear" if kind == "linear" else "SparseConv2d"
    if layer in limits.inputs:
        candidate = _made(layer, sparse).eval()
        gain = faster(candidate, _dense_of(layer).eval(), limits.inputs[layer])
        return (sparse if gain >= 1 else dense), f"{left}; sparse is {gain:.2f} times as fast"
    if limits.max_density is None and limits.min_weights is None:
        most, why_none = _densest(layer, limits)
        if most == 0:
            return dense, why_none
    else:
        least = limits.min_weights or 0
        if size < least:
            return dense, f"{size:,} weights are fewer than {least:,}"
        # a size was named at which sparse layers are wanted: those the table has none for are not to be many
        least_of_all = max(_densest(layer, limits)[0], _DENSITY)
        most = least_of_all if limits.max_density is None else limits.max_density
    return (dense, f"{left}, more than {most:.2%}") if density > most else (sparse, left)


def _densest(layer: WeightLayer, limits: Limits) -> tuple[float, str]:
    """Up to which density the sparse layer is faster by the table; why none is, where that is 0."""
    if isinstance(layer, torch.nn.Linear):
        size = layer.weight.numel()
        return densest_linear(size), f"{size:,} weights are too few for a sparse layer to be faster"
    assert isinstance(layer, torch.nn.Conv2d)
    if layer.groups > 1:
        return 0.0, "a convolution in groups, of which only timing (tune=True) tells"
    if layer.weight.dtype == torch.float64:
        return 0.0, "a convolution in float64, for which there is no sparse kernel"
    images = limits.shapes.get(layer, [None])
    where = "" if images != [None] else " at every batch and size of image"
    least = min(densest_conv2d(conv_shape(layer, image)) for image in images)
    return least, f"too small for a sparse layer to be faster{where}"


def _join(model: torch.nn.Module, plan: dict[WeightLayer, LayerChange]) -> None:
    """Let linear layers that would stay dense alone share a call with their neighbours in a Sequential."""
    for sequential in model.modules():
        if type(sequential) is not torch.nn.Sequential:
            continue
        run: list[torch.nn.Linear] = []
        called = behind = False  # a call of sparse convolutions and poolings: up to here, before the run
        for module in [*sequential, None]:
            if isinstance(module, torch.nn.Linear) and _may_join(module, plan[module]):
                run.append(module)
            elif type(module) is not torch.nn.ReLU and type(module) not in IDLE:
                _join_run(run, plan, behind)
                run = []
                behind = called and isinstance(module, torch.nn.Flatten) and _flattens_all(module)
                pools = called and type(module) is torch.nn.MaxPool2d
                called = pools or (isinstance(module, PLAIN) and plan[module].after == "SparseConv2d")


def _flattens_all(module: torch.nn.Flatten) -> bool:
    return (module.start_dim, module.end_dim) == (1, -1)


def _may_join(layer: torch.nn.Linear, change: LayerChange) -> bool:
    if change.after != "Linear" or why_not_plain(layer) is not None:
        return change.after == "SparseLinear"
    weight = _weight_of(layer)
    return int(torch.count_nonzero(weight)) <= max(_SMALL, _SPARSE * weight.numel())


def _join_run(run: list[torch.nn.Linear], plan: dict[WeightLayer, LayerChange], behind: bool) -> None:
    worth = behind or (len(run) > 1 and sum(layer.weight.numel() for layer in run) >= _SHARED)
    for layer in run:
        change = plan[layer]
        if change.after == "Linear" and (worth or any(plan[other].after == "SparseLinear" for other in run)):
            reason = f"{change.reason}, but for one that shares a neighbour's call"
            plan[layer] = LayerChange(change.name, change.before, "SparseLinear", reason)


@torch.no_grad()
def _dense_of(layer: WeightLayer) -> torch.nn.Module:
    return layer.to_dense() if isinstance(layer, Variational) else layer


@torch.no_grad()
def _made(layer: WeightLayer, after: str) -> torch.nn.Module:
    """The layer of class `after` that replaces `layer`."""
    weight = _weight_of(layer)
    sparse: SparseLinear | SparseConv2d
    if after == "SparseLinear":
        sparse = SparseLinear.from_dense(weight, layer.bias)
    elif after == "SparseConv2d":
        assert isinstance(layer, torch.nn.Conv2d)
        sparse = SparseConv2d.from_dense(layer, weight)
    else:
        return carry_over(layer, _dense_of(layer))
    sparse.values.requires_grad_(layer.weight.requires_grad)
    if sparse.bias is not None and layer.bias is not None:
        sparse.bias.requires_grad_(layer.bias.requires_grad)
    return carry_over(layer, sparse)
