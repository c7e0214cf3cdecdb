"""Rows as cells of text, for the terminal and for the docs alike."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from . import cases, specs
from .rows import Row
from .stats import Spread

MEMORY_NOTES = {
    "default": "",
    "thp": "huge pages (THP_MEM_ALLOC_ENABLE=1)",
    "heap-kept": "heap kept (no page faults)",
}
_QUIET = 30.0  # preemptions a second; a few come from the kernel's own threads
_TIMES = 5  # of the columns, these many tell the time; the others tell the memory


def _digits(value: float) -> str:
    return f"{value:#.3g}".rstrip(".") if value < 1000 else f"{value:.0f}"


def _scale(ms: float) -> tuple[float, str]:
    return (1.0, "ms") if ms >= 1 else (1e3, "us")


def duration(ms: float) -> str:
    """Three significant digits, in ms or, below one, us."""
    scale, unit = _scale(ms)
    return f"{_digits(scale * ms)} {unit}"


def _durations(spread: Spread) -> str:
    scale, unit = _scale(spread.median)
    median, p20, p80 = (_digits(scale * value) for value in (spread.median, spread.p20, spread.p80))
    return f"{median} ({p20}-{p80}) {unit}"


def size(count: int | None) -> str:
    """Bytes in binary units; empty for None."""
    if count is None:
        return ""
    for unit, name in ((2**20, "MiB"), (2**10, "KiB")):
        if count >= unit:
            return f"{count / unit:.0f} {name}" if count >= 100 * unit else f"{count / unit:.3g} {name}"
    return f"{count} B"


def number(value: float) -> str:
    """A ratio: two digits after the point, one from ten on."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def numbers(spread: Spread) -> str:
    """A ratio with its p20 and p80."""
    return f"{number(spread.median)} ({number(spread.p20)}-{number(spread.p80)})"


def goal(target: specs.Target) -> str:
    """A target as ``<= 1.9, aim 1.3``."""
    unit = " us" if target.kind == "us" else ""
    sign = ">=" if target.kind == "speedup" else "<="
    aim = "" if target.aim is None else f", aim {target.aim:g}"
    return f"{sign} {target.must:g}{unit}{aim}"


def title(case: specs.Case, memory: str) -> str:
    """The case in words, with the allocator setting where it is not the default."""
    note = MEMORY_NOTES[memory]
    return f"{case.title}; {note}" if note else case.title


def headers(table: specs.Table) -> list[str]:
    """Column heads; the first `_TIMES` are of times, the rest of memory."""
    compared = "faster than" if table.shows == "speedup" else "times"
    return ["contender", "time (p20-p80)", f"{compared} {table.baseline}", "rounds", "target",
            "faults", "system", "saved", "peak"]  # fmt: skip


def cells(row: Row) -> list[str]:
    """A row's cells, under `headers`."""
    if row.ms is None:
        return [row.label, row.status, *[""] * 7]
    table = cases.TABLES[row.case.table]
    compared = row.ratio.inverse() if row.ratio is not None and table.shows == "speedup" else row.ratio
    verdict = row.verdict()
    own_baseline = "" if row.baseline == table.baseline else f" / {row.baseline}"
    return [
        row.label + own_baseline,
        _durations(row.ms),
        "1" if compared is None else numbers(compared),
        str(row.ms.n),
        "" if row.target is None or verdict is None else f"{goal(row.target)}: {verdict}",
        f"{row.faults:.0f}",
        duration(row.system_ms) if row.system_ms >= 1e-3 else "0",
        size(row.saved_bytes),
        size(row.peak_bytes),
    ]


def split(parts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Headers or cells as (those of times, those of memory), each with the contender first."""
    return [*parts[:_TIMES]], [parts[0], *parts[_TIMES:]]


def by_table(rows: Sequence[Row]) -> list[tuple[specs.Table, list[tuple[str, list[Row]]]]]:
    """Tables that have rows, each with its (title, rows) sections."""
    found = []
    for name, table in cases.TABLES.items():
        own = [row for row in rows if row.case.table == name]
        parts = [list(group) for _, group in groupby(own, lambda row: (row.case.name, row.memory))]
        if parts:
            found.append((table, [(title(part[0].case, part[0].memory), part) for part in parts]))
    return found


def taken_on(document: dict[str, Any]) -> list[str]:
    """What the numbers were taken on, in a few lines."""
    machine = document["machine"]
    if machine is None:
        return ["nothing was measured"]
    held = f", held to {document['held_to_isa']}" if document.get("held_to_isa") else ""
    kernels = document["backend"]["linear_lrt"] + held
    peers = ", ".join(f"{name} {version or 'missing'}" for name, version in machine["peers"].items())
    return [
        f"{machine['cpu']}, {machine['cpus']} CPUs, {document['threads']} threads, {machine['system']}",
        f"vdropkern {machine['vdropkern']} ({machine['commit'] or 'no commit'}), {kernels}",
        f"torch {machine['torch']} ({machine['torch_cpu_capability']}), Python {machine['python']}",
        f"peers: {peers}; huge pages: {machine['huge_pages']}; {machine['date']}",
        *_disturbed(document),
    ]


def _disturbed(document: dict[str, Any]) -> list[str]:
    """A warning where something else wanted the CPUs: OpenMP threads that wait for one another then crawl."""
    records = [c for r in document["results"] for c in r.get("contenders", {}).values() if c.get("ms")]
    seconds = sum(c["seconds"] for c in records)
    rate = sum(c["preempted"] for c in records) / seconds if seconds else 0.0
    if rate < _QUIET:
        return []
    return [f"NOT A QUIET MACHINE: preempted {rate:.0f} times a second; take no number here for a claim"]
