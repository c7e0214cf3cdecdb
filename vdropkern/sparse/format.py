"""The bytes of a model file: safetensors, with the structure as JSON and a checksum in its metadata."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._version import __version__

__all__ = ["DTYPES", "Content", "ModelFileError", "decode", "decode_header", "encode"]

FORMAT_VERSION = 1
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
DTYPES = (*FLOATS, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)

# what the structure must hold, and of which type
_STRUCTURE: dict[str, type | tuple[type, ...]] = {
    "tree": (dict, type(None)),
    "layers": dict,
    "class": str,
    "aliases": dict,
    "training": bool,
}


class ModelFileError(ValueError):
    """A file is no model of this library, is damaged, or does not fit. The message says which and how."""


class Content(NamedTuple):
    """A file's structure (see `structure.py`) and tensors."""

    structure: dict[str, Any]
    tensors: dict[str, Tensor]


def encode(content: Content) -> bytes:
    """The file's bytes, the same for the same content.

    Tensors must be on the CPU, contiguous and apart from each other.
    """
    import safetensors.torch  # here, so that importing the package stays light

    about = {
        "format": FORMAT_VERSION,
        "library": __version__,
        "sha256": _digest(content.structure, content.tensors),
        "structure": content.structure,
    }
    # one entry, since safetensors writes several in any order
    data: bytes = safetensors.torch.save(content.tensors, {"vdropkern": json.dumps(about)})
    return data


def decode_header(path: Path, data: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """(what is said about the model, with its structure; the tensors' entries); `path` is for messages.

    Raises:
        ModelFileError: these are not the bytes of a model, or not of one this version reads.
    """
    size = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + size])
        about = json.loads(header.pop("__metadata__")["vdropkern"])
        version = about["format"]
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError):
        zipped = "; if torch.save wrote it, torch.load reads it, and `vdropkern sparsify` a run's checkpoint"
        raise ModelFileError(
            f"{path}: not a model saved by vdropkern, or cut short{zipped if data.startswith(b'PK') else ''}"
        ) from None
    if version != FORMAT_VERSION:
        raise ModelFileError(
            f"{path}: format {str(version)[:20]}, but this version reads {FORMAT_VERSION}; "
            "use a newer vdropkern"
        )
    structure = about.get("structure")
    if not isinstance(structure, dict):
        raise ModelFileError(f"{path}: holds no structure")
    for name, kind in _STRUCTURE.items():
        if not isinstance(structure.get(name, ...), kind):
            raise ModelFileError(f"{path}: its structure has no valid {name!r}")
    return about, header


def decode(path: Path, data: bytes) -> Content:
    """Structure and tensors of a file's bytes, aliases resolved.

    Raises:
        ModelFileError: they are damaged, cut short, altered, or hold what no model file holds.
    """
    import safetensors
    import safetensors.torch

    about, _ = decode_header(path, data)
    structure = about["structure"]
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(data)
    except (safetensors.SafetensorError, KeyError, RuntimeError, TypeError, ValueError) as err:
        raise ModelFileError(f"{path}: damaged or cut short: {str(err)[:200]}") from err
    for name, tensor in sorted(tensors.items()):
        if tensor.dtype not in DTYPES:
            raise ModelFileError(f"{path}: {name[:80]} is {tensor.dtype}, which no model file holds")
    if _digest(structure, tensors) != about.get("sha256"):
        raise ModelFileError(f"{path}: its checksum is wrong: the file was damaged or altered")
    for name, target in structure["aliases"].items():
        if not isinstance(target, str) or target not in tensors or name in tensors:
            raise ModelFileError(f"{path}: {name[:80]} is the alias of no tensor")
    tensors.update({name: tensors[target] for name, target in structure["aliases"].items()})
    return Content(structure, tensors)


def _digest(structure: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(structure, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\0{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
