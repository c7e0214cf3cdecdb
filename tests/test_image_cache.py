"""Images decoded once and kept: what is read is what was decoded, never something old; how to turn it off."""

from __future__ import annotations

import dataclasses
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from PIL import Image

from vdropkern.recipes import cache as cache_module
from vdropkern.recipes import image_files
from vdropkern.recipes.cache import ENV_CACHE, cache_folder
from vdropkern.recipes.data import DataError, Images
from vdropkern.recipes.images import load_images


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache's folder; even the smallest sets are kept."""
    monkeypatch.setenv(ENV_CACHE, str(tmp_path / "kept"))
    monkeypatch.setattr(cache_module, "KEPT_FROM", 1)
    return tmp_path / "kept"


@pytest.fixture
def no_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is decoded from now on is an error."""

    def refuse(content: bytes, where: str) -> None:
        raise AssertionError(f"{where} was decoded")

    monkeypatch.setattr(image_files, "_decode", refuse)


def picture(seed: int, kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def write_folder(folder: Path, seed: int = 0) -> Path:
    for split, count in (("train", 4), ("test", 2)):
        for label in ("ant", "bee"):
            place = folder / split / label
            place.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                (place / f"{i}.png").write_bytes(picture(seed + i))
    return folder


def write_archive(path: Path, folder: Path) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, "set")
    return path


def assert_same(one: Images, other: Images) -> None:
    for field in dataclasses.fields(Images):
        mine, theirs = getattr(one, field.name), getattr(other, field.name)
        assert torch.equal(mine, theirs) if isinstance(mine, torch.Tensor) else mine == theirs, field.name


def decode_again(path: Path, **most: int) -> Images:
    """Without the cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ENV_CACHE, "off")
        return load_images(path, **most)


@pytest.mark.parametrize("form", ["folder", "archive"])
@pytest.mark.parametrize("most", [{}, {"train": 3, "test": 2}])
def test_what_is_read_is_what_was_decoded(
    form: str, most: dict[str, int], tmp_path: Path, kept: Path, request: pytest.FixtureRequest
) -> None:
    path = write_folder(tmp_path / "set")
    if form == "archive":
        path = write_archive(tmp_path / "set.tgz", path)
    expected = decode_again(path, **most)
    assert not kept.exists()
    assert_same(load_images(path, **most), expected)
    assert len(os.listdir(kept)) == 1
    request.getfixturevalue("no_decoder")
    images = load_images(path, **most)
    assert_same(images, expected)
    images.train_x[0] = 0  # a copy: nothing of it goes into the file
    assert_same(load_images(path, **most), expected)


@pytest.mark.parametrize("form", ["folder", "archive"])
def test_changed_files_are_decoded_anew(form: str, tmp_path: Path, kept: Path) -> None:
    folder = write_folder(tmp_path / "set")
    archive = tmp_path / "set.tgz"

    def path() -> Path:
        return folder if form == "folder" else write_archive(archive, folder)

    first = load_images(path())
    changed = folder / "train" / "bee" / "1.png"
    before = changed.stat()
    content = picture(77)
    changed.write_bytes(content)
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))  # by contents, not by times
    second = load_images(path())
    assert_same(second, decode_again(path()))
    assert second.sha256 != first.sha256
    changed.rename(folder / "train" / "ant" / "9.png")  # another label for the same contents
    third = load_images(path())
    assert_same(third, decode_again(path()))
    assert third.train_y.tolist() == [0] * 5 + [1] * 3
    assert len(os.listdir(kept)) == 3


def test_each_choice_and_each_decoder_has_a_file_of_its_own(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_folder(tmp_path / "set")
    for train, size in ((None, 8), (3, 3), (4, 4)):
        assert len(load_images(path, train=train).train_x) == size
    assert len(os.listdir(kept)) == 3
    monkeypatch.setattr(PIL, "__version__", "0.0")
    load_images(path)
    assert len(os.listdir(kept)) == 4


@pytest.mark.parametrize("damage", [b"", b"not tensors", None])
def test_a_damaged_file_is_written_again(damage: bytes | None, tmp_path: Path, kept: Path) -> None:
    path = write_folder(tmp_path / "set")
    expected = load_images(path)
    (file,) = kept.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-7] if damage is None else damage)
    assert_same(load_images(path), expected)
    assert file.read_bytes() == whole


def test_it_can_be_turned_off(tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv(ENV_CACHE, "off")
    path = write_folder(tmp_path / "set")
    load_images(path)
    assert sorted(os.listdir(tmp_path)) == ["set"]
    assert cache_folder() == tmp_path / "xdg" / "vdropkern"  # where downloads still go
    monkeypatch.delenv(ENV_CACHE)
    load_images(path)
    assert [p.suffix for p in (tmp_path / "xdg" / "vdropkern").iterdir()] == [".safetensors"]
    assert not kept.exists()


def test_small_sets_are_not_kept(tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "KEPT_FROM", 13)
    load_images(write_folder(tmp_path / "set"))
    assert not kept.exists()


def test_a_folder_that_cannot_be_written_costs_only_time(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.write_text("a file where the folder would be")
    path = write_folder(tmp_path / "set")
    assert len(load_images(path).train_x) == 8
    kept.unlink()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert len(load_images(path).train_x) == 8
    assert os.listdir(kept) == []


def test_damaged_images_are_named_and_not_kept(tmp_path: Path, kept: Path) -> None:
    path = write_folder(tmp_path / "set")
    (path / "test" / "ant" / "1.png").write_bytes(picture(1)[:60])
    with pytest.raises(DataError, match=r"ant/1\.png: not a readable image"):
        load_images(path)
    assert not kept.exists()
