"""Output shared by the commands: consoles, errors with their exit codes, tables."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from ..recipes.checkpoint import FILE_NAME, CheckpointError
from ..recipes.config import ConfigError
from ..recipes.idx import DataError
from ..recipes.ranks import Ranks, RanksError, is_first, process_count
from ..recipes.results import RESULTS_NAME
from ..recipes.text import cell, compression
from ..sparse import ModelFileError, ShrinkReport, SizeReport

# of several processes that train together the first has the word
console = Console(quiet=not is_first())
errors = Console(stderr=True, quiet=not is_first())
all_errors = Console(stderr=True)
WRONG_USE = 2
MAX_THREADS = 1024  # many more end the process: every one has a stack


class UsageError(Exception):
    """A command was asked for something it cannot do; nothing has been written."""


# what users can mend; the messages say how
MENDABLE = (UsageError, ConfigError, DataError, CheckpointError, ModelFileError)


@contextlib.contextmanager
def exit_codes(command: str, to: Console = errors) -> Iterator[None]:
    """Turn errors of which the message says enough into one message on stderr and exit code 2."""
    try:
        yield
    except (*MENDABLE, RanksError) as err:
        message = str(err)
        if isinstance(err, ConfigError):
            name, _, rest = message.partition(":")
            message = f"--{name.replace('_', '-')}:{rest}"
        to.print(
            f"vdropkern {command}: {message}", style="bold red", highlight=False, soft_wrap=True, markup=False
        )
        raise typer.Exit(WRONG_USE) from None


@contextlib.contextmanager
def joined(command: str) -> Iterator[Ranks]:
    """The processes that torchrun has started; whatever ends the block, the first one has said why."""
    with exit_codes(command, all_errors):
        ranks = Ranks.join()
    try:
        yield ranks
    except typer.Exit:
        ranks.wait_for_first()
        raise
    finally:
        ranks.leave()


def refuse_several(command: str) -> None:
    """Exit if torchrun has started several processes."""
    if (count := process_count()) > 1:
        with joined(command), exit_codes(command):
            raise UsageError(
                f"{count} processes given (torchrun?), 1 accepted; recipes alone train on several"
            )


def check_count(flag: str, given: int, low: int, high: int) -> None:
    """Raise UsageError unless a number given by a flag lies in [low, high]."""
    if not low <= given <= high:
        raise UsageError(f"{flag}: {given} given, {low} to {high:,} accepted")


def check_threads(threads: int | None) -> None:
    """Raise UsageError unless a process can have so many threads; None: torch's own choice."""
    if threads is not None:
        check_count("--threads", threads, 1, MAX_THREADS)


def check_folder(out: Path) -> None:
    """Raise UsageError unless --out can be a folder for something else than a run's own files."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out: {out} is a file; give a folder, which is made if it is not there")
    if any((out / name).exists() for name in (FILE_NAME, RESULTS_NAME)):
        raise UsageError(f"--out: {out} holds a run with files of its own; another folder accepted")


def set_threads(threads: int | None) -> None:
    """torch's threads for this process.

    Raises:
        UsageError: too few or too many.
    """
    import torch

    check_threads(threads)
    if threads is not None:
        torch.set_num_threads(threads)


def layer_table(layers: Sequence[dict[str, Any]], total: dict[str, Any]) -> Table:
    """Weights, nonzero ones and sparsity by layer and in all."""
    table = Table(title="weights left", title_justify="left", title_style="bold")
    table.add_column("layer")
    for column in ("weights", "nonzero", "sparsity", "compression"):
        table.add_column(column, justify="right")
    table.add_column("runs as")
    for row in layers:
        table.add_row(*_layer_cells(row))
    table.add_section()
    table.add_row(*_layer_cells({"name": "total", "runs_as": "", **total}), style="bold")
    return table


def _layer_cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["name"],
        f"{row['weights']:,}",
        f"{row['nonzero']:,}",
        f"{100 * row['sparsity']:.2f} %",
        compression(row["weights"], row["nonzero"]),
        row["runs_as"],
    )


def shrink_table(report: ShrinkReport) -> Table:
    """Shapes of the weights before and after dead units went."""
    table = Table(title="dead inputs, units, channels", title_justify="left", title_style="bold")
    table.add_column("layer")
    for column in ("before", "after", "nonzero before", "after"):
        table.add_column(column, justify="right")
    for row in report.rows:
        shapes = (" x ".join(str(size) for size in shape) for shape in (row.before, row.after))
        table.add_row(row.name, *shapes, f"{row.nonzero_before:,}", f"{row.nonzero_after:,}")
    return table


def size_table(report: SizeReport) -> Table:
    """Bytes by layer and in all."""
    table = Table(title="bytes", title_justify="left", title_style="bold")
    table.add_column("of")
    for column in ("dense", "in memory", "on disk", "entropy-coded"):
        table.add_column(column, justify="right")
    total = report.total
    for row in (*report.rows, total):
        if row is total:
            table.add_section()
        numbers = (row.dense, row.memory, row.stored, math.ceil(row.entropy))
        table.add_row(row.name, *(f"{number:,}" for number in numbers))
    return table


def further_table(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    """One of a recipe's own tables."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in rows[0]:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*map(cell, row.values()))
    return table


def inference_table(rows: Sequence[dict[str, Any]], threads: int) -> Table:
    """Times of dense and pruned inference by batch size."""
    table = Table(
        title=f"inference, median (p20 to p80) in us, torch threads: {threads}",
        title_justify="left",
        title_style="bold",
    )
    for column in ("batch", "dense", "pruned", "speed-up"):
        table.add_column(column, justify="right")
    for row in rows:
        cells = [
            f"{row[name]['median_us']:.1f} ({row[name]['p20_us']:.1f} to {row[name]['p80_us']:.1f})"
            for name in ("dense", "pruned")
        ]
        table.add_row(str(row["batch"]), *cells, f"{row['speed_up']:.2f}x")
    return table
