"""Sweeps: which cells there are, which still have to run, and that they go on after any kind of end."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import vdropkern
from vdropkern.cli import cell
from vdropkern.cli import sweep as cli_sweep
from vdropkern.recipes import sweep as sweeps
from vdropkern.recipes.grid import GridError, parse_grid
from vdropkern.recipes.published import GRIDS
from vdropkern.recipes.sweep import LOG_NAME, STAMP_NAME, SWEEP_NAME, Run, Sweep, start_locally

from .command_line import run as cli
from .digit_files import make_files, write_folder
from .test_report import results

RECIPE = "lenet-300-100"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_folder(tmp_path_factory.mktemp("digits"), make_files()))


@pytest.fixture(autouse=True)
def _one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VDROPKERN_DATA", raising=False)
    paths = (str(Path(vdropkern.__file__).parents[1]), os.environ.get("PYTHONPATH", ""))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setattr(sweeps, "POLL_SECONDS", 0.01)


class FakeJob:
    """Ends at its second poll, with what a training leaves, or with a code of failure."""

    def __init__(self, folder: Path, code: int) -> None:
        self.folder, self.code = folder, code
        self.polls, self.stops = 0, []

    def poll(self) -> int | None:
        self.polls += 1
        if self.stops:
            return 143
        if self.polls < 2:
            return None
        if self.code == 0:
            finish(self.folder)
        return self.code

    def stop(self, at_once: bool = False) -> None:
        self.stops.append(at_once)


def finish(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results()))
    (folder / STAMP_NAME).write_text("{}")


class FakeStart:
    """Notes what is started. codes: of cells by name; busy: how often a cell is found locked."""

    def __init__(self, codes: dict[str, int] | None = None, busy: dict[str, int] | None = None) -> None:
        self.codes, self.busy = codes or {}, busy or {}
        self.jobs: list[FakeJob] = []
        self.most = 0

    def __call__(self, folder: Path, arguments: list[str]) -> FakeJob | None:
        if self.busy.get(folder.name, 0):
            self.busy[folder.name] -= 1
            return None
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LOG_NAME).write_text(f"a line\n\nthe end of {folder.name}\n")
        self.jobs.append(FakeJob(folder, self.codes.get(folder.name, 0)))
        self.most = max(self.most, sum(job.polls < 2 and not job.stops for job in self.jobs))
        return self.jobs[-1]

    def names(self) -> list[str]:
        return [job.folder.name for job in self.jobs]


def make(folder: Path, *over: str, fixed: tuple[str, ...] = ("epochs=2",)) -> Sweep:
    return Sweep(folder, parse_grid(RECIPE, over or ["seed=0,1,2"], fixed), ["--threads", "1"], "digits")


def document(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / SWEEP_NAME).read_text())
    return found


def statuses(folder: Path) -> list[str]:
    return [cell["status"] for cell in document(folder)["cells"]]


# -- the command line


@pytest.mark.parametrize(
    "args, said",
    [
        (["nothing"], "unknown recipe"), ([RECIPE, "--over", "metho=ard"], "No such option: --metho"),
        ([RECIPE, "--over", "method=ard,nope"], "--method: 'nope' is unknown"),
        ([RECIPE, "--over", "epochs=1,2.5"], "--epochs: '2.5' given, an integer accepted"),
        ([RECIPE, "--set", "lr=-1"], "--lr: -1.0 given"), ([RECIPE, "--over", "seed=0,0"], "differ"),
        ([RECIPE, "--workers", "0"], "--workers: 0 given"), ([RECIPE, "--threads", "0"], "--threads: 0"),
        ([RECIPE, "--threads", "99999999999"], "1 to 1,024 accepted"),
        ([RECIPE, "--device", "tpu"], "'tpu' given"),
        ([RECIPE, "--out", __file__], "is a file; give a folder"),
        ([RECIPE, "--data", "not-there"], "not-there"),
    ],
)  # fmt: skip
def test_wrong_use_is_told_and_nothing_written(args: list[str], said: str, tmp_path: Path) -> None:
    code, text = cli("sweep", *args)
    assert code == 2
    assert said in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("recipe", GRIDS)
def test_published_grids_are_runnable(recipe: str, tmp_path: Path) -> None:
    code, text = cli("sweep", recipe, "--dry-run")
    assert code == 0, text
    assert text.count(": pending") >= 2
    assert list(tmp_path.iterdir()) == []


# -- running


def test_all_cells_run_once_and_no_more_than_asked_for_at_once(tmp_path: Path) -> None:
    start, seen = FakeStart(), []
    sweep = make(tmp_path / "s")
    assert sweep.run(start, 2, lambda run: seen.append(run.status if run else None), False)
    assert start.names() == ["seed=0", "seed=1", "seed=2"]
    assert start.most == 2
    assert [status for status in seen if status].count("finished") == 3
    assert statuses(tmp_path / "s") == ["finished"] * 3
    assert document(tmp_path / "s")["cells"][0]["error"] == results()["test"]["pruned_error"]
    again = FakeStart()
    assert make(tmp_path / "s").run(again, 2, lambda run: None, False)
    assert again.jobs == []


def test_what_is_missing_is_told_by_the_folders_alone(tmp_path: Path) -> None:
    """A stamp without whole results is not the end of a run, whatever sweep.json says."""
    folder = tmp_path / "s"
    assert make(folder).run(FakeStart(), 1, lambda run: None, False)
    (folder / "seed=1" / STAMP_NAME).unlink()
    (folder / "seed=2" / "results.json").write_text('{"format": ')
    start = FakeStart()
    assert make(folder).run(start, 1, lambda run: None, False)
    assert start.names() == ["seed=1", "seed=2"]


def test_more_values_join_a_sweep_and_other_settings_do_not(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    make(folder).run(FakeStart(), 1, lambda run: None, False)
    start = FakeStart()
    make(folder, "seed=1,7").run(start, 1, lambda run: None, False)
    assert start.names() == ["seed=7"]
    with pytest.raises(GridError, match=r"--set is \{'epochs': '2'\}"):
        make(folder, fixed=("epochs=3",))
    with pytest.raises(GridError, match="--over"):
        make(folder, "method=ard")
    (folder / SWEEP_NAME).write_text("{")
    with pytest.raises(GridError, match="cannot be read"):
        make(folder)


def test_a_cell_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    sweep = make(tmp_path / "s")
    run = sweep.runs[0]
    fresh = sweep.arguments(run)
    assert fresh == [
        "train", RECIPE, "--epochs", "2", "--seed", "0", "--threads", "1", "--out", str(run.folder),
        "--data", "digits",
    ]  # fmt: skip
    run.folder.mkdir(parents=True)
    (run.folder / "results.json").touch()
    assert sweep.arguments(run) == [*fresh, "--overwrite"]
    (run.folder / "checkpoint.pt").touch()
    assert sweep.arguments(run) == [*fresh, "--resume"]


def test_a_folder_in_which_another_process_works_waits(tmp_path: Path) -> None:
    start = FakeStart(busy={"seed=0": 3})
    assert make(tmp_path / "s").run(start, 1, lambda run: None, False)
    assert sorted(start.names()) == ["seed=0", "seed=1", "seed=2"]
    assert start.names()[0] == "seed=1"


def test_a_locked_log_is_another_process_at_work(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with open(tmp_path / LOG_NAME, "ab") as file:
        assert sweeps._lock(file)
        assert start_locally(tmp_path, ["info"]) is None


@pytest.mark.parametrize("at_once", [False, True])
def test_stopping_asks_each_cell_once(at_once: bool, tmp_path: Path) -> None:
    start, folder = FakeStart(), tmp_path / "s"
    sweep = make(folder)

    class Stop:
        def __bool__(self) -> bool:
            if start.jobs and at_once:
                raise KeyboardInterrupt
            return bool(start.jobs)

    if at_once:
        with pytest.raises(KeyboardInterrupt):
            sweep.run(start, 1, lambda run: None, Stop())
    else:
        assert not sweep.run(start, 1, lambda run: None, Stop())
    assert [job.stops for job in start.jobs] == [[at_once]]
    assert statuses(folder) == ["stopped", "pending", "pending"]
    again = FakeStart()
    assert make(folder).run(again, 3, lambda run: None, False)
    assert len(again.jobs) == 3


def test_a_failed_cell_is_reported_and_stops_no_other(
    tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = FakeStart(codes={"seed=1": 1})
    monkeypatch.setattr(cli_sweep, "start_locally", start)
    args = ("sweep", RECIPE, "--over", "seed=0,1,2", "--data", data, "--out", "s")
    code, text = cli(*args)
    assert code == 1
    assert len(start.jobs) == 3
    assert "seed=1 failed (exit code 1); its log ends: a line the end of seed=1" in text
    assert "2/3 seed=1: failed" in text
    assert statuses(tmp_path / "s") == ["finished", "failed", "finished"]
    start.codes.clear()
    code, text = cli(*args)
    assert code == 0
    assert start.names()[3:] == ["seed=1"]
    assert "2 finished before" in text


@pytest.mark.parametrize("terminal", [False, True])
def test_ctrl_c_stops_with_130_and_the_same_command_goes_on(
    terminal: bool, tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = FakeStart()

    def interrupted(folder: Path, arguments: list[str]) -> FakeJob | None:
        if start.jobs:
            os.kill(os.getpid(), signal.SIGINT)
        return start(folder, arguments)

    monkeypatch.setattr(cli_sweep, "start_locally", interrupted)
    monkeypatch.setattr(cli_sweep, "console", Console(force_terminal=terminal))
    args = ("sweep", RECIPE, "--over", "seed=0,1,2", "--data", data, "--out", "s")
    code, text = cli(*args)
    assert code == 130
    assert "1/3 seed=0: finished, test error 1.84 %" in text
    assert "stopped; the same command goes on with it" in text
    assert statuses(tmp_path / "s") == ["finished", "stopped", "pending"]
    monkeypatch.setattr(cli_sweep, "start_locally", again := FakeStart())
    code, text = cli(*args)
    assert code == 0
    assert again.names() == ["seed=1", "seed=2"]
    assert "all 3 cells finished" in text


@pytest.mark.parametrize("installed", [True, False])
def test_tensorboard_is_for_every_cell(
    installed: bool, tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vdropkern.cli.plan.is_installed", lambda: installed)
    start, given = FakeStart(), []

    def started(folder: Path, arguments: list[str]) -> FakeJob | None:
        given.append(arguments)
        return start(folder, arguments)

    monkeypatch.setattr(cli_sweep, "start_locally", started)
    code, text = cli("sweep", RECIPE, "--over", "seed=0,1", "--data", data, "--out", "s", "--tensorboard")
    if installed:
        assert code == 0
        assert len(given) == 2 and all("--tensorboard" in arguments for arguments in given)
    else:
        assert code == 2
        assert 'pip install "vdropkern[tensorboard]"' in text
        assert not (tmp_path / "s").exists()


def test_progress_is_read_from_the_log(tmp_path: Path) -> None:
    run = Run(parse_grid(RECIPE, [], []).cells()[0], tmp_path, "running")
    assert run.progress() == 0
    (tmp_path / LOG_NAME).write_text("x" * 10_000 + "\nepoch 1/8 a\nepoch 6/8 b\n")
    assert run.progress() == 0.75
    assert run.last_lines()[-1] == "epoch 6/8 b"
    run.status = "finished"
    assert run.progress() == 1


# -- with real processes


def wait_for(what: Any, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while not what():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL on Windows")
def test_a_killed_sweep_goes_on_where_it_was(tmp_path: Path, data: str) -> None:
    """Killed outright while its second cell runs: that cell saves, and the same command does the rest."""
    args = (
        "sweep", RECIPE, "--over", "epochs=1,150", "--set", "method=none", "--set", "batch-size=20",
        "--data", data, "--out", "s", "--threads", "1",
    )  # fmt: skip
    finish(tmp_path / "s" / "epochs=1")
    process = subprocess.Popen(
        [sys.executable, "-m", "vdropkern", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    first, second = tmp_path / "s" / "epochs=1", tmp_path / "s" / "epochs=150"
    wait_for(
        lambda: (second / LOG_NAME).exists() and "epoch 1/150" in (second / LOG_NAME).read_text(), process
    )
    process.kill()
    process.communicate()
    before = {path.name: path.stat().st_mtime_ns for path in first.iterdir()}
    assert document(tmp_path / "s")["cells"][1]["status"] == "running"

    code, text = cli(*args)
    assert code == 0, text
    assert "1 finished before" in text
    assert {path.name: path.stat().st_mtime_ns for path in first.iterdir()} == before
    log = (second / LOG_NAME).read_text()
    assert "stopped in epoch" in log, log
    assert "going on after epoch" in log, log
    assert json.loads((second / "results.json").read_text())["history"][-1]["epoch"] == 150
    assert json.loads((second / STAMP_NAME).read_text())["peak_memory"] > 1e7
    assert statuses(tmp_path / "s") == ["finished", "finished"]


def test_ray_runs_cells(tmp_path: Path, data: str) -> None:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    command = (
        sys.executable, "-m", "vdropkern", "sweep", RECIPE, "--over", "seed=0,1", "--set", "epochs=1",
        "--set", "method=none", "--data", data, "--out", "s", "--threads", "1", "--ray-address", "local",
    )  # fmt: skip
    # a process of its own: Ray leaves children behind of which Python warns
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert statuses(tmp_path / "s") == ["finished", "finished"]


def test_without_ray_the_extra_is_named(data: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    code, text = cli("sweep", RECIPE, "--data", data, "--ray-address", "local")
    assert code == 2
    assert 'pip install "vdropkern[ray]"' in text
    assert list(tmp_path.iterdir()) == []


def test_a_cell_whose_parent_is_gone_asks_itself_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the signal that batch systems send too, which a training answers by saving."""
    sent: list[tuple[int, int]] = []
    read = iter([b"x", b""])
    monkeypatch.setattr(os, "read", lambda descriptor, count: next(read))
    monkeypatch.setattr(os, "kill", lambda *given: sent.append(given))
    cell._stop_when_orphaned()
    assert sent == [(os.getpid(), signal.SIGTERM)]
