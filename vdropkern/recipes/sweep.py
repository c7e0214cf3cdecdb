"""Sweeps: the cells of a grid run as child processes, a few at once, and go on after any kind of end.

A cell is finished when its stamp is in its folder, and then it is never run again. sweep.json is an account
for readers; what is to be done is decided by what lies in the folders of the cells.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from .._files import write_whole
from .checkpoint import FILE_NAME, CheckpointError
from .grid import Cell, Grid, GridError, flags
from .results import RESULTS_NAME, read_results

FORMAT = 1
SWEEP_NAME, STAMP_NAME, LOG_NAME = "sweep.json", "cell.json", "train.log"
POLL_SECONDS = 0.1
TAIL_LINES = 12
_EPOCH = re.compile(r"epoch (\d+)/(\d+)")


@dataclass
class Run:
    """A cell on its way. status: pending, running, finished, failed or stopped."""

    cell: Cell
    folder: Path
    status: str = "pending"
    code: int | None = None
    seconds: float = 0.0  # of this session
    error: float | None = None  # of the pruned net on the test set, percent

    def is_finished(self) -> bool:
        """Whether its stamp and its results are there."""
        if not (self.folder / STAMP_NAME).is_file():
            return False
        try:
            results = read_results(self.folder)
        except CheckpointError:
            return False
        self.error = results.get("test", {}).get("pruned_error")
        return True

    def progress(self) -> float:
        """How much of it is done, 0 to 1, by what it last wrote into its log."""
        if self.status == "finished":
            return 1.0
        found = _EPOCH.findall(self.tail(4096)) if self.status == "running" else []
        return min(int(found[-1][0]) / max(int(found[-1][1]), 1), 1.0) if found else 0.0

    def tail(self, size: int = 16_384) -> str:
        """The last bytes of its log."""
        try:
            with open(self.folder / LOG_NAME, "rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - size))
                return file.read().decode(errors="replace")
        except OSError:
            return ""

    def last_lines(self) -> list[str]:
        """The last lines of its log that are not blank."""
        return [line for line in self.tail().splitlines() if line.strip()][-TAIL_LINES:]


class Job(Protocol):
    """A command under way."""

    def poll(self) -> int | None: ...

    def stop(self, at_once: bool = False) -> None: ...


# the folder of a cell, the arguments of `vdropkern` -> the job; None: another process still works there
Start = Callable[[Path, list[str]], "Job | None"]
Watch = Callable[["Run | None"], None]


@dataclass(frozen=True)
class _Running:
    run: Run
    job: Job
    started: float


class LocalJob:
    """A command in a process of its own, which stops by itself if this process goes."""

    def __init__(self, folder: Path, arguments: list[str], log: IO[bytes]) -> None:
        command = [sys.executable, "-m", "vdropkern.cli.cell", str(folder), *arguments]
        # not in the terminal's group: Ctrl-C is for the sweep, which passes it on
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )

    def poll(self) -> int | None:
        code = self.process.poll()
        if code is not None and self.process.stdin is not None:
            self.process.stdin.close()
        return code

    def stop(self, at_once: bool = False) -> None:
        if not at_once:
            self.process.terminate()
            return
        self.process.kill()
        self.process.wait()
        self.poll()


def start_locally(folder: Path, arguments: list[str]) -> LocalJob | None:
    """Start a command that writes into the folder's log, unless one of a killed sweep is still at it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOG_NAME, "ab") as log:
        return LocalJob(folder, arguments, log) if _lock(log) else None


