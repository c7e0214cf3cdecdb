"""Replacing layers in a model, and saying what was replaced and what was not."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils import parametrize


@dataclass(frozen=True)
class LayerChange:
    """What became, or would become, of one layer: its name, what it is, what it turns into, and why."""

    name: str
    before: str
    after: str
    reason: str

    @property
    def changed(self) -> bool:
        return self.before != self.after


@dataclass(frozen=True)
class ChangeReport:
    """One `LayerChange` a layer; prints as a table."""

    rows: tuple[LayerChange, ...]

    def __iter__(self) -> Iterator[LayerChange]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        head = ("layer", "is", "becomes", "why")
        return table(head, [(row.name, row.before, row.after, row.reason) for row in self.rows])


def table(head: tuple[str, ...], rows: list[tuple[str, ...]], right: tuple[int, ...] = ()) -> str:
    """Text columns; those listed in `right` are aligned to the right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = []
    for row in [head, *rows]:
        cells = [
            c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def check_module(model: object, where: str, name: str = "model") -> None:
    """Raise unless it is a module: a path, a state dict and a class are what is given by mistake."""
    if not isinstance(model, torch.nn.Module):
        got = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise TypeError(f"{where}: {name} must be a torch.nn.Module, got {got}")


def check_whole(model: object, where: str, name: str = "model") -> None:
    """Raise unless it is a module with whole parameters: of shards (FSDP) no zeros or units can be told."""
    check_module(model, where, name)
    assert isinstance(model, torch.nn.Module)
    for parameter_name, parameter in model.named_parameters():
        if hasattr(parameter, "full_tensor"):
            raise ValueError(
                f"{where}: {name}'s parameters must be whole, but {parameter_name} is sharded; load the "
                "full state dict (torch.distributed.checkpoint.state_dict) into a net that is not sharded"
            )


# torch's layers that have a variational twin
WeightLayer = torch.nn.Linear | torch.nn.Conv1d | torch.nn.Conv2d
PLAIN = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d)


def plain_class(layer: WeightLayer) -> type[torch.nn.Module]:
    """The layer's class in torch.nn, of whatever subclass it is."""
    return next(cls for cls in PLAIN if isinstance(layer, cls))


def weight_layers(model: torch.nn.Module) -> dict[WeightLayer, tuple[str, ...]]:
    """Every linear and convolution layer of the model, subclasses included, with all names it is reached by.

    The model's own name is ``(model)``.
    """
    found: dict[WeightLayer, tuple[str, ...]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, PLAIN):
            found[module] = (*found.get(module, ()), name or "(model)")
    return found


def why_not_plain(layer: torch.nn.Module) -> str | None:
    """Why the layer is not just its weight and bias, with what to do about it; None where it is."""
    if parametrize.is_parametrized(layer):
        return "parametrized; torch.nn.utils.parametrize.remove_parametrizations first"
    if isinstance(layer, torch.nn.modules.lazy.LazyModuleMixin) and layer.has_uninitialized_params():
        return "lazy and not initialised yet; run a batch through the model first"
    if "weight" not in layer._parameters:
        return "computed by a hook; torch.nn.utils.prune.remove or torch.nn.utils.remove_weight_norm first"
    if "bias" not in layer._parameters:
        return "its bias is computed by a hook; torch.nn.utils.prune.remove(layer, 'bias') first"
    if "forward" in layer.__dict__:
        return "patched in its forward; take the patch off first"
    return None


def with_replaced(model: torch.nn.Module, replacements: Mapping[Any, torch.nn.Module]) -> torch.nn.Module:
    """A deep copy of the model that holds the replacements themselves; what was shared stays shared."""
    result = copied(model, {id(old): new for old, new in replacements.items()})
    _leave_fast_paths(result)
    return result


def copied(model: torch.nn.Module, memo: dict[int, object] | None = None) -> torch.nn.Module:
    """A deep copy, also of a model with layers that hooks give their weight (torch.nn.utils.prune).

    Such a weight is a plain attribute with a history, which deepcopy refuses; the hook makes it anew. So are
    results that a model keeps of its last call.
    """
    memo = {} if memo is None else memo

    def detached(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and not value.is_leaf:
            memo[id(value)] = value.detach().clone()
        return value

    for module in model.modules():
        for value in module.__dict__.values():
            _mapped(value, detached, set())
    result: torch.nn.Module = copy.deepcopy(model, memo)
    return result


def replace_(model: torch.nn.Module, replacements: Mapping[torch.nn.Module, torch.nn.Module]) -> None:
    """Put the replacements in their places, in place, and in lists of modules that a model keeps beside."""

    def replaced(value: Any) -> Any:
        return replacements.get(value, value) if isinstance(value, torch.nn.Module) else value

    for parent in list(model.modules()):
        for name, value in parent.__dict__.items():
            parent.__dict__[name] = _mapped(value, replaced, set())
    _leave_fast_paths(model)


def _mapped(value: Any, function: Callable[[Any], Any], seen: set[int]) -> Any:
    """`function` of a value or, in place, of what the lists, tuples and dicts that it is made of hold."""
    if id(value) in seen:
        return value
    if type(value) in (dict, OrderedDict):
        seen.add(id(value))
        for key, item in value.items():
            value[key] = _mapped(item, function, seen)
    elif type(value) is list:
        seen.add(id(value))
        value[:] = [_mapped(item, function, seen) for item in value]
    elif type(value) is tuple:
        items = [_mapped(item, function, seen) for item in value]
        return value if all(a is b for a, b in zip(items, value, strict=True)) else tuple(items)
    else:
        return function(value)
    return value


def _leave_fast_paths(model: torch.nn.Module) -> None:
    """Keep torch's transformer layers from reading the weights of their linear layers past `forward`."""
    for module in model.modules():
        if isinstance(module, torch.nn.TransformerEncoderLayer):
            plain = type(module.linear1) is type(module.linear2) is torch.nn.Linear
            if not plain:
                module.activation_relu_or_gelu = 0  # the flag its forward checks before the fused path
    for module in model.modules():
        if isinstance(module, torch.nn.TransformerEncoder) and any(
            getattr(layer, "activation_relu_or_gelu", 0) == 0 for layer in module.layers
        ):
            module.use_nested_tensor = False


def carry_over(old: torch.nn.Module, new: torch.nn.Module) -> torch.nn.Module:
    """Give `new` the forward hooks and the training flag of `old`; returns `new`."""
    for name in (
        "_forward_hooks",
        "_forward_hooks_with_kwargs",
        "_forward_hooks_always_called",
        "_forward_pre_hooks",
        "_forward_pre_hooks_with_kwargs",
    ):
        new.__dict__[name] = old.__dict__[name].copy()
    return new.train(old.training)
