"""`vdropkern methods`: the table of the field, and one method in full."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from ..methods import METHODS
from ..methods._describe import describe
from .console import UsageError, console, exit_codes


def run_methods(name: str | None) -> None:
    """Print the table, or the entry of one method."""
    with exit_codes("methods"):
        if name is None:
            console.print(_table())
            console.print("vdropkern methods NAME shows one of them in full.")
            return
        by_class = {cls.__name__: method for method, cls in METHODS.items()}
        chosen = by_class.get(name, name)
        if chosen not in METHODS:
            raise UsageError(f"{name!r} is no method; accepted: {', '.join(METHODS)}")
        _print_one(chosen)


def _table() -> Table:
    table = Table(title="methods of vdropkern", title_justify="left", title_style="bold")
    for column in ("name", "noise enters"):
        table.add_column(column, no_wrap=True)
    for column in ("scale", "prior or penalty", "paper"):
        table.add_column(column, overflow="fold")  # numbers of papers whole
    for cls in METHODS.values():
        entry = describe(cls)
        cells = (entry.name, entry.enters, entry.scale, entry.prior, entry.paper)
        table.add_row(*map(escape, cells))
    return table


def _print_one(name: str) -> None:
    entry = describe(METHODS[name])
    arguments = ", ".join(f"{argument}={default}" for argument, default in entry.arguments)
    console.print(f"[bold]{entry.name}[/bold]  {escape(f'vdropkern.methods.{entry.cls}({arguments})')}")
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for what, words in entry.facts():
        table.add_row(f"[bold]{what}[/bold]", escape(words))
    console.print(table)
    console.print()
    console.print(entry.text, markup=False, highlight=False)
