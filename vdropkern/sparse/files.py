"""Models in one file: safetensors for the numbers, JSON in its metadata for the structure. No pickle.

One file rather than a folder of two, because one file can be replaced as a whole (`os.replace`), so nobody
ever finds the numbers of one model beside the structure of another.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._files import write_whole
from .._surgery import check_whole, replace_
from ..ops.spmm.csr import check_csr
from ._layer import SparseLayer
from ._packed_state import PackedState
from .format import DTYPES, Content, ModelFileError, decode, decode_header, encode
from .sequential import fuse
from .shrink import is_shrunk, mark_shrunk
from .shrinking.select import Select
from .stand_in import check_stands_in
from .structure import StructureError, build, describe_tree, layer_nodes

__all__ = ["ModelFileError", "describe", "load", "save"]


def save(model: torch.nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a model's structure and state to one file, whole or not at all.

    The structure is complete, so that `load` needs no code, where the model is a torch.nn.Sequential (nested
    or not) of layers of this library, torch's Linear, convolutions, pooling, normalisation, dropout,
    activations, Flatten and Identity, or of what `sparse.register_module` added. Of any other model the
    linear and convolution layers are described, and `load` needs ``into``. Hooks, requires_grad and modes of
    submodules are not saved; the model's own training flag is.

    Args:
        model: any module whose state dict holds dense tensors.
        path: the file; ``.safetensors`` is the usual suffix. The folder must exist.

    Raises:
        ValueError: the state holds something else than tensors of usual dtypes, or an argument of a module
            cannot be written.
        OSError: the file cannot be written; what was there before is still there.
    """
    check_whole(model, "save")
    tensors, aliases = _state(model)
    structure = {
        "tree": describe_tree(model),
        "layers": layer_nodes(model, is_shrunk(model)),
        "class": type(model).__name__,
        "aliases": aliases,
        "training": model.training,
    }
    if is_shrunk(model):
        structure["shrunk"] = True
    write_whole(Path(path), encode(Content(structure, tensors)))


def load(path: str | os.PathLike[str], into: torch.nn.Module | None = None) -> torch.nn.Module:
    """Read a model that `save` wrote; everything is checked before anything is used.

    Args:
        path: the file.
        into: a model of the saved one's architecture, built by you: plain, variational or sparse layers in
            it become what was saved (smaller ones where it was shrunk), its parameters are overwritten, tied
            ones that pruning made differ come apart, and device and dtype stay its own. On an error it is
            left as it was. None: build the model from the
            file, on the CPU.

    Returns:
        `into`, or a new model, which is in the mode (training or eval) it was saved in.

    Raises:
        ModelFileError: the file is damaged, altered, no model, of a newer version, or does not fit `into`;
            or it needs `into` and none was given.
        OSError: the file cannot be read.
    """
    if into is not None:
        check_whole(into, "load", "into")
    # read once: a file that is mapped, not read, could change under the model
    content = decode(Path(path), Path(path).read_bytes())
    try:
        if into is None:
            return _rebuild(content)
        _fill(into, content)
        return into
    except StructureError as err:
        raise ModelFileError(f"{path}: {err}") from None


def describe(path: str | os.PathLike[str]) -> str:
    """What a file holds, for reading: versions, structure as indented JSON, tensors with shapes.

    Raises:
        ModelFileError: the file is no model of this library.
        OSError: the file cannot be read.
    """
    path = Path(path)
    about, entries = decode_header(path, path.read_bytes())
    structure = about["structure"]
    lines = [
        f"vdropkern model, format {about['format']}, written by version {about.get('library')}",
        f"{'in eval' if not structure['training'] else 'in training'} mode, a {structure['class']}:",
        json.dumps(structure["tree"] or structure["layers"], indent=2),
    ]
    lines += [f"{name}: {entry['dtype']} {entry['shape']}" for name, entry in sorted(entries.items())]
    return "\n".join(lines)


def _state(model: torch.nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The state dict on the CPU, each tensor once, and the names of those that are another's alias."""
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[Tensor, str] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if not isinstance(value, Tensor) or value.dtype not in DTYPES:
            what = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"save: {name} is {what}, which a model file cannot hold")
        if value in first:
            aliases[name] = first[value]
        else:
            first[value] = name
            # a clone, as views of one memory are no tensors of their own to safetensors
            tensors[name] = value.detach().to("cpu", copy=True).contiguous()
    return tensors, aliases


def _check_fits(own: dict[str, Tensor], tensors: dict[str, Tensor], where: str) -> None:
    """Raise unless both hold the same names, shapes and kinds of dtype."""
    missing, unknown = sorted(set(own) - set(tensors)), sorted(set(tensors) - set(own))
    if missing or unknown:
        raise StructureError(
            f"{where} needs other tensors than the file holds: missing {', '.join(missing[:8]) or 'none'}; "
            f"left over {', '.join(unknown[:8]) or 'none'}"
        )
    for name, tensor in sorted(tensors.items()):  # safetensors gives them in any order
        if tensor.shape != own[name].shape:
            raise StructureError(
                f"{name} must be {list(own[name].shape)}, the file's is {list(tensor.shape)}"
            )
        if tensor.dtype != own[name].dtype and not all(t.is_floating_point() for t in (tensor, own[name])):
            raise StructureError(f"{name} must be {own[name].dtype}, the file's is {tensor.dtype}")


