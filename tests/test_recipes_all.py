"""Every recipe, the whole way from image files to a report, on a few tiny images."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vdropkern.cli import settings as cli_settings
from vdropkern.recipes import RECIPES
from vdropkern.recipes.augment import augment
from vdropkern.recipes.checkpoint import load_checkpoint
from vdropkern.recipes.config import Schedule
from vdropkern.recipes.data import DataError, Images, load_digits
from vdropkern.recipes.grid import flags, parse_grid
from vdropkern.recipes.images import load_images
from vdropkern.recipes.published import GRIDS, PUBLISHED
from vdropkern.recipes.train import Trainer

from . import smoke_recipes
from .command_line import run, train_refuses
from .digit_files import make_files, write_folder
from .test_recipe import StopAfter, without_times

SMALLER: dict[str, dict[str, Any]] = {
    "vgg-sparse-vd": {"width": 0.0625},
    "cifar-dropout": {"scale_width": 0.25},
    "targeted-dropout": {"width": 0.125, "blocks": 1},
    "xnor-resnet18": {"width": 4},
}
OTHERS = [name for name in RECIPES if name != "lenet-300-100"]


def pixels(count: int, seed: int) -> np.ndarray[Any, Any]:
    """uint8 [count, 32, 32, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def arrays(folder: Path) -> Path:
    path = folder / "tiny.npz"
    names, y = np.array(["ant", "bee", "cat"]), np.arange(24) % 3
    np.savez(path, x_train=pixels(24, 0), y_train=y, x_test=pixels(9, 1), y_test=y[:9], classes=names)
    return path


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Where tiny digits and images lie."""
    folder = tmp_path_factory.mktemp("sets")
    return {"digits": write_folder(folder / "digits", make_files()), "images": arrays(folder)}


def tiny(sets: dict[str, Path], name: str) -> Images:
    load = load_digits if RECIPES[name].data == "digits" else load_images
    return load(sets[RECIPES[name].data])


def config(name: str, data: Images, **changes: Any) -> Any:
    recipe = RECIPES[name]
    default = recipe.default_config(len(data.train_x)).for_data(
        tuple(data.train_x.shape[1:]), data.num_classes
    )
    return dataclasses.replace(default, epochs=2, batch_size=12, **SMALLER.get(name, {}), **changes)


@pytest.fixture(autouse=True)
def _one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: None) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VDROPKERN_IMAGES", raising=False)
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", OTHERS)
def test_smoke(name: str, sets: dict[str, Path]) -> None:
    """From the command line to every file of the run's folder."""
    data = sets[RECIPES[name].data]
    smaller = [
        word
        for key, value in SMALLER.get(name, {}).items()
        for word in (f"--{key.replace('_', '-')}", str(value))
    ]
    code, text = run(
        "train", name, "--scale", "smoke", "--epochs", "1", "--batch-size", "12", "--data", str(data),
        "--out", "run", "--threads", "1", *smaller,
    )  # fmt: skip
    assert code == 0, text
    assert {"config.json", "environment.json", "metrics.csv", "results.json", "checkpoint.pt",
            "report.html"} <= set(os.listdir("run"))  # fmt: skip
    results = json.loads(Path("run/results.json").read_text())
    assert results["data"]["note"].startswith("smoke: 1 epoch of ")
    assert results["accuracy"]["test"]["last"] == pytest.approx(100 - results["history"][-1]["test_error"])
    assert results["total"]["weights"] > 0


@pytest.mark.parametrize("name", OTHERS)
def test_every_method_takes_a_step(name: str, sets: dict[str, Path]) -> None:
    data = tiny(sets, name)
    for method in RECIPES[name].config.methods:
        trainer = Trainer(RECIPES[name], config(name, data, method=method), data)
        trainer._step(torch.arange(8))
        assert trainer.means()["nll"] > 0
        x = trainer.test_x[:2]
        assert trainer.model.eval()(x).shape == (2, data.num_classes)


@pytest.mark.parametrize("stop_after", [1, 3])
def test_an_augmented_run_resumes_to_the_same_bits(
    stop_after: int, sets: dict[str, Path], tmp_path: Path
) -> None:
    data, recipe = tiny(sets, "cifar-dropout"), RECIPES["cifar-dropout"]
    settings = config("cifar-dropout", data, augment="pad-crop-flip", method="sparse-vd")
    whole = Trainer(recipe, settings, data)
    assert whole.run()
    file = tmp_path / "checkpoint.pt"
    assert not Trainer(recipe, settings, data).run(file, stop=StopAfter(stop_after))
    second = Trainer(recipe, settings, data)
    second.load_state_dict(load_checkpoint(file))
    assert second.run()
    assert without_times(second.history) == without_times(whole.history)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], value), name


