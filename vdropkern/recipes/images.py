"""Colour images for the recipes: folders and archives of JPEG or PNG files, CIFAR's batches, arrays."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import io
import os
import pickle
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .cache import ImageCache, download
from .data import Images
from .idx import DataError, first_line
from .image_files import decode_tree, read_files

__all__ = ["ENV_IMAGES", "load_images"]

ENV_IMAGES = "VDROPKERN_IMAGES"
CIFAR_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
CIFAR_BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
# the published files', which torchvision checks too
CIFAR_MD5 = (
    "c99cafc152244af753f735de768cd75f",
    "d4bba439e000b95fd0a9bffe97cbabec",
    "54ebc095f3ab1f0389bbae665268c751",
    "634d18415352ddfa80567beed471001a",
    "482c414d41f54cd18b22e5b47cb7c3cb",
    "40351d587109b95175f43aff81a1287e",
)
JPEG_NOTE = "JPEG quality-75 copy of CIFAR-10: not comparable to published numbers"
# by `Images.sha256`: what is known by name, and its note
KNOWN = {
    "da728d1a5ee5f5e4a71959c46ad7e6809710dcbe7babe71fd03e457445ab6667": (
        "CIFAR-10, JPEG quality-75 copy", JPEG_NOTE
    ),
    "efb145a9533d69cc32f0f799595be212efe44b7b432bdef979338cbf6f9e220c": (
        "a part of CIFAR-10, JPEG quality-75 copy", JPEG_NOTE
    ),
    "f206324756884b0c5000ecc8ed439cdd5926e2a5d7b2fa73426a4a5dc84d3c57": (
        "20 classes of Caltech-101 at 32x32", "20 classes of Caltech-101: not comparable to published numbers"
    ),
}  # fmt: skip
OTHER_NOTE = "not CIFAR-10, not comparable to its published numbers"
HOW_TO = (
    f"give --data PATH (or {ENV_IMAGES}): CIFAR-10's cifar-10-python.tar.gz or its folder, a folder or tar "
    "archive of train/CLASS/*.jpg and test/CLASS/*.jpg (or .png), or an .npz of x_train, y_train, x_test, "
    "y_test; or `pip install torchvision` to download CIFAR-10"
)


def load_images(
    data: str | os.PathLike[str] | None = None, *, train: int | None = None, test: int | None = None
) -> Images:
    """Load images: `data`, else ``VDROPKERN_IMAGES``, else torchvision's download of CIFAR-10.

    Args:
        data: a folder or tar archive of image files in ``train/CLASS`` and ``test/CLASS``, also deeper; one
            of CIFAR-10's python batches; an .npz file; or the word ``torchvision``.
        train, test: of image files no more than so many are decoded, a fixed random choice.

    Raises:
        DataError: the data are missing or damaged; no other source is tried when one was named.
    """
    given = os.fspath(data) if data is not None else os.environ.get(ENV_IMAGES, "")
    if given == "torchvision" or (not given and importlib.util.find_spec("torchvision")):
        return _from_files(download("CIFAR10", "CIFAR-10", HOW_TO) / "cifar-10-batches-py", None, None)
    if not given:
        raise DataError(f"no images found: {HOW_TO}")
    path = Path(given).expanduser()
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; {HOW_TO}")
    if path.suffix == ".npz":
        return _from_npz(path)
    return _from_files(path, train, test)


def _from_files(path: Path, train: int | None, test: int | None) -> Images:
    try:
        # contents are read once: what is decoded is what the cache's checksum is of
        source = path if path.is_dir() else path.read_bytes()
        files = read_files(source, CIFAR_BATCHES) if isinstance(source, Path) else {}
        parts = (part for name in files for part in (name.encode(), files[name]))
        cache = ImageCache((source,) if isinstance(source, bytes) else parts, train, test)
        decoded = cache.read()
        if decoded is None and isinstance(source, bytes):
            files = read_files(source, CIFAR_BATCHES)
    except (OSError, EOFError, tarfile.TarError, zlib.error) as err:
        raise DataError(f"{path}: cannot be read ({first_line(err)}); fetch it again") from err
    if decoded is None:
        batches = {name: files[key] for key in files if (name := os.path.basename(key)) in CIFAR_BATCHES}
        if batches:
            return _from_batches(path, batches)
        decoded = decode_tree(path, files, train, test, HOW_TO)
        cache.write(decoded)
    images = _named(
        path, decoded.sets, decoded.classes, decoded.counts, decoded.sha256, all_jpeg=decoded.all_jpeg
    )
    whole = (len(images.train_x), len(images.test_x)) == decoded.counts
    return images if whole else images.named_part()


class _Numbers(pickle.Unpickler):
    """Reads CIFAR's batches, which are dicts of numpy arrays, lists and strings, and no other pickle."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray"):
            if name in ("ndarray", "dtype"):
                return getattr(np, name)
            if name == "_reconstruct":
                return _reconstruct
        raise pickle.UnpicklingError(f"holds {module}.{name}")


