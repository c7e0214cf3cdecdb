"""A run on the terminal: every table, losing rows included, then the goals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from . import cases, specs, tables
from .rows import Row, notes, problems, rows

_STYLES = {"aim": "bold green", "must": "green", "missed": "bold red"}
_UNITS = {"ratio": "x", "speedup": "x faster", "us": " us"}
_WIDE = 175  # below it, times and memory are printed as two tables


def _table(headers: Sequence[str], name: str) -> Table:
    made = Table(title=name, title_justify="left", box=box.SIMPLE_HEAD)
    for index, header in enumerate(headers):
        made.add_column(header, justify="right" if index else "left", no_wrap=True)
    return made


def _style(row: Row) -> str:
    return "yellow" if row.ms is None else _STYLES.get(row.verdict() or "", "")


def _section(table: specs.Table, name: str, part: Sequence[Row], wide: bool) -> list[Table]:
    headers, body = tables.headers(table), [(tables.cells(row), _style(row)) for row in part]
    if wide:
        kinds = [(headers, body)]
    else:
        halves = [(tables.split(cells), style) for cells, style in body]
        kinds = [(tables.split(headers)[i], [(half[i], style) for half, style in halves]) for i in (0, 1)]
    made = []
    for own_headers, own_body in kinds:
        one = _table(own_headers, f"{table.title}: {name}")
        for cells, style in own_body:
            one.add_row(*(Text(cell, style=style) for cell in cells))
        made.append(one)
    return made


def _goals(all_rows: Sequence[Row]) -> Table | None:
    """Every target with what was measured: the short answer."""
    made = _table(("case", "measured (p20-p80)", "goal", "reached"), "Goals")
    for row in all_rows:
        measured, verdict = row.measured(), row.verdict()
        if row.target is not None and measured is not None and verdict is not None:
            what = f"{cases.TABLES[row.case.table].title}: {tables.title(row.case, row.memory)}"
            found = tables.numbers(measured) + _UNITS[row.target.kind]
            line = (what, found, tables.goal(row.target), verdict)
            made.add_row(*(Text(cell, style=_STYLES[verdict]) for cell in line))
    return made if made.row_count else None


def show(document: dict[str, Any], console: Console) -> None:
    """Print every table, the goals, then what did not run and why."""
    for line in tables.taken_on(document):
        console.print(line, style="dim", highlight=False)
    all_rows = rows(document)
    for table, sections in tables.by_table(all_rows):
        for name, part in sections:
            for made in _section(table, name, part, console.width >= _WIDE):
                console.print(made)
    goals = _goals(all_rows)
    if goals is not None:
        console.print(goals)
    for line in notes(document):
        console.print(line, style="yellow", highlight=False)
    for line in problems(document):
        console.print(line, style="bold red", highlight=False)
