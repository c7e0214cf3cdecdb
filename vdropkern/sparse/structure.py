"""Models as plain data: which module has which constructor arguments. No code is ever read from a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from .._surgery import PLAIN
from ..methods import MC, METHODS, Method
from .known import LATER, LAYERS, MODULES, SEQUENTIALS, SHRUNK
from .shrinking.select import Select

__all__ = [
    "StructureError",
    "build",
    "describe_layer",
    "describe_tree",
    "layer_nodes",
    "register_module",
]

_MAX_DEPTH = 64


class StructureError(ValueError):
    """A structure that names unknown modules or impossible arguments."""


def register_module(cls: type[torch.nn.Module], arguments: Sequence[str]) -> None:
    """Let `vdropkern.load` rebuild modules of a class of yours inside torch.nn.Sequential.

    Its name in files is its module and qualified name; register it before loading as before saving.

    Args:
        cls: the class itself; subclasses are not meant.
        arguments: attributes of an instance that are its constructor's arguments of the same names. Values
            may be None, bool, int, float, str, tuples of these and Methods; of ``bias`` only whether it is
            there counts. All state must be in the state dict, without children of unregistered classes.

    Raises:
        TypeError: `cls` is no Module class.
        ValueError: the name is taken by another class.
    """
    if not isinstance(cls, type) or not issubclass(cls, torch.nn.Module):
        raise TypeError(f"register_module: cls must be a torch.nn.Module class, got {cls!r}")
    name = f"{cls.__module__}.{cls.__qualname__}"
    if name in MODULES and MODULES[name][0] is not cls:
        raise ValueError(f"register_module: {name} is registered already")
    MODULES[name] = cls, tuple(arguments)


def _known(module: torch.nn.Module) -> str | None:
    """The name in files of the module's very class."""
    return next((name for name, (cls, _) in MODULES.items() if type(module) is cls), None)


def _plain(value: Any) -> Any:
    """A constructor argument as JSON data."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, MC):
        return {"mc": value.samples}
    if isinstance(value, Method):
        fields = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"method": value.name, **fields}
    raise StructureError(f"an argument of type {type(value).__name__} cannot be written")


def _argument(value: Any) -> Any:
    """The inverse of `_plain`."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list):
        return tuple(_argument(item) for item in value)
    if isinstance(value, dict) and set(value) == {"mc"}:
        return MC(value["mc"])
    if isinstance(value, dict) and value.get("method") in METHODS:
        fields = {name: _argument(item) for name, item in value.items() if name != "method"}
        return METHODS[value["method"]](**fields)
    raise StructureError(f"unknown argument {str(value)[:80]}; methods: {', '.join(METHODS)}")


def describe_layer(module: torch.nn.Module) -> dict[str, Any] | None:
    """The node of a module without children: {"type", "config"}; None if its class is not known.

    Nor is that of a layer whose weight a hook computes: the file could not tell how.
    """
    name = _known(module)
    if name is None or (isinstance(module, PLAIN) and "weight" not in module._parameters):
        return None
    config = {
        key: getattr(module, key) is not None if key == "bias" else _plain(getattr(module, key))
        for key in MODULES[name][1]
        if key not in LATER or getattr(module, key) != LATER[key]
    }
    return {"type": name, "config": config}


def describe_tree(model: torch.nn.Module) -> dict[str, Any] | None:
    """The node of a whole model; None unless it is torch.nn.Sequential, nested or not, of known modules.

    A module used twice is written once, its second place as {"same_as": first place}.
    """
    return _describe(model, "", {})


def _describe(module: torch.nn.Module, path: str, seen: dict[torch.nn.Module, str]) -> dict[str, Any] | None:
    if module in seen:
        return {"same_as": seen[module]}
    seen[module] = path
    if type(module) not in SEQUENTIALS:
        return describe_layer(module)
    children = []
    for name, child in module._modules.items():
        assert child is not None
        node = _describe(child, f"{path}.{name}".removeprefix("."), seen)
        if node is None:
            return None
        children.append([name, node])
    return {"type": "Sequential", "children": children}