def _check_indices(modules: dict[str, torch.nn.Module], tensors: dict[str, Tensor]) -> None:
    """Refuse indices that a kernel would follow out of bounds."""
    name = ""
    try:
        for name, layer in modules.items():
            if isinstance(layer, SparseLayer):
                parts = ("values", "col_indices", "row_offsets")
                values, columns, offsets = (tensors[f"{name}.{part}".removeprefix(".")] for part in parts)
                check_csr(values, columns, offsets, layer.matrix_shape[1])
            elif isinstance(layer, Select):
                layer.check(tensors[f"{name}.indices".removeprefix(".")])
            elif isinstance(layer, PackedState):
                for buffer in layer._buffers:
                    layer.check(buffer, tensors[f"{name}.{buffer}".removeprefix(".")])
    except ValueError as err:
        raise StructureError(f"{name or '(model)'}: {err}") from None


def _rebuild(content: Content) -> torch.nn.Module:
    structure, tensors = content
    if structure["tree"] is None:
        raise StructureError(
            f"holds the state of a {structure['class'][:80]}, which only its own code can build; "
            "build one and pass it as load(path, into=model)"
        )
    model = build(structure["tree"])
    _check_fits(model.state_dict(), tensors, "the model")
    _check_indices(dict(model.named_modules()), tensors)
    _assign(model, tensors, structure["aliases"])
    mark_shrunk(model, structure.get("shrunk") is True)
    return fuse(model).train(structure["training"])


def _assign(model: torch.nn.Module, tensors: dict[str, Tensor], aliases: dict[str, str]) -> None:
    """Make the tensors the model's own; aliases become one Parameter again."""
    own = model.state_dict(keep_vars=True)
    state = {}
    for name, tensor in tensors.items():
        target = aliases.get(name)
        is_parameter = isinstance(own[name], torch.nn.Parameter)
        if target is not None and is_parameter:
            continue
        grad = tensor.is_floating_point()
        state[name] = torch.nn.Parameter(tensor, requires_grad=grad) if is_parameter else tensor
    state.update({name: state[target] for name, target in aliases.items() if name not in state})
    model.load_state_dict(_versioned(state, own), assign=True)


def _versioned(state: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """The state with the versions of the modules, without which some take it for an old one."""
    result = OrderedDict(state)
    result._metadata = own._metadata  # type: ignore[attr-defined]
    return result


def _fill(into: torch.nn.Module, content: Content) -> None:
    """Turn the layers of `into` into the saved ones and load the state; all or nothing."""
    shrunk = content.structure.get("shrunk") is True
    replacements = _replacements(into, content.structure["layers"], shrunk)
    names = dict(into.named_modules(remove_duplicate=False))
    replaced = {name: replacements[module] for name, module in names.items() if module in replacements}

    def is_replaced(key: str) -> bool:
        return any(key.startswith(f"{name}.") for name in replaced)

    own = {key: value for key, value in into.state_dict().items() if not is_replaced(key)}
    for name, layer in replaced.items():
        own.update({f"{name}.{key}": value for key, value in layer.state_dict().items()})
    _check_fits(own, content.tensors, f"a {type(into).__name__}")
    new = {f"{name}.{inner}".strip("."): m for name, l in replaced.items() for inner, m in l.named_modules()}
    _check_indices({n: m for n, m in names.items() if not is_replaced(n)} | new, content.tensors)
    apart = _to_untie(into, {k: v for k, v in content.tensors.items() if not is_replaced(k)})

    for name, module in names.items():
        if module in replacements:
            device, dtype = _place(module, into)
            layer, prefix = replacements[module], f"{name}."
            state = {
                key.removeprefix(prefix): value.to(
                    device, dtype if value.is_floating_point() else value.dtype
                )
                for key, value in content.tensors.items()
                if key.startswith(prefix)
            }
            layer.load_state_dict(state, assign=True)
            layer.train(module.training)
    for parameters, name in apart:
        old = parameters[name]
        parameters[name] = torch.nn.Parameter(old.detach().clone(), old.requires_grad)
    replace_(into, replacements)
    mark_shrunk(into, shrunk)
    fuse(into)
    rest = {k: v for k, v in content.tensors.items() if not is_replaced(k)}
    into.load_state_dict(_versioned(rest, into.state_dict()), strict=False)


def _to_untie(into: torch.nn.Module, tensors: dict[str, Tensor]) -> list[tuple[dict[str, Any], str]]:
    """The places of parameters that are tied to another in the model, and hold something else in the file."""
    first: dict[Tensor, tuple[str, torch.nn.Module]] = {}
    places = []
    for prefix, module in into.named_modules(remove_duplicate=False):
        for attribute, parameter in module._parameters.items():
            name = f"{prefix}.{attribute}".removeprefix(".")
            if parameter is None or name not in tensors:
                continue
            other, owner = first.setdefault(parameter, (name, module))
            if tensors[name] is tensors[other] or torch.equal(tensors[name], tensors[other]):
                continue
            if module is owner:
                raise StructureError(f"{name[:80]} is {other[:80]} in the model, but not in the file")
            places.append((module._parameters, attribute))
    return places


def _place(layer: torch.nn.Module, model: torch.nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and dtype of a layer's numbers; of its model's if it has none."""
    floats = (p for part in (layer, model) for p in part.parameters() if p.is_floating_point())
    first = next(floats, torch.empty(0))
    return first.device, first.dtype


def _replacements(
    into: torch.nn.Module, nodes: dict[str, Any], shrunk: bool
) -> dict[torch.nn.Module, torch.nn.Module]:
    """For each layer of `into` that is not what was saved, that what was saved (on the meta device)."""
    names = dict(into.named_modules())
    replacements: dict[torch.nn.Module, torch.nn.Module] = {}
    for name, node in nodes.items():
        old = names.get(name)
        if old is not None and describe_tree(old) == node:
            continue
        new = build(node)
        check_stands_in(name[:80], old, new, shrunk)
        assert old is not None
        if old is into:
            raise StructureError(
                "a model that is itself a layer of another kind cannot be filled; leave out into"
            )
        replacements[old] = new
    return replacements
