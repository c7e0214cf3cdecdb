"""Turning the linear and convolution layers of an existing model variational, its weights kept."""

from __future__ import annotations

import fnmatch
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ._surgery import (
    PLAIN,
    ChangeReport,
    LayerChange,
    WeightLayer,
    check_whole,
    copied,
    plain_class,
    replace_,
    weight_layers,
    why_not_plain,
)
from .methods import Method
from .nn import Conv1d, Conv2d, Linear, Variational

__all__ = ["convert", "load_dense_state_dict", "plan_conversion"]

MethodFor = Method | Mapping[str, Method] | Callable[[str, WeightLayer], Method | None]
Skip = Sequence[str] | Callable[[str, WeightLayer], bool]

_TWINS: dict[type[torch.nn.Module], type[Variational]] = {
    torch.nn.Linear: Linear,
    torch.nn.Conv1d: Conv1d,
    torch.nn.Conv2d: Conv2d,
}


@dataclass(frozen=True)
class _Decision:
    layer: WeightLayer
    name: str
    method: Method | None
    reason: str
    surprising: bool = False  # the caller would not expect the layer to be left alone

    def change(self) -> LayerChange:
        before = type(self.layer).__name__
        return LayerChange(
            self.name, before, before if self.method is None else str(self.method), self.reason
        )


def convert(
    model: torch.nn.Module, method: MethodFor, *, skip: Skip = (), inplace: bool = False
) -> torch.nn.Module:
    """Replace torch.nn.Linear, Conv1d and Conv2d by `vdropkern.nn`'s, weights and biases kept.

    A layer used in several places stays one layer, tied parameters stay tied. Device, dtype, training flag,
    requires_grad and forward hooks are kept; the noise's parameter is trainable if the weight is. Subclasses
    of torch's layers may compute something else, so they are left alone, with one warning that names them
    (none for those in `skip`); `plan_conversion` tells beforehand.

    Args:
        model: any module, itself such a layer or not.
        method: for all layers; or by name, {"fc1": SparseVD(), "decoder.*": ARD()}, the first match counts
            and layers without one stay dense; or a function (name, layer) -> Method, or None to leave it.
        skip: names of layers to leave dense; or a function (name, layer) -> True to leave it.
        inplace: change the model itself, which keeps its Parameter objects; False (default): a deep copy.

    Names are those of `named_modules`; one that ends at a module above means all layers below it, and
    ``*``, ``?`` and ``[...]`` are wildcards.

    Returns:
        the converted copy, or the model itself.

    Raises:
        ValueError: a name matches no such layer; a layer is parametrized, hooked or lazy and not skipped;
            `inplace` with a model that is itself the layer.
        TypeError: `model` is no module; `method` or `skip` is none of the above.
    """
    decisions = _decide(model, method, skip)
    _warn(decisions)
    if isinstance(model, PLAIN):
        if inplace:
            raise ValueError("convert: a model that is itself the layer cannot be converted in place")
        decision = decisions[0]
        own = copied(model)
        return own if decision.method is None else _twin(own, decision.method)
    result = model if inplace else copied(model)
    by_name = {d.name: d.method for d in decisions if d.method is not None}
    replacements: dict[torch.nn.Module, torch.nn.Module] = {}
    for layer, names in weight_layers(result).items():
        if names[0] in by_name:
            replacements[layer] = _twin(layer, by_name[names[0]])
    replace_(result, replacements)
    return result


def _twin(layer: torch.nn.Module, method: Method) -> Variational:
    return _TWINS[type(layer)].from_dense(layer, method)


def plan_conversion(model: torch.nn.Module, method: MethodFor, *, skip: Skip = ()) -> ChangeReport:
    """What `convert` with the same arguments would do to each layer, and why. Changes nothing.

    Raises:
        ValueError, TypeError: as `convert`.
    """
    return ChangeReport(tuple(decision.change() for decision in _decide(model, method, skip)))


def _matches(pattern: str, names: tuple[str, ...]) -> bool:
    return any(
        name == pattern or name.startswith(f"{pattern}.") or fnmatch.fnmatchcase(name, pattern)
        for name in names
    )


def _check_patterns(patterns: Sequence[str], layers: Mapping[Any, tuple[str, ...]], argument: str) -> None:
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(f"convert: {argument} must hold names, got {pattern!r}")
        if not any(_matches(pattern, names) for names in layers.values()):
            known = ", ".join(names[0] for names in layers.values()) or "none"
            raise ValueError(
                f"convert: {argument} has {pattern!r}, which is no linear or convolution layer of the model; "
                f"it has: {known}"
            )