def layer_nodes(model: torch.nn.Module, shrunk: bool) -> dict[str, dict[str, Any]]:
    """The nodes of the model's linear and convolution layers by name, this library's and torch's own.

    Of a shrunk model also the nodes of what else shrinking changes or replaces.
    """
    nodes: dict[str, dict[str, Any] | None] = {}
    for name, module in model.named_modules():
        if name.rpartition(".")[0] in nodes:
            continue
        if _known(module) in (*LAYERS, *(SHRUNK if shrunk else ())):
            nodes[name] = describe_layer(module)
        elif shrunk and type(module) in SEQUENTIALS and type(next(module.children(), None)) is Select:
            nodes[name] = describe_tree(module)
    return {name: node for name, node in nodes.items() if node is not None}


def build(node: Any) -> torch.nn.Module:
    """The model a node describes, on the meta device: nothing of its size is allocated.

    Raises:
        StructureError: the node is no such description.
    """
    with torch.device("meta"):
        return _build(node, "", {}, 0)


def _build(node: Any, path: str, built: dict[str, torch.nn.Module], depth: int) -> torch.nn.Module:
    where = path or "(model)"
    if depth > _MAX_DEPTH:
        raise StructureError(f"{where}: nested deeper than {_MAX_DEPTH} levels")
    if not isinstance(node, dict):
        raise StructureError(f"{where}: a module must be described by an object, got {str(node)[:80]}")
    if set(node) == {"same_as"}:
        if not isinstance(node["same_as"], str) or node["same_as"] not in built:
            raise StructureError(
                f"{where}: same as {str(node['same_as'])[:80]}, which does not come before it"
            )
        return built[node["same_as"]]
    if node.get("type") == "Sequential":
        module: torch.nn.Module = _build_sequential(node.get("children"), path, built, depth)
    else:
        module = _build_leaf(node, where)
    built[path] = module
    return module


def _build_sequential(
    children: Any, path: str, built: dict[str, torch.nn.Module], depth: int
) -> torch.nn.Sequential:
    sequential = torch.nn.Sequential()
    if not isinstance(children, list):
        raise StructureError(f"{path or '(model)'}: a Sequential needs a list of children")
    for child in children:
        if not (isinstance(child, list) and len(child) == 2 and isinstance(child[0], str)):
            raise StructureError(
                f"{path or '(model)'}: a child must be [name, module], got {str(child)[:80]}"
            )
        name, node = child
        if not name or "." in name or name in sequential._modules:
            raise StructureError(f"{path or '(model)'}: bad or repeated child name {name[:80]!r}")
        # not add_module, which refuses names such as "forward" but would let through what is checked above
        sequential._modules[name] = _build(node, f"{path}.{name}".removeprefix("."), built, depth + 1)
    return sequential


def _build_leaf(node: dict[str, Any], where: str) -> torch.nn.Module:
    name, config = node.get("type"), node.get("config")
    if not isinstance(name, str) or name not in MODULES:
        raise StructureError(
            f"{where}: unknown module {str(name)[:80]!r}; known: Sequential, {', '.join(sorted(MODULES))}; "
            "vdropkern.sparse.register_module adds others"
        )
    cls, arguments = MODULES[name]
    if isinstance(config, dict):
        config = {key: LATER[key] for key in arguments if key in LATER} | config
    if not isinstance(config, dict) or set(config) != set(arguments):
        raise StructureError(
            f"{where}: {name} takes {', '.join(arguments) or 'no arguments'}, got {config!s:.200}"
        )
    try:
        return cls(**{key: _argument(value) for key, value in config.items()})
    except StructureError as err:
        raise StructureError(f"{where}: {err}") from None
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as err:
        raise StructureError(f"{where}: {name} does not take {config!s:.200}: {err}") from err
