"""`vdropkern sweep`: check the grid, run its cells, show all of them on the way, and say what failed."""

from __future__ import annotations

import importlib.util
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from ..recipes import RECIPES
from ..recipes.data import load_digits
from ..recipes.grid import Grid, GridError, flags, parse_grid
from ..recipes.published import GRIDS
from ..recipes.ranks import ALONE
from ..recipes.stop import StopRequest
from ..recipes.sweep import Run, Start, Sweep, start_locally
from ..recipes.text import clock, plural
from . import settings
from .console import UsageError, check_folder, check_threads, console, errors, exit_codes
from .plan import check_tensorboard, find_device


def run_sweep(
    recipe: str,
    over: list[str],
    fixed: list[str],
    *,
    out: Path | None,
    data: str | None,
    workers: int,
    threads: int | None,
    device: str,
    tensorboard: bool,
    ray_address: str | None,
    dry_run: bool,
) -> None:
    """Do what `vdropkern sweep` was asked to."""
    with exit_codes("sweep"):
        if workers < 1:
            raise UsageError(f"--workers: {workers} given, at least 1 accepted")
        check_threads(threads)
        check_tensorboard(tensorboard)
        folder = out or Path("runs") / f"sweep-{recipe}"
        check_folder(folder)
        each = threads or max(1, (os.cpu_count() or 1) // workers)
        try:
            grid = _grid(recipe, over, fixed)
            shared = ["--threads", str(each), *(["--device", device] if device != "cpu" else [])]
            shared += ["--tensorboard"] * tensorboard
            sweep = Sweep(folder, grid, shared, data)
        except GridError as err:
            raise UsageError(str(err)) from None
        if dry_run:
            for run in sweep.runs:
                console.print(f"{run.cell.name}: {run.status}", highlight=False, markup=False)
            return
        # quickly looked at; what is wrong would be wrong in every cell
        if ray_address is None:  # Ray's nodes may have GPUs that this machine lacks
            find_device(device, ALONE)
        if RECIPES[recipe].data == "digits":
            load_digits(data)
        start = _start(ray_address, each)
    _run(sweep, start, len(sweep.runs) if ray_address else workers)


def _grid(recipe: str, over: list[str], fixed: list[str]) -> Grid:
    """The grid asked for, or the published one; every cell's settings have been checked.

    Raises:
        UsageError: there is no such recipe or setting, or nothing to vary.
        GridError, ConfigError: a setting is wrong.
    """
    if recipe not in RECIPES:
        raise UsageError(f"unknown recipe {recipe!r}; accepted: {', '.join(RECIPES)}")
    if not over and recipe not in GRIDS:
        raise UsageError(f"--over: {recipe} has no published grid; at least one --over accepted")
    grid = parse_grid(recipe, over or GRIDS[recipe], fixed)
    default = RECIPES[recipe].default_config(0)
    for cell in grid.cells():
        replace(default, **settings.parse(RECIPES[recipe], flags(cell.settings)))
    return grid


def _start(ray_address: str | None, threads: int) -> Start:
    if ray_address is None:
        return start_locally
    if importlib.util.find_spec("ray") is None:
        raise UsageError('--ray-address needs Ray: pip install "vdropkern[ray]"')
    from ..recipes.ray_jobs import connect

    try:
        return connect(ray_address, threads)
    except (ConnectionError, ValueError) as err:
        raise UsageError(f"--ray-address: {ray_address} given, but {err}") from None


def _run(sweep: Sweep, start: Start, workers: int) -> None:
    """Run it, and exit with 1 if a cell failed, 128 + the signal if stopped."""
    done = sum(run.status == "finished" for run in sweep.runs)
    console.print(
        f"[bold]{sweep.grid.recipe}[/bold]: {plural(len(sweep.runs), 'cell')}, {done} finished before; "
        f"writing to {sweep.folder}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    try:
        with StopRequest() as stop, Overview(sweep) as overview:
            finished = sweep.run(start, workers, overview, stop)
    except KeyboardInterrupt:
        errors.print("interrupted; what the last checkpoints hold is safe", style="bold red")
        raise typer.Exit(128 + signal.SIGINT) from None
    if not finished:
        console.print("stopped; the same command goes on with it", highlight=False)
        raise typer.Exit(128 + (stop.signal or signal.SIGINT))
    failed = [run for run in sweep.runs if run.status == "failed"]
    for run in failed:
        errors.print(f"{run.cell.name} failed (exit code {run.code}); its log ends:", style="bold red")
        errors.print("\n".join(f"  {line}" for line in run.last_lines()), highlight=False, markup=False)
    if failed:
        errors.print(
            f"{plural(len(failed), 'cell')} of {len(sweep.runs)} failed; the same command tries again"
        )
        raise typer.Exit(1)
    console.print(
        f"all {plural(len(sweep.runs), 'cell')} finished. Now:\n  vdropkern report {sweep.folder}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


class Overview:
    """Watches a sweep: a line for each cell that ends; on a terminal bars for all and for those that run."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.started = time.monotonic()
        self.before = self._done()
        self.bar = Progress(
            TextColumn("[bold]{task.description}", markup=True),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.fields[left]}", style="dim"),
            console=console, expand=True, disable=not console.is_terminal, transient=True,
        )  # fmt: skip
        self.total = self.bar.add_task("all cells", total=len(sweep.runs), left="")
        self.tasks: dict[str, Any] = {}

    def __enter__(self) -> Overview:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def _done(self) -> float:
        """Cells and parts of cells."""
        return sum(1.0 if run.status == "failed" else run.progress() for run in self.sweep.runs)

    def __call__(self, run: Run | None) -> None:
        if run is not None:
            self._line(run)
        if console.is_terminal:
            self._draw()

    def _line(self, run: Run) -> None:
        if run.status == "running":
            self.tasks[run.cell.name] = self.bar.add_task(run.cell.name, total=1.0, left="")
            return
        if run.cell.name in self.tasks:
            self.bar.remove_task(self.tasks.pop(run.cell.name))
        ended = sum(run.status in ("finished", "failed") for run in self.sweep.runs)
        error = "" if run.error is None else f", test error {run.error:.2f} %"
        console.print(
            f"{ended}/{len(self.sweep.runs)} {run.cell.name}: {run.status}{error}, {clock(run.seconds)}",
            highlight=False, soft_wrap=True, markup=False,
        )  # fmt: skip

    def _draw(self) -> None:
        done = self._done()
        passed, gained = time.monotonic() - self.started, done - self.before
        left = f"left {clock(passed / gained * (len(self.sweep.runs) - done))}" if gained > 0 else ""
        self.bar.update(self.total, completed=done, left=left)
        for run in self.sweep.runs:
            if run.cell.name in self.tasks:
                self.bar.update(self.tasks[run.cell.name], completed=run.progress(), left=clock(run.seconds))