def test_a_run_starts_from_another(sets: dict[str, Path], tmp_path: Path) -> None:
    data, recipe = tiny(sets, "lenet-5"), RECIPES["lenet-5"]
    first = Trainer(recipe, config("lenet-5", data, method="none"), data)
    first.run(tmp_path / "checkpoint.pt")
    for method in ("sparse-vd", "sbp"):
        second = Trainer(recipe, config("lenet-5", data, method=method), data)
        second.start_from(tmp_path)
        assert torch.equal(second.model[0].weight, first.model[0].weight)


def test_a_run_starts_from_another_on_the_command_line(
    sets: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vdropkern.cli.train.write_report", lambda out, *rest: out)  # the slow pictures
    data = str(sets["digits"])
    common = ("train", "lenet-5", "--scale", "smoke", "--epochs", "1", "--data", data, "--threads", "1")
    for words in (("none", "--out", "dense"), ("sbp", "--out", "gates", "--init", "dense", "--lr", "1e-9")):
        code, text = run(*common, "--method", *words)
        assert code == 0, text
    dense, gates = (load_checkpoint(Path(name))["model"]["0.weight"] for name in ("dense", "gates"))
    torch.testing.assert_close(gates, dense, atol=1e-6, rtol=0)
    code, text = run(*common, "--out", "other", "--init", "nowhere")
    assert code == 2 and "nowhere: no checkpoint there" in text
    assert not Path("other").exists()


# -- settings


def test_lenet_5_follows_the_published_schedule_epoch_by_epoch() -> None:
    """Adam 1e-3 (200 - e) / 200; KL weight 0 below epoch 5, (e - 5) / 15, 1 from 20."""
    settings = RECIPES["lenet-5"].default_config(60_000)
    schedule = Schedule(settings, 200 * 600)
    for epoch in range(200):
        position = schedule.position(epoch * 600)
        assert settings.lr * schedule.lr_factor(position) == pytest.approx(1e-3 * (200 - epoch) / 200)
        assert schedule.kl_weight(position) == pytest.approx(min(max((epoch - 5) / 15, 0), 1))


@pytest.mark.parametrize("original", [False, True])
def test_the_kl_of_cifar_dropout_warms_up_unless_told_otherwise(original: bool) -> None:
    settings = RECIPES["cifar-dropout"].default_config(50_000)
    if original:
        settings = dataclasses.replace(settings, kl_start=0.0, kl_end=0.0)
    schedule = Schedule(settings, 100 * 50)
    for epoch in range(100):
        weight = 1 if original else min(max((epoch - 5) / 15, 0), 1)
        assert schedule.kl_weight(schedule.position(epoch * 50)) == pytest.approx(weight)


@pytest.mark.parametrize("name", sorted({row.recipe for row in PUBLISHED if row.match} & set(RECIPES)))
def test_the_published_grid_repeats_the_published_rows_and_nothing_else(name: str) -> None:
    default = RECIPES[name].default_config(60_000)
    cells = [
        dataclasses.replace(default, **cli_settings.parse(RECIPES[name], flags(cell.settings))).as_dict()
        for cell in parse_grid(name, GRIDS[name], []).cells()
    ]
    rows = [row for row in PUBLISHED if row.recipe == name and row.match]
    assert all(any(row.fits(name, cell) for cell in cells) for row in rows)
    assert all(any(row.fits(name, cell) for row in rows) for cell in cells)


def test_augmentation_moves_and_mirrors() -> None:
    torch.manual_seed(0)
    images = torch.arange(1, 65, dtype=torch.uint8).reshape(1, 1, 8, 8).expand(200, 3, 8, 8)
    assert augment(images, "none") is images
    flipped = augment(images, "flip")
    mirrored = [torch.equal(image, images[0].flip(-1)) for image in flipped]
    assert all(m or torch.equal(image, images[0]) for m, image in zip(mirrored, flipped, strict=True))
    assert 60 < sum(mirrored) < 140
    padded = torch.nn.functional.pad(images[0], (4,) * 4)
    windows = {
        tuple(window.flatten().tolist())
        for top in range(9)
        for left in range(9)
        for window in (padded[:, top : top + 8, left : left + 8],)
        for window in (window, window.flip(-1))
    }
    cropped = {tuple(image.flatten().tolist()) for image in augment(images, "pad-crop-flip")}
    assert cropped <= windows
    assert len(cropped) > 50


# -- images


def tree(folder: Path, suffix: str) -> dict[str, bytes]:
    files = {}
    for split, count in (("train", 4), ("test", 2)):
        for label in ("bee", "ant"):
            for i, image in enumerate(pixels(count, 2)):
                buffer = io.BytesIO()
                Image.fromarray(image).save(buffer, "JPEG" if suffix == "jpg" else "PNG")
                files[f"set/{split}/{label}/{i}.{suffix}"] = buffer.getvalue()
    return files


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_image_files_in_a_folder_and_in_an_archive_read_the_same(suffix: str, tmp_path: Path) -> None:
    files = tree(tmp_path, suffix)
    with tarfile.open(tmp_path / "set.tar.xz", "w:xz") as tar:
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(content)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    folder, archive = load_images(tmp_path / "set" / ".."), load_images(tmp_path / "set.tar.xz")
    assert folder.classes == ("ant", "bee")
    assert folder.train_y.tolist() == [0] * 4 + [1] * 4
    assert torch.equal(folder.train_x, archive.train_x) and folder.sha256 == archive.sha256
    if suffix == "png":
        assert torch.equal(folder.train_x[:4], torch.from_numpy(pixels(4, 2)).movedim(-1, 1))
    part = load_images(tmp_path / "set.tar.xz", train=3, test=4)
    assert len(part.train_x) == 3 and part.sha256 != folder.sha256
    assert part.sha256 == folder.limited(3, 4).sha256
    assert torch.equal(part.train_x, folder.limited(3, 4).train_x)


@pytest.mark.parametrize(
    "content, message",
    [(b"", "cannot be read"), (b"not an archive" * 99, "cannot be read"), (None, "no such file")],
)
def test_unreadable_images_exit_with_2_and_write_nothing(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    if content is not None:
        Path("images.tar").write_bytes(content)
    code, text = run("train", "cifar-dropout", "--data", "images.tar")
    assert code == 2
    assert message in text
    assert os.listdir(tmp_path) == ([] if content is None else ["images.tar"])


@pytest.mark.parametrize(
    "args, message",
    [
        (("cifar-dropout", "--samples", "8"), "No such option: --samples; settings of cifar-dropout alone"),
        (("cifar-dropout", "--scale-width", "0"), "--scale-width: 0.0 given"),
        (("cifar-dropout", "--drop-where", "conv"), "--method: 'sparse-vd' is unknown; accepted: bernoulli"),
        (("multi-sample-dropout", "--samples", "few"), "--samples: 'few' given, an integer accepted"),
        (("allconv6", "--method", "sparse-vd"), "--method: 'sparse-vd' is unknown; accepted: bernoulli"),
        (("allconv6", "--head", "max"), "--head: 'max' is unknown; accepted: gap, fc"),
    ],
)
def test_wrong_flags_exit_with_2_and_write_nothing(
    args: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    train_refuses(args, message, tmp_path)


def test_arrays_of_other_shapes_are_refused(tmp_path: Path) -> None:
    np.savez("bad.npz", x_train=pixels(3, 0), y_train=np.arange(2), x_test=pixels(3, 0), y_test=np.arange(3))
    with pytest.raises(DataError, match="as many labels expected"):
        load_images("bad.npz")
    np.savez("bad.npz", x_train=pixels(3, 0))
    with pytest.raises(DataError, match="no arrays"):
        load_images("bad.npz")


# -- make smoke-recipes


@pytest.mark.parametrize("images", [None, "images.npz"])
def test_smoke_recipes_runs_all_it_has_data_for(
    images: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[str, ...]] = []

    def command(*words: str) -> int:
        calls.append(words)
        return int(words[1] == "lenet-5")

    monkeypatch.setattr(smoke_recipes, "vdropkern", command)
    monkeypatch.setattr("sys.argv", ["smoke", *(["--data", images] if images else [])])
    assert smoke_recipes.main() == 1  # one failed
    text = capsys.readouterr().out
    assert "lenet-5: failed (exit code 1)" in text
    assert "lenet-300-100: finished" in text and "estimator-study: finished" in text
    trained = [words[1] for words in calls if words[0] == "train"]
    on_images = [name for name in RECIPES if RECIPES[name].data == "images"]
    assert set(on_images) <= set(trained) if images else not set(on_images) & set(trained)
    assert text.count("skipped: it trains on images; set --data") == (0 if images else len(on_images))
    for words in calls:
        assert ("--data" in words) == (words[0] == "train" and words[1] in on_images)
    assert calls[-1][:2] == ("report", "runs/smoke/lenet-300-100")
    assert "runs/smoke/lenet-5" not in calls[-1] and "runs/smoke/estimator-study" not in calls[-1]
