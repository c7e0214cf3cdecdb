"""From a trained net to the net that is left: pruned, its layers sparse where that is faster."""

from __future__ import annotations

import torch
from torch import Tensor

from .._surgery import (
    ChangeReport,
    LayerChange,
    WeightLayer,
    carry_over,
    plain_class,
    weight_layers,
    why_not_plain,
    with_replaced,
)
from ..nn import Variational
from .linear import SparseLinear
from .sequential import fuse
from .shrink import Sample, shrunk

__all__ = ["MAX_DENSITY", "MIN_WEIGHTS", "plan_sparsification", "sparsify"]

# Where the sparse product of a layer beats the dense one at batches around 100, measured on one thread of an
# AVX2 CPU (docs/sparse.md has the table, with the cases that lose): denser than this the dense product wins,
# and below this size the call itself takes longer than the arithmetic.
MAX_DENSITY = 0.1
MIN_WEIGHTS = 2**15


def sparsify(
    model: torch.nn.Module,
    sample_input: Sample | None = None,
    *,
    shrink: bool = True,
    max_density: float = MAX_DENSITY,
    min_weights: int = MIN_WEIGHTS,
) -> torch.nn.Module:
    """A pruned copy of the model for inference; the model itself stays as it is.

    Variational layers lose their noise and the weights their method prunes; linear ones and plain
    torch.nn.Linear layers become `SparseLinear` where few enough weights are left, and torch.nn.Linear
    otherwise. Convolutions become torch's dense ones with the pruned weights at zero: they have no sparse
    kernel. The copy is in eval mode and computes what the model computes in eval mode ``mean``.

    Args:
        model: any module, trained by this library or pruned by other means.
        sample_input: a batch, or a tuple of arguments, for shrinking; None: made from the first layer.
        shrink: begin with `vdropkern.shrink`, which removes dead units and folds normalisation, where the
            model can be traced. False: every layer keeps its size.
        max_density: layers with a larger share of nonzero weights stay dense, in [0, 1].
        min_weights: layers with fewer weights, zeros included, stay dense, >= 0. With max_density=1 and
            min_weights=0 every layer becomes sparse.

    Returns:
        the copy. `plan_sparsification` says what becomes of each layer, `vdropkern.sparsity` what is left.

    Raises:
        ValueError: a limit is out of range.
    """
    model = shrunk(model, sample_input) if shrink else model
    plan = _plan(model, max_density, min_weights)
    replacements = {layer: _made(layer, change) for layer, change in plan.items() if change.changed}
    return fuse(with_replaced(model, replacements)).eval()


def plan_sparsification(
    model: torch.nn.Module,
    sample_input: Sample | None = None,
    *,
    shrink: bool = True,
    max_density: float = MAX_DENSITY,
    min_weights: int = MIN_WEIGHTS,
) -> ChangeReport:
    """What `sparsify` with the same arguments makes of each layer, shrunk if so, and why. Changes nothing.

    Raises:
        ValueError: as `sparsify`.
    """
    model = shrunk(model, sample_input) if shrink else model
    return ChangeReport(tuple(_plan(model, max_density, min_weights).values()))


@torch.no_grad()
def _plan(model: torch.nn.Module, max_density: float, min_weights: int) -> dict[WeightLayer, LayerChange]:
    if not 0 <= max_density <= 1:
        raise ValueError(f"sparsify: max_density must lie in [0, 1], got {max_density}")
    if min_weights < 0:
        raise ValueError(f"sparsify: min_weights must be >= 0, got {min_weights}")
    plan = {}
    for layer, names in weight_layers(model).items():
        kind = str(layer.method) if isinstance(layer, Variational) else type(layer).__name__
        if isinstance(layer, Variational):
            after, reason = _choose(layer, layer.pruned_weight(), max_density, min_weights)
        elif (why := why_not_plain(layer)) is not None:
            after, reason = kind, why
        elif type(layer) is not (plain := plain_class(layer)):
            after, reason = kind, f"a subclass of torch.nn.{plain.__name__}, which may compute something else"
        else:
            after, reason = _choose(layer, layer.weight, max_density, min_weights)
        plan[layer] = LayerChange(names[0], kind, after, reason)
    return plan


def _choose(layer: WeightLayer, weight: Tensor, max_density: float, min_weights: int) -> tuple[str, str]:
    """What a layer with this effective weight is to be, and why."""
    size = weight.numel()
    if not isinstance(layer, torch.nn.Linear):
        left = f"{int(torch.count_nonzero(weight)) / max(size, 1):.2%} of {size:,} weights left"
        return plain_class(layer).__name__, f"{left}; convolutions have no sparse kernel"
    if size < min_weights:
        return "Linear", f"{size:,} weights are fewer than {min_weights:,}"
    density = int(torch.count_nonzero(weight)) / max(size, 1)
    if density > max_density:
        return "Linear", f"{density:.2%} of {size:,} weights left, more than {max_density:.2%}"
    return "SparseLinear", f"{density:.2%} of {size:,} weights left"


@torch.no_grad()
def _made(layer: WeightLayer, change: LayerChange) -> torch.nn.Module:
    """The layer that replaces `layer`."""
    if change.after != "SparseLinear":
        assert isinstance(layer, Variational)
        return carry_over(layer, layer.to_dense())
    weight = layer.pruned_weight() if isinstance(layer, Variational) else layer.weight
    sparse = SparseLinear.from_dense(weight, layer.bias)
    sparse.values.requires_grad_(layer.weight.requires_grad)
    if sparse.bias is not None and layer.bias is not None:
        sparse.bias.requires_grad_(layer.bias.requires_grad)
    return carry_over(layer, sparse)
