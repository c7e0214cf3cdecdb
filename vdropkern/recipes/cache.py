"""The folder of what is fetched or made once: torchvision's downloads, and image files decoded to arrays."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from .._files import write_whole
from .idx import DataError

ENV_CACHE = "VDROPKERN_CACHE"
OFF = "off"
FORMAT = 1  # of decoded images; another one reads none of the old
KEPT_FROM = 5_000  # image files in a set; fewer are decoded in a second or so
NAMES = ("train_x", "train_y", "test_x", "test_y")


@dataclass(frozen=True)
class Decoded:
    """What was in a set's image files.

    Attributes:
        sets: train_x, train_y, test_x, test_y; images uint8 [N, 3, H, W], labels int64 [N].
        classes: their names. counts: training and test images of the whole set, decoded or not.
        sha256: of names and contents of the whole set. all_jpeg: whether all files are JPEGs.
    """

    sets: tuple[Tensor, ...]
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    sha256: str
    all_jpeg: bool


def cache_folder() -> Path:
    """``VDROPKERN_CACHE``, else vdropkern in ``XDG_CACHE_HOME`` or ~/.cache."""
    given = os.environ.get(ENV_CACHE, "")
    if given and given != OFF:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vdropkern"


def download(dataset: str, what: str, how_to: str) -> Path:
    """Let torchvision fetch a data set, unless it has; returns the folder that it was fetched into.

    Args:
        dataset: the class in torchvision.datasets.
        what: the set's name in messages. how_to: what else a user can do.

    Raises:
        DataError: torchvision is not installed, or has failed.
    """
    try:
        datasets = importlib.import_module("torchvision.datasets")
    except ImportError as err:
        raise DataError(f"torchvision is not installed: {how_to}") from err
    folder = cache_folder()
    try:
        getattr(datasets, dataset)(str(folder), download=True)
    except (RuntimeError, OSError) as err:
        raise DataError(f"torchvision could not download {what} to {folder} ({err}); {how_to}") from err
    return folder


class ImageCache:
    """The file that holds what image files of these very contents decode to, if it has been written.

    Its name is a checksum of the contents, of what was chosen of them, and of the decoder's version: another
    set, or a changed one, has another name, so that nothing old is ever read.

    Args:
        contents: all that decides the result, in a fixed order.
        train, test: how many were chosen; None: all.
    """

    def __init__(self, contents: Iterable[bytes], train: int | None, test: int | None) -> None:
        from PIL import __version__, features

        digest = hashlib.sha256()
        for content in contents:
            digest.update(len(content).to_bytes(8, "little") + content)
        key = repr((FORMAT, __version__, features.version("jpg"), train, test, digest.hexdigest()))
        name = f"images-{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"
        self.path = None if os.environ.get(ENV_CACHE) == OFF else cache_folder() / name

    def read(self) -> Decoded | None:
        """What was written; None: nothing, or what cannot be read."""
        if self.path is None or not self.path.exists():
            return None
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, framework="pt") as file:
                facts = json.loads(file.metadata()["facts"])
                return Decoded(
                    tuple(file.get_tensor(name) for name in NAMES), tuple(facts["classes"]),
                    tuple(facts["counts"]), facts["sha256"], facts["all_jpeg"],
                )  # fmt: skip
        except (SafetensorError, OSError, ValueError, KeyError, TypeError):
            return None  # damaged: decoded and written again

    def write(self, decoded: Decoded) -> None:
        """Keep it, if it is worth it and the folder can be written."""
        if self.path is None or sum(decoded.counts) < KEPT_FROM:
            return
        from safetensors.torch import save

        facts = {"classes": decoded.classes, "counts": decoded.counts, "sha256": decoded.sha256,
                 "all_jpeg": decoded.all_jpeg}  # fmt: skip
        content = save(dict(zip(NAMES, decoded.sets, strict=True)), {"facts": json.dumps(facts)})
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, content)
        except OSError:
            pass  # a full or read-only disk costs time, not the run
