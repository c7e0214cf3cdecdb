"""Images that would be read as something else, or that no net could take, are refused in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vdropkern.recipes import RECIPES
from vdropkern.recipes.config import ConfigError
from vdropkern.recipes.idx import DataError
from vdropkern.recipes.images import load_images


def archive(path: Path, **changes: Any) -> Path:
    x, y = np.zeros((4, 8, 8, 3), np.uint8), np.arange(4)
    np.savez(path, **{"x_train": x, "y_train": y, "x_test": x, "y_test": y, **changes})
    return path


def test_training_and_test_images_of_two_sizes(tmp_path: Path) -> None:
    path = archive(tmp_path / "two.npz", x_test=np.zeros((4, 6, 6, 3), np.uint8))
    with pytest.raises(DataError, match=r"training images are \[3, 8, 8\], test images \[3, 6, 6\]"):
        load_images(path)


def test_labels_that_are_no_numbers_of_classes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="whole numbers expected as labels"):
        load_images(archive(tmp_path / "half.npz", y_train=np.arange(4) + 0.5))
    assert load_images(archive(tmp_path / "whole.npz", y_train=np.arange(4.0))).train_y.tolist() == [
        0,
        1,
        2,
        3,
    ]


def test_sixteen_bits_a_pixel_are_not_cut_off(tmp_path: Path) -> None:
    Image = pytest.importorskip("PIL.Image")
    for split in ("train", "test"):
        (tmp_path / split / "a").mkdir(parents=True)
        picture = (np.arange(64).reshape(8, 8) * 1000).astype(np.uint16)
        Image.fromarray(picture).save(tmp_path / split / "a" / "x.png")
    with pytest.raises(DataError, match=r"x\.png: not a readable image \(of mode I;16, 8 bits a colour"):
        load_images(tmp_path)


def test_images_too_small_for_two_strided_convolutions() -> None:
    recipe = RECIPES["cifar-dropout"]
    default = recipe.default_config(0)
    recipe.build(default.for_data((3, 7, 7), 10))
    with pytest.raises(ConfigError, match=r"\[3, 7, 6\] given, at least 7 pixels a side accepted"):
        default.for_data((3, 7, 6), 10)
