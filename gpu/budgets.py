"""Budgets: each kernel's numbers as last looked at, in ``gpu/budgets/<architecture>.json``.

A number above its budget fails. ``--update`` writes what is, so that any change stands in a diff. Numbers
belong to one toolchain, named in the file: another gives others.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("budgets")
FIELDS = ("registers", "stack", "shared", "occupancy", "instructions")
SLACK = 1.02  # of instructions: the last digit of a ratio


@dataclass(frozen=True)
class Row:
    """One kernel. `shared`: bytes a block, static and dynamic; `instructions`: a `unit`'s."""

    registers: int
    stack: int
    shared: int
    occupancy: float
    instructions: float
    unit: str

    def as_json(self) -> list[Any]:
        return [self.registers, self.stack, self.shared, self.occupancy, self.instructions, self.unit]

    def beyond(self, budget: Row) -> list[str]:
        """What is worse than the budget."""
        worse = []
        for name in ("registers", "stack", "shared"):
            mine, theirs = getattr(self, name), getattr(budget, name)
            if mine > theirs and not (name == "registers" and self.occupancy > budget.occupancy):
                worse.append(f"{name} {theirs} -> {mine}")
        if self.occupancy < budget.occupancy:
            worse.append(f"occupancy {budget.occupancy} -> {self.occupancy}")
        if self.instructions > budget.instructions * SLACK:
            worse.append(f"instructions a {self.unit} {budget.instructions} -> {self.instructions}")
        return worse


def path(architecture: str) -> Path:
    return FOLDER / f"{architecture}.json"


def read(architecture: str) -> tuple[dict[str, str], dict[str, dict[str, Row]]]:
    """(toolchain, rows by compiler and kernel) of the budgets; empty where there are none yet."""
    if not path(architecture).exists():
        return {}, {}
    content = json.loads(path(architecture).read_text(encoding="utf-8"))
    toolchain = content.pop("toolchain")
    return toolchain, {
        compiler: {name: Row(*values) for name, values in rows.items()} for compiler, rows in content.items()
    }


def write(architecture: str, toolchain: Mapping[str, str], rows: Mapping[str, Mapping[str, Row]]) -> None:
    """One kernel a line, so that diffs are read by kernel."""
    parts = [f'"toolchain": {json.dumps(toolchain)}']
    for compiler, kernels in rows.items():
        lines = [
            f"  {json.dumps(name)}: {json.dumps(row.as_json())}" for name, row in sorted(kernels.items())
        ]
        parts.append(f"{json.dumps(compiler)}: {{\n" + ",\n".join(lines) + "\n }")
    target = path(architecture)
    target.parent.mkdir(exist_ok=True)
    temporary = target.with_suffix(".tmp")
    temporary.write_text("{\n " + ",\n ".join(parts) + "\n}\n", encoding="utf-8")
    os.replace(temporary, target)


def compare(compiler: str, architecture: str, rows: Mapping[str, Row]) -> dict[str, list[str]]:
    """Complaints by kernel: beyond its budget, or without one."""
    budget = read(architecture)[1].get(compiler, {})
    found: dict[str, list[str]] = {}
    for name, row in rows.items():
        wrong = row.beyond(budget[name]) if name in budget else ["has no budget: --update"]
        if wrong:
            found[name] = wrong
    for name in budget.keys() - rows.keys():
        found[name] = ["has a budget and is no more: --update"]
    return found
