"""Grids of settings: every combination is a cell, a training run in a folder of its own."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

# what decides where and how a cell runs, not what it computes
RESERVED = ("recipe", "data", "out", "resume", "overwrite", "threads", "device")
# between a value and a further setting that it brings: sparse-vd+parameter=unit
_BROUGHT = re.compile(r"\+(?=[A-Za-z_]\w*=)")


class GridError(ValueError):
    """A grid cannot be run. The message names the flag, what was given and what is accepted."""


@dataclass(frozen=True)
class Cell:
    """One run of a sweep: a name that no other cell has, and its settings as text."""

    name: str
    settings: Mapping[str, str]


@dataclass(frozen=True)
class Grid:
    """What is varied (setting -> values) and what all cells share (setting -> value), all as text."""

    recipe: str
    over: Mapping[str, tuple[str, ...]]
    fixed: Mapping[str, str]

    def cells(self) -> list[Cell]:
        """All combinations; the setting named last changes fastest."""
        cells = []
        for values in itertools.product(*self.over.values()):
            words = [f"{key}={value}" for key, value in zip(self.over, values, strict=True)]
            varied = dict(part.split("=", 1) for word in words for part in _BROUGHT.split(word))
            name = "_".join(words) or "only"
            cells.append(Cell(re.sub(r"[^\w.+=-]", "-", name), {**self.fixed, **varied}))
        return cells


def flags(settings: Mapping[str, str]) -> list[str]:
    """Settings as arguments of `vdropkern train`."""
    return [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", value)]


def parse_grid(recipe: str, over: Iterable[str], fixed: Iterable[str]) -> Grid:
    """A grid from ``name=value,value`` and ``name=value``; dashes and underscores in names are the same.

    A value may bring further settings, as ``method=sparse-vd,sparse-vd+parameter=unit``.

    Raises:
        GridError: something else was written, or a setting or a value stands there twice.
    """
    axes: dict[str, tuple[str, ...]] = {}
    for text in over:
        name, values = _parse("--over", text, "NAME=VALUE,VALUE,...")
        if name in axes:
            raise GridError(f"--over: {name} is given twice; one --over for each setting accepted")
        axes[name] = tuple(value.strip() for value in values.split(","))
        if "" in axes[name] or len(set(axes[name])) < len(axes[name]):
            raise GridError(f"--over: {text!r} given; values that differ, none of them empty, accepted")
    shared: dict[str, str] = {}
    for text in fixed:
        name, value = _parse("--set", text, "NAME=VALUE")
        if name in shared or name in axes:
            raise GridError(f"--set: {name} is given twice; one value, or one --over, accepted")
        shared[name] = value.strip()
    taken = {*axes, *shared, *RESERVED}
    for axis in axes.values():
        brought = {part.partition("=")[0] for value in axis for part in _BROUGHT.split(value)[1:]}
        if twice := sorted(brought & taken):
            raise GridError(f"--over: +{twice[0]}= given; a setting that stands nowhere else accepted")
        taken |= brought
    grid = Grid(recipe, axes, shared)
    names = [cell.name for cell in grid.cells()]
    if len(set(names)) < len(names):
        raise GridError("--over: two cells would share a folder; values that differ in letters accepted")
    return grid


def _parse(flag: str, text: str, form: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    name = name.strip().lstrip("-").replace("-", "_")
    if not equals or not name.isidentifier() or not value.strip():
        raise GridError(f"{flag}: {text!r} given; {form} accepted")
    if name in RESERVED:
        raise GridError(f"{flag}: {name} is a flag of the sweep itself, or not to be varied")
    return name, value