def _lock(file: IO[bytes]) -> bool:
    """Lock a file for as long as this process or one that inherited it has it open."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Sweep:
    """The cells of a grid in a folder, and what has become of them."""

    def __init__(self, folder: Path, grid: Grid, shared: Sequence[str], data: str | None) -> None:
        """shared: further arguments of all cells. Nothing is written.

        Raises:
            GridError: the folder holds a sweep of other settings.
        """
        self.folder, self.grid, self.shared, self.data = folder, grid, list(shared), data
        self._compare(folder / SWEEP_NAME)
        self.runs = [Run(cell, folder / cell.name) for cell in grid.cells()]
        for run in self.runs:
            if run.is_finished():
                run.status = "finished"

    def _compare(self, path: Path) -> None:
        """More values of the same settings go into the same folder; anything else would mix runs up."""
        if not path.exists():
            return
        try:
            old = json.loads(path.read_text(encoding="utf-8"))
            theirs = {"recipe": old["recipe"], "--over": list(old["over"]), "--set": old["fixed"],
                      "--data": old["data"]}  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise GridError(f"--out: {path} cannot be read ({err}); another folder accepted") from err
        ours = {"recipe": self.grid.recipe, "--over": list(self.grid.over), "--set": dict(self.grid.fixed),
                "--data": self.data}  # fmt: skip
        for name, value in ours.items():
            if theirs[name] != value:
                raise GridError(
                    f"--out: {path.parent} holds a sweep whose {name} is {theirs[name]}, {value} given; "
                    "the same, more values of --over, or another folder accepted"
                )

    def arguments(self, run: Run) -> list[str]:
        """Those of `vdropkern` that start a cell, or go on with it."""
        words = ["train", self.grid.recipe, *flags(run.cell.settings), *self.shared, "--out", str(run.folder)]
        if self.data is not None:
            words += ["--data", self.data]
        if (run.folder / FILE_NAME).exists():
            return [*words, "--resume"]
        # results without a checkpoint: nothing to go on from
        return [*words, "--overwrite"] if (run.folder / RESULTS_NAME).exists() else words

    def write(self) -> None:
        """Write sweep.json, whole or not at all."""
        document = {
            "format": FORMAT, "recipe": self.grid.recipe, "data": self.data,
            "over": {name: list(values) for name, values in self.grid.over.items()},
            "fixed": dict(self.grid.fixed),
            "cells": [
                {"name": run.cell.name, "settings": dict(run.cell.settings), "status": run.status,
                 "code": run.code, "error": run.error}
                for run in self.runs
            ],
        }  # fmt: skip
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / SWEEP_NAME, (json.dumps(document, indent=1) + "\n").encode())

    def run(self, start: Start, workers: int, watch: Watch, stop: object) -> bool:
        """Run what is not finished, `workers` cells at once.

        Args:
            start: makes a job of a cell.
            workers: cells at once, >= 1.
            watch: called with a run whose status changed, and with None every time round.
            stop: asked for its truth every time round; a KeyboardInterrupt kills what runs.

        Returns:
            Whether all cells have been tried; False if stopped before.
        """
        waiting = deque(run for run in self.runs if run.status != "finished")
        jobs: list[_Running] = []
        asked = False
        self.write()
        try:
            while waiting or jobs:
                if stop and not asked:
                    asked = True
                    waiting.clear()
                    for job in jobs:
                        job.job.stop()
                for _ in range(len(waiting)):
                    if len(jobs) < workers:
                        self._start_next(waiting, jobs, start, watch)
                self._collect(jobs, watch, asked)
                watch(None)
                time.sleep(POLL_SECONDS)
        except BaseException:
            for job in jobs:
                job.job.stop(at_once=True)
                job.run.status = "stopped"
            self.write()
            raise
        return not asked

    def _start_next(self, waiting: deque[Run], jobs: list[_Running], start: Start, watch: Watch) -> None:
        """Start the first that waits; it goes last if a process of a killed sweep is still at work on it."""
        run = waiting.popleft()
        if run.is_finished():  # by such a process
            run.status = "finished"
        elif (job := start(run.folder, self.arguments(run))) is not None:
            jobs.append(_Running(run, job, time.monotonic()))
            run.status = "running"
        else:
            waiting.append(run)
            return
        self._tell(run, watch)

    def _collect(self, jobs: list[_Running], watch: Watch, stopped: bool) -> None:
        for job in list(jobs):
            run = job.run
            run.seconds = time.monotonic() - job.started
            if (code := job.job.poll()) is None:
                continue
            jobs.remove(job)
            run.code = code
            run.status = "finished" if run.is_finished() else "stopped" if stopped else "failed"
            self._tell(run, watch)

    def _tell(self, run: Run, watch: Watch) -> None:
        self.write()
        watch(run)
