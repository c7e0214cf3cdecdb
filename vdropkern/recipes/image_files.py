"""Images from JPEG and PNG files: folders and archives of train/CLASS and test/CLASS."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .cache import Decoded
from .data import chosen
from .idx import DataError

SUFFIXES = (".jpg", ".jpeg", ".png")
SPLITS = {"train": "train", "test": "test", "val": "test", "valid": "test"}


def is_image(name: str) -> bool:
    """Whether a file is one of those read here, by its name."""
    return name.lower().endswith(SUFFIXES)


def read_files(source: Path | bytes, others: tuple[str, ...]) -> dict[str, bytes]:
    """Names and contents of image files and of those named `others` in a folder, or in an archive's bytes."""

    def wanted(name: str) -> bool:
        base = os.path.basename(name)
        return not base.startswith(".") and (is_image(base) or base in others)

    if isinstance(source, Path):
        return {
            str(file.relative_to(source)): file.read_bytes()
            for file in sorted(source.rglob("*"))
            if wanted(file.name) and file.is_file()
        }
    files = {}
    with tarfile.open(fileobj=io.BytesIO(source)) as tar:
        for member in tar:
            if member.isfile() and wanted(member.name):
                content = tar.extractfile(member)
                assert content is not None  # it is a regular file
                files[member.name] = content.read()
    return files


def decode_tree(
    path: Path, files: dict[str, bytes], train: int | None, test: int | None, how_to: str
) -> Decoded:
    """Decode files in train/CLASS and test/CLASS, of each split at most so many, a fixed random choice.

    Raises:
        DataError: there are none, one is damaged, or they are of several sizes.
    """
    by_split: dict[str, list[tuple[str, str]]] = {"train": [], "test": []}
    for name in sorted(files):
        parts = name.replace("\\", "/").split("/")
        if len(parts) >= 3 and parts[-3] in SPLITS:
            by_split[SPLITS[parts[-3]]].append((parts[-2], name))
    if not all(by_split.values()):
        raise DataError(f"{path}: no images in train/CLASS and test/CLASS found; {how_to}")
    classes = tuple(sorted({label for label, _ in by_split["train"]}))
    if unknown := sorted({label for label, _ in by_split["test"]} - set(classes)):
        raise DataError(f"{path}: test has classes that train lacks: {', '.join(unknown)}")
    digest = hashlib.sha256()
    for items in by_split.values():
        for label, name in items:
            digest.update(f"{label}/{os.path.basename(name)}\0".encode() + files[name])
    sets = []
    for split, most in (("train", train), ("test", test)):
        items = [by_split[split][i] for i in chosen(len(by_split[split]), most).tolist()]
        x = _stack([_decode(files[name], f"{path}:{name}") for _, name in items], path)
        sets += [x, torch.tensor([classes.index(label) for label, _ in items])]
    counts = tuple(len(items) for items in by_split.values())
    all_jpeg = not any(name.lower().endswith(".png") for name in files)
    return Decoded(tuple(sets), classes, counts, digest.hexdigest(), all_jpeg)


def _decode(content: bytes, where: str) -> np.ndarray[Any, Any]:
    """uint8 [H, W, 3]."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.mode.startswith(("I", "F")):  # Pillow would cut off at 255, not scale
                raise ValueError(f"of mode {image.mode}, 8 bits a colour expected")
            return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as err:
        raise DataError(f"{where}: not a readable image ({err}); fetch the file again") from err


def _stack(images: list[np.ndarray[Any, Any]], path: Path) -> Tensor:
    """uint8 [N, 3, H, W]."""
    shapes = sorted({image.shape for image in images})
    if len(shapes) > 1:
        first, last = ("x".join(map(str, shape[:2])) for shape in (shapes[0], shapes[-1]))
        raise DataError(f"{path}: images of several sizes ({first} to {last}); bring them to one")
    return torch.from_numpy(np.stack(images)).movedim(-1, 1).contiguous()
