"""TensorBoard's event files: the numbers of metrics.csv, each epoch once, whatever ended the run before."""

from __future__ import annotations

import csv
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import vdropkern
from vdropkern.recipes.events import FOLDER_NAME, EventFiles
from vdropkern.recipes.train import Trainer

from .command_line import MAIN, python, run
from .digit_files import make_files, write_folder
from .test_recipe import LENET, StopAfter, config, digits

pytest.importorskip("tensorboard")


@pytest.fixture(autouse=True)
def _one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: None) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VDROPKERN_DATA", raising=False)


@pytest.fixture
def data(tmp_path: Path) -> str:
    return str(write_folder(tmp_path / "digits", make_files()))


def read_raw(out: Path) -> dict[str, list[tuple[int, float]]]:
    """By name every (step, value) that lies in the files, in their order, hidden by nothing."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    found: dict[str, list[tuple[int, float]]] = {}
    for file in sorted((out / FOLDER_NAME).iterdir()):
        for record in RawEventFileLoader(str(file)).Load():
            event = Event.FromString(record)
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def read_accumulated(out: Path) -> dict[str, list[tuple[int, float]]]:
    """By name (step, value) as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / FOLDER_NAME), {"scalars": 0}).Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def assert_are_the_metrics(out: Path, epochs: int) -> None:
    with open(out / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == epochs
    for found in (read_raw(out), read_accumulated(out)):
        assert set(found) == set(rows[0]) - {"epoch"}
        for name, values in found.items():
            assert [step for step, _ in values] == list(range(1, epochs + 1)), name
            expected = [float(row[name]) for row in rows]
            assert [value for _, value in values] == pytest.approx(expected, rel=1e-6), name


def train(out: Path, data: str, *words: str) -> tuple[int, str]:
    common = ("--data", data, "--out", str(out), "--threads", "1", "--tensorboard")
    return run("train", "lenet-300-100", *common, *words)


QUICK = ("--epochs", "3", "--batch-size", "20")


def test_the_command_line_writes_the_metrics(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vdropkern.cli.train.write_report", lambda out, *rest: out)  # the slow pictures
    out = tmp_path / "run"
    code, text = train(out, data, *QUICK)
    assert code == 0, text
    assert_are_the_metrics(out, 3)
    assert "--tensorboard" in json.loads((out / "results.json").read_text())["command"]
    # another run in its place leaves nothing of the first
    code, text = train(out, data, "--overwrite", "--epochs", "2", "--batch-size", "20", "--seed", "3")
    assert code == 0, text
    assert_are_the_metrics(out, 2)
    # a finished run gets them afterwards, by the same flag
    for file in (out / FOLDER_NAME).iterdir():
        file.unlink()
    code, text = train(out, data, "--resume")
    assert code == 0, text
    assert_are_the_metrics(out, 2)


def start(trainer: Trainer, out: Path, **given: Any) -> bool:
    events = EventFiles(out)
    events.write(trainer.history)
    try:
        return trainer.run(out / "checkpoint.pt", events=events, **given)
    finally:
        events.close()


@pytest.mark.parametrize("stop_after", [1, 4, 6, 9])
def test_a_resumed_run_has_each_epoch_once(stop_after: int, tmp_path: Path) -> None:
    """Four steps an epoch; also where the files were ahead of the checkpoint, as after a crash."""
    from vdropkern.recipes.checkpoint import load_checkpoint

    first = Trainer(LENET, config(), digits())
    assert not start(first, tmp_path, stop=StopAfter(stop_after))
    ahead = EventFiles(tmp_path)
    ahead.write([*first.history, *[{"epoch": len(first.history) + 1, "nll": 99.0, "seconds": 1.0}] * 1])
    ahead.close()
    second = Trainer(LENET, config(), digits())
    second.load_state_dict(load_checkpoint(tmp_path))
    assert start(second, tmp_path)
    assert len(os.listdir(tmp_path / FOLDER_NAME)) == 1
    assert_are_the_metrics(tmp_path, 3)


def test_events_are_as_far_apart_as_the_epochs(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventFiles(tmp_path)
    events.write([{"epoch": i, "nll": 1.0, "seconds": 100.0 * i} for i in (1, 2, 3)])
    events.close()
    times = [e.wall_time for e in EventAccumulator(str(tmp_path / FOLDER_NAME)).Reload().Scalars("nll")]
    assert [b - a for a, b in itertools.pairwise(times)] == pytest.approx([200, 300], abs=0.1)


def test_nothing_of_it_is_imported_unless_asked_for(data: str) -> None:
    code = (
        "import sys; sys.argv[1:] = {args!r}\n"
        "from vdropkern.cli import main, train\n"
        "train.write_report = lambda out, *rest: out\n"  # the slow pictures
        "try: main()\nexcept SystemExit as end: code = end.code\n"
        "print(code, [m for m in sys.modules if m.partition('.')[0] == 'tensorboard'][:1])"
    )
    args = ["train", "lenet-300-100", "--data", data, "--out", "run", "--threads", "1", *QUICK]
    env = {**os.environ, "PYTHONPATH": str(Path(vdropkern.__file__).parents[1])}
    for more, expected in (([], "0 []"), (["--overwrite", "--tensorboard"], "0 ['tensorboard")):
        words = [sys.executable, "-c", code.format(args=[*args, *more])]
        done = subprocess.run(words, capture_output=True, text=True, env=env, check=True)
        assert done.stdout.splitlines()[-1].startswith(expected), done.stdout


def test_without_tensorboard_training_does_not_begin(data: str, tmp_path: Path) -> None:
    args = ["train", "lenet-300-100", "--data", data, "--tensorboard"]
    done = python(("tensorboard",), args, MAIN)
    assert done.returncode == 2
    assert 'pip install "vdropkern[tensorboard]"' in done.stderr
    assert os.listdir(tmp_path) == ["digits"]