def _reconstruct(kind: type, shape: tuple[int, ...], code: Any) -> np.ndarray[Any, Any]:
    return np.ndarray.__new__(np.ndarray, shape, code)


def _from_batches(path: Path, batches: dict[str, bytes]) -> Images:
    if missing := [name for name in CIFAR_BATCHES if name not in batches]:
        raise DataError(f"{path}: incomplete CIFAR-10, missing {', '.join(missing)}; fetch the file again")
    digest, sets, known = hashlib.sha256(), {}, True
    for name, md5 in zip(CIFAR_BATCHES, CIFAR_MD5, strict=True):
        digest.update(batches[name])
        known &= hashlib.md5(batches[name], usedforsecurity=False).hexdigest() == md5
        try:
            content = _Numbers(io.BytesIO(batches[name]), encoding="latin1").load()
            x = torch.from_numpy(np.array(content["data"], dtype=np.uint8)).reshape(-1, 3, 32, 32)
            y = torch.tensor(content["labels"], dtype=torch.int64)
        except (pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError, RuntimeError) as err:
            raise DataError(f"{path}:{name}: not a batch of CIFAR-10 ({err}); fetch the file again") from err
        if len(x) != len(y) or not len(y) or int(y.min()) < 0 or int(y.max()) > 9:
            raise DataError(f"{path}:{name}: images and labels do not fit each other; fetch the file again")
        sets[name] = x, y
    train = [sets[name] for name in CIFAR_BATCHES[:-1]]
    x, y = (torch.cat(parts) for parts in zip(*train, strict=True))
    test = sets["test_batch"]
    counts = len(y), len(test[1])
    images = _named(path, [x, y, *test], CIFAR_CLASSES, counts, digest.hexdigest())
    if not known:
        return images
    name = f"CIFAR-10, {counts[0]:,} training and {counts[1]:,} test images"
    return dataclasses.replace(images, name=name, note="")


def _from_npz(path: Path) -> Images:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            content = {name: arrays[name] for name in arrays.files}
        sets = [torch.from_numpy(content[name]) for name in ("x_train", "y_train", "x_test", "y_test")]
    except (OSError, ValueError, KeyError, EOFError, zlib.error, TypeError) as err:
        raise DataError(f"{path}: no arrays x_train, y_train, x_test, y_test in it ({err})") from err
    for i in (0, 2):
        x, y = sets[i], sets[i + 1].flatten()
        if x.dtype != torch.uint8 or x.ndim != 4 or not len(x) or len(x) != len(y):
            raise DataError(f"{path}: uint8 images [N, H, W, C] and as many labels expected")
        if bool((y.long() != y).any()):
            raise DataError(f"{path}: whole numbers expected as labels")
        sets[i], sets[i + 1] = x.movedim(-1, 1).contiguous() if x.shape[-1] in (1, 3) else x, y.long()
    classes = tuple(str(name) for name in content.get("classes", ())) or tuple(
        str(i) for i in range(int(sets[1].max()) + 1)
    )
    labels = torch.cat([sets[1], sets[3]])
    if int(labels.min()) < 0 or int(labels.max()) >= len(classes):
        raise DataError(f"{path}: labels from 0 to {len(classes) - 1} expected")
    digest = hashlib.sha256(b"".join(s.numpy().tobytes() for s in sets)).hexdigest()
    return _named(path, sets, classes, (len(sets[1]), len(sets[3])), digest)


def _named(
    path: Path,
    sets: Sequence[Tensor],
    classes: tuple[str, ...],
    counts: tuple[int, ...],
    sha256: str,
    all_jpeg: bool = False,
) -> Images:
    if (size := sets[0].shape[1:]) != (other := sets[2].shape[1:]):
        raise DataError(
            f"{path}: training images are {list(size)}, test images {list(other)}; one size expected"
        )
    name, note = KNOWN.get(sha256, ("", ""))
    if not name:
        copy = all_jpeg and classes == CIFAR_CLASSES and sets[0].shape[1:] == (3, 32, 32)
        name = "JPEG copy of images of CIFAR-10" if copy else f"images of {len(classes)} classes"
        note = "JPEG copy of CIFAR-10: not comparable to published numbers" if copy else OTHER_NOTE
    name = f"{name}, {counts[0]:,} training and {counts[1]:,} test images"
    x, y, test_x, test_y = sets
    return Images(x, y, test_x, test_y, name, str(path), note, sha256, classes)
