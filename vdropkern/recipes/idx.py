"""The IDX format of MNIST: strict parser, and the finding of a set's four files in folders and archives."""

from __future__ import annotations

import gzip
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

UBYTE = 0x08  # the only element type the digit files use
MAX_DEPTH = 4  # folders below the one given; package/data and MNIST/raw are two deep
PARTS = ("train-images", "train-labels", "t10k-images", "t10k-labels")
_FILE_NAME = re.compile(r"^(train|t10k)-(images|labels)[.-]idx[13]-ubyte(\.gz)?$")
_DIMS = {"images": 3, "labels": 1}


class DataError(Exception):
    """The data are missing, incomplete or damaged. The message says where and what to do."""


def first_line(err: Exception) -> str:
    """The first line of an error's text: tarfile's goes on with one for each kind of compression."""
    return str(err).partition("\n")[0].rstrip(":")


@dataclass(frozen=True)
class Member:
    """One file of a set: in a folder, or in an archive where `archive` is given."""

    part: str
    name: str
    archive: Path | None = None

    def __str__(self) -> str:
        return self.name if self.archive is None else f"{self.archive}:{self.name}"


def parse_idx(data: bytes, ndim: int, where: str) -> Tensor:
    """Parse one IDX file of unsigned bytes.

    Args:
        data: the whole file, not compressed.
        ndim: number of dimensions it must have, 1 (labels) or 3 (images).
        where: the file, for messages.

    Returns:
        uint8 tensor of the shape that the header gives.

    Raises:
        DataError: wrong magic, element type, number of dimensions or length.
    """
    header = 4 + 4 * ndim
    if len(data) < header:
        raise DataError(f"{where}: {len(data)} bytes, shorter than an IDX header; fetch the file again")
    if data[:2] != b"\0\0":
        raise DataError(f"{where}: not an IDX file (starts with {data[:4]!r}); fetch the file again")
    if data[2] != UBYTE:
        raise DataError(
            f"{where}: element type 0x{data[2]:02x}; only unsigned bytes (0x{UBYTE:02x}) are read"
        )
    if data[3] != ndim:
        raise DataError(
            f"{where}: {data[3]} dimensions in the header, {ndim} expected; is it the right file?"
        )
    dims = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(ndim)]
    size = 1
    for d in dims:
        size *= d
    if len(data) != header + size:
        what = "truncated" if len(data) < header + size else "followed by bytes that do not belong to it"
        raise DataError(
            f"{where}: {what}: the header says {'x'.join(map(str, dims))} = {size} bytes, "
            f"the file holds {len(data) - header}; fetch the file again"
        )
    if size == 0:
        raise DataError(f"{where}: empty, dimensions {'x'.join(map(str, dims))}")
    return torch.frombuffer(bytearray(data), dtype=torch.uint8, offset=header).reshape(dims)


def _part(file_name: str) -> str | None:
    match = _FILE_NAME.match(file_name)
    return f"{match[1]}-{match[2]}" if match else None


def _folder_members(root: Path) -> Iterator[tuple[str, Member]]:
    for folder, subfolders, files in os.walk(root):
        depth = len(Path(folder).relative_to(root).parts)
        subfolders[:] = sorted(s for s in subfolders if not s.startswith(".")) if depth < MAX_DEPTH else []
        for file in sorted(files, reverse=True):  # plain before .gz wins, being inserted last
            if part := _part(file):
                yield folder, Member(part, str(Path(folder, file)))


def _archive_members(path: Path) -> Iterator[tuple[str, Member]]:
    try:
        with tarfile.open(path) as tar:
            names = sorted((m.name for m in tar if m.isfile()), reverse=True)
    except (tarfile.TarError, OSError, EOFError, zlib.error) as err:
        raise DataError(f"{path}: not a readable tar archive ({first_line(err)}); fetch it again") from err
    for name in names:
        if part := _part(os.path.basename(name)):
            yield os.path.dirname(name), Member(part, name, path)


def find_set(path: Path) -> dict[str, Member]:
    """Find the four files of one set in a folder (also nested) or a tar archive.

    Returns:
        a `Member` for each of `PARTS`.

    Raises:
        DataError: nothing there, a part missing, or several sets to choose from.
    """
    if not path.exists():
        raise DataError(
            f"{path}: no such file or folder; give a folder of IDX files or a .tgz that holds them"
        )
    found: dict[str, dict[str, Member]] = {}
    for folder, member in _folder_members(path) if path.is_dir() else _archive_members(path):
        found.setdefault(folder, {})[member.part] = member
    complete = [folder for folder, members in found.items() if len(members) == len(PARTS)]
    if len(complete) == 1:
        return found[complete[0]]
    if complete:
        raise DataError(f"{path}: holds {len(complete)} data sets, give one: {', '.join(sorted(complete))}")
    wanted = "train-images-idx3-ubyte, train-labels-idx1-ubyte and the same of t10k (.gz allowed)"
    if not found:
        raise DataError(f"{path}: no IDX files found; expected {wanted}")
    folder, members = max(found.items(), key=lambda item: len(item[1]))
    missing = ", ".join(part for part in PARTS if part not in members)
    raise DataError(f"{folder or path}: incomplete data set, missing {missing}; expected {wanted}")


def _read_bytes(member: Member) -> bytes:
    try:
        if member.archive is None:
            data = Path(member.name).read_bytes()
        else:
            with tarfile.open(member.archive) as tar:
                file = tar.extractfile(member.name)
                assert file is not None  # only regular files are listed
                data = file.read()
        return gzip.decompress(data) if member.name.endswith(".gz") else data
    except (OSError, EOFError, zlib.error, tarfile.TarError) as err:
        raise DataError(f"{member}: cannot be read ({err}); fetch the file again") from err


def read_set(members: dict[str, Member]) -> tuple[dict[str, Tensor], dict[str, bytes]]:
    """Read and check the four files of a set.

    Returns:
        tensors by part (images uint8 [N, 28, 28], labels uint8 [N]) and the raw bytes by part.

    Raises:
        DataError: a file is damaged, images are not 28x28, a label is above 9, or counts differ.
    """
    raw = {part: _read_bytes(members[part]) for part in PARTS}
    tensors = {part: parse_idx(raw[part], _DIMS[part.split("-")[1]], str(members[part])) for part in PARTS}
    for split in ("train", "t10k"):
        images, labels = tensors[f"{split}-images"], tensors[f"{split}-labels"]
        if images.shape[1:] != (28, 28):
            size = "x".join(map(str, images.shape[1:]))
            raise DataError(f"{members[f'{split}-images']}: images of {size} pixels, 28x28 expected")
        if len(images) != len(labels):
            raise DataError(
                f"{members[f'{split}-images']}: {len(images)} images but {len(labels)} labels in "
                f"{members[f'{split}-labels']}; the files are not of one set"
            )
        if int(labels.max()) > 9:
            raise DataError(f"{members[f'{split}-labels']}: label {int(labels.max())}, 0 to 9 expected")
    return tensors, raw