def _skips(
    skip: Skip, layers: Mapping[WeightLayer, tuple[str, ...]]
) -> Callable[[WeightLayer, tuple[str, ...]], bool]:
    if callable(skip):
        predicate = skip
        return lambda layer, names: bool(predicate(names[0], layer))
    if isinstance(skip, str) or not isinstance(skip, Sequence):
        raise TypeError(f"convert: skip must be a list of names or a function, got {skip!r}")
    patterns = skip
    _check_patterns(patterns, layers, "skip")
    return lambda layer, names: any(_matches(pattern, names) for pattern in patterns)


def _methods(
    method: MethodFor, layers: Mapping[WeightLayer, tuple[str, ...]]
) -> Callable[[WeightLayer, tuple[str, ...]], Method | None]:
    if isinstance(method, Method):
        return lambda layer, names: method
    if isinstance(method, Mapping):
        _check_patterns(tuple(method), layers, "method")
        by_name = method
        return lambda layer, names: next((m for key, m in by_name.items() if _matches(key, names)), None)
    if isinstance(method, type) or not callable(method):
        raise TypeError(
            f"convert: method must be a Method as SparseVD(), a dict by name or a function, got {method!r}"
        )
    choose = method
    return lambda layer, names: choose(names[0], layer)


def _decide(model: torch.nn.Module, method: MethodFor, skip: Skip) -> list[_Decision]:
    check_whole(model, "convert")
    layers = weight_layers(model)
    skipped, method_of = _skips(skip, layers), _methods(method, layers)
    readers = {
        module.out_proj for module in model.modules() if isinstance(module, torch.nn.MultiheadAttention)
    }
    decisions = []
    for layer, names in layers.items():
        name = names[0]
        if skipped(layer, names):
            decisions.append(_Decision(layer, name, None, "skipped"))
        elif isinstance(layer, Variational):
            decisions.append(_Decision(layer, name, None, f"variational already: {layer.method}"))
        elif (chosen := method_of(layer, names)) is None:
            decisions.append(_Decision(layer, name, None, "no method given for it"))
        elif not isinstance(chosen, Method):
            raise TypeError(f"convert: method for {name!r} must be a Method, got {chosen!r}")
        elif layer in readers:
            reason = "torch.nn.MultiheadAttention reads its weight without calling it"
            decisions.append(_Decision(layer, name, None, reason, surprising=True))
        elif (why := why_not_plain(layer)) is not None:
            raise ValueError(f"convert: {name!r} is {why}, or add it to skip")
        elif type(layer) not in _TWINS:
            reason = f"a subclass of torch.nn.{plain_class(layer).__name__}, which may compute something else"
            decisions.append(_Decision(layer, name, None, reason, surprising=True))
        else:
            decisions.append(_Decision(layer, name, chosen, f"a plain torch.nn.{type(layer).__name__}"))
    return decisions


def _warn(decisions: list[_Decision]) -> None:
    left = [f"{d.name} ({type(d.layer).__name__}: {d.reason})" for d in decisions if d.surprising]
    if left:
        warnings.warn(
            f"convert left {len(left)} of {len(decisions)} layers as they were: {'; '.join(left)}. "
            "Add them to skip to say so yourself.",
            UserWarning,
            stacklevel=3,
        )


def load_dense_state_dict(model: torch.nn.Module, state_dict: Mapping[str, Tensor]) -> torch.nn.Module:
    """Load a checkpoint of the dense net into its variational twin: the noise's parameters stay as they are.

    As `model.load_state_dict(state_dict, strict=False)`, but nothing else than the methods' own parameters
    and buffers may be missing, and nothing may be left over; and on an error nothing is loaded.

    Returns:
        the model.

    Raises:
        ValueError: a name is missing or unknown, or a shape differs.
    """
    check_whole(model, "load_dense_state_dict")
    own = model.state_dict()
    noise = {
        f"{prefix}.{name}".removeprefix(".")
        for prefix, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, Variational)
        for name in module.state_dict()
        if name not in module._dense_state
    }
    missing = sorted(set(own) - set(state_dict) - noise)
    unknown = sorted(set(state_dict) - set(own))
    if missing or unknown:
        raise ValueError(
            f"load_dense_state_dict: missing: {', '.join(missing) or 'none'}; "
            f"unknown: {', '.join(unknown) or 'none'}"
        )
    for name, tensor in state_dict.items():
        if tensor.shape != own[name].shape:
            raise ValueError(
                f"load_dense_state_dict: {name} is {tuple(tensor.shape)}, "
                f"the model's is {tuple(own[name].shape)}"
            )
    model.load_state_dict(state_dict, strict=False)
    return model
