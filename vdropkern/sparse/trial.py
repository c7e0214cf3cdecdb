"""Trial runs of a model: what its layers get, and whether a copy computes the same."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from .._surgery import WeightLayer, weight_layers
from .shrinking.trace import arguments, made_sample, run_sample, without_hooks

__all__ = ["inputs_of_layers", "largest_difference", "strays", "warn_of_other_results"]

T = TypeVar("T")

_ROUNDING = 10  # times the root of eps: more than this is no rounding, however deep the net


@contextlib.contextmanager
def _in_eval_mode(model: torch.nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@torch.no_grad()
def inputs_of_layers(
    model: torch.nn.Module, sample_input: object, keep: Callable[[Tensor], T]
) -> dict[WeightLayer, list[T]]:
    """`keep` of what each weight layer gets when the model in eval mode gets `sample_input`, once a shape."""
    found: dict[WeightLayer, dict[torch.Size, T]] = {}
    sample = arguments(sample_input)

    def note(layer: torch.nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        x = args[0] if args else kwargs["input"]
        of_layer = found.setdefault(layer, {})  # type: ignore[arg-type]
        if x.shape not in of_layer:
            of_layer[x.shape] = keep(x.detach())

    with _in_eval_mode(model):
        handles = [m.register_forward_pre_hook(note, with_kwargs=True) for m in weight_layers(model)]
        try:
            run_sample(model, sample)
        finally:
            for handle in handles:
                handle.remove()
    return {layer: [*kept.values()] for layer, kept in found.items()}


def largest_difference(actual: Any, expected: Any) -> float:
    """Of every tensor of two results the largest difference over the largest number; of them the largest."""
    return max((difference for difference, _ in _differences(actual, expected)), default=0.0)


def _tensors(result: Any) -> list[Tensor]:
    """All tensors of a result; dataclasses, which come out of torch.fx as dicts, are looked into."""
    found: list[Tensor] = []
    for leaf in tree_leaves(result):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
            found += _tensors([getattr(leaf, field.name) for field in dataclasses.fields(leaf)])
    return found


def _differences(actual: Any, expected: Any) -> Iterator[tuple[float, torch.dtype]]:
    for ours, theirs in zip(_tensors(actual), _tensors(expected), strict=True):
        if ours.numel() and ours.is_floating_point():
            scale = max(float(theirs.abs().max()), torch.finfo(theirs.dtype).tiny)
            yield float((ours - theirs).abs().max()) / scale, theirs.dtype


def strays(actual: Any, expected: Any, model: Callable[..., Any], sample: tuple[Tensor, ...]) -> bool:
    """Whether results are others than rounding makes them.

    Not where the model's own are so from call to call, or once its input is rounded otherwise.
    """

    def far(results: Any) -> bool:
        try:
            found = [*_differences(results, expected)]
        except (RuntimeError, ValueError):  # other shapes, or another number of tensors
            return True
        return any(d > _ROUNDING * torch.finfo(dtype).eps ** 0.5 for d, dtype in found)

    return far(actual) and not any(far(model(*(_nudged(x, seed) for x in sample))) for seed in range(3))


def _nudged(x: Tensor, seed: int) -> Tensor:
    """The numbers, each some units in the last place larger or smaller."""
    if not x.is_floating_point():
        return x.clone()
    own = torch.Generator(x.device).manual_seed(seed)  # the caller's goes on as if nothing had been
    signs = torch.rand(x.shape, generator=own, dtype=torch.float64, device=x.device) - 0.5
    return (x.double() * (1 + 8 * torch.finfo(x.dtype).eps * signs)).to(x.dtype)


@torch.no_grad()
def warn_of_other_results(model: torch.nn.Module, sparse: torch.nn.Module, sample_input: object) -> None:
    """Warn where a sparse copy computes something else: code may treat layers by their class."""
    with _in_eval_mode(model), without_hooks(model), without_hooks(sparse):
        try:
            sample = made_sample(model) if sample_input is None else arguments(sample_input)
            expected = run_sample(model, sample)
        except ValueError:  # no sample was found, or hooks do a part of the work
            return
        if strays(run_sample(sparse, sample), expected, model, sample):
            warnings.warn(
                f"sparsify: the pruned copy of {type(model).__name__} computes something else than it; "
                "its code may ask for the class of its layers, and a sparse one is no torch.nn.Linear or "
                "Conv2d (max_density=0 leaves all dense)",
                stacklevel=3,
            )
