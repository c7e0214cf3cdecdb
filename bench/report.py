"""A run as tables: rich for the terminal, Markdown for the docs. The same rows, losing ones included."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from . import cases
from .rows import Row, problems, rows
from .stats import Spread

MEMORY_NOTES = {
    "default": "",
    "thp": "huge pages (THP_MEM_ALLOC_ENABLE=1)",
    "heap-kept": "heap kept (no page faults)",
}
_QUIET = 30.0  # preemptions a second; a few come from the kernel's own threads
_STYLES = {"aim": "bold green", "must": "green", "missed": "bold red"}
_HEADERS = ("contender", "time", "p20-p80", "", "p20-p80", "rounds", "target",
            "faults", "system", "saved", "peak")  # fmt: skip


def _digits(value: float) -> str:
    return f"{value:#.3g}".rstrip(".") if value < 1000 else f"{value:.0f}"


def duration(ms: float) -> str:
    """Three significant digits, in ms or, below one, us."""
    return f"{_digits(ms)} ms" if ms >= 1 else f"{_digits(1e3 * ms)} us"


def _durations(spread: Spread) -> str:
    scale, unit = (1.0, "ms") if spread.median >= 1 else (1e3, "us")
    return f"{_digits(scale * spread.p20)}-{_digits(scale * spread.p80)} {unit}"


def _size(count: int | None) -> str:
    if count is None:
        return ""
    for unit, name in ((2**20, "MiB"), (2**10, "KiB")):
        if count >= unit:
            return f"{count / unit:.0f} {name}" if count >= 100 * unit else f"{count / unit:.3g} {name}"
    return f"{count} B"


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _range(spread: Spread) -> str:
    return f"{_number(spread.p20)}-{_number(spread.p80)}"


def goal(target: cases.Target) -> str:
    """A target as ``<= 1.9 (aim 1.3)``."""
    unit = " us" if target.kind == "us" else ""
    sign = ">=" if target.kind == "speedup" else "<="
    aim = "" if target.aim is None else f" (aim {target.aim:g})"
    return f"{sign} {target.must:g}{unit}{aim}"


def title(case: cases.Case, memory: str) -> str:
    """The case in words, with the allocator setting where it is not the default."""
    note = MEMORY_NOTES[memory]
    return f"{case.title}; {note}" if note else case.title


def cells(row: Row) -> list[str]:
    """A row's cells, under `_HEADERS`."""
    if row.ms is None:
        return [row.label, row.why, *[""] * 9]
    shows = cases.TABLES[row.case.table].shows
    compared = row.ratio.inverse() if row.ratio is not None and shows == "speedup" else row.ratio
    verdict = row.verdict()
    note = "" if row.baseline == cases.TABLES[row.case.table].baseline else f" of {row.baseline}"
    return [
        row.label,
        duration(row.ms.median),
        _durations(row.ms),
        "1" if compared is None else _number(compared.median) + "x" + note,
        "" if compared is None else _range(compared),
        str(row.ms.n),
        "" if row.target is None or verdict is None else f"{goal(row.target)}: {verdict}",
        f"{row.faults:.0f}",
        duration(row.system_ms) if row.system_ms >= 1e-3 else "0",
        _size(row.saved_bytes),
        _size(row.peak_bytes),
    ]


def _headers(table: cases.Table) -> list[str]:
    compared = "faster than" if table.shows == "speedup" else "times"
    headers = list(_HEADERS)
    headers[3] = f"{compared} {table.baseline}"
    return headers


def header_lines(document: dict[str, Any]) -> list[str]:
    """What the numbers were taken on, in a few lines."""
    machine = document["machine"]
    if machine is None:
        return ["nothing was measured"]
    kernels = document["backend"]["linear_lrt"]
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
    seconds = sum(c["calls"] * sum(c["ms"]) / len(c["ms"]) / 1e3 for c in records)
    rate = sum(c["preempted"] for c in records) / seconds if seconds else 0.0
    if rate < _QUIET:
        return []
    return [f"NOT A QUIET MACHINE: preempted {rate:.0f} times a second; take no number here for a claim"]


def _by_table(all_rows: Sequence[Row]) -> list[tuple[cases.Table, list[Row]]]:
    found = [(t, [r for r in all_rows if r.case.table == name]) for name, t in cases.TABLES.items()]
    return [(table, own) for table, own in found if own]


def _sections(own: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    parts = [list(group) for _, group in groupby(own, lambda row: (row.case.name, row.memory))]
    return [(title(part[0].case, part[0].memory), part) for part in parts]


def _aligned(headers: Sequence[str], name: str) -> Table:
    made = Table(title=name, title_justify="left", box=box.SIMPLE_HEAD)
    for index, header in enumerate(headers):
        made.add_column(header, justify="right" if index else "left", no_wrap=True)
    return made


def _goals(all_rows: Sequence[Row]) -> Table | None:
    """Every target with what was measured: the short answer."""
    made = _aligned(("case", "measured", "p20-p80", "must (aim)", "reached"), "Goals")
    for row in all_rows:
        measured, verdict = row.measured(), row.verdict()
        if row.target is not None and measured is not None and verdict is not None:
            unit = {"ratio": "x", "speedup": "x faster", "us": " us"}[row.target.kind]
            what = f"{cases.TABLES[row.case.table].title}: {title(row.case, row.memory)}"
            found = [what, _number(measured.median) + unit, _range(measured), goal(row.target), verdict]
            made.add_row(*(Text(cell, style=_STYLES[verdict]) for cell in found))
    return made if made.row_count else None


def show(document: dict[str, Any], console: Console) -> None:
    """Print every table, the goals, then what did not run."""
    for line in header_lines(document):
        console.print(line, style="dim", highlight=False)
    for table, own in _by_table(rows(document)):
        for name, part in _sections(own):
            made = _aligned(_headers(table), f"{table.title}: {name}")
            for row in part:
                style = _STYLES.get(row.verdict() or "", "yellow" if row.ms is None else "")
                made.add_row(*(Text(cell, style=style) for cell in cells(row)))
            console.print(made)
    goals = _goals(rows(document))
    if goals is not None:
        console.print(goals)
    for line in problems(document):
        console.print(line, style="bold red", highlight=False)


def _markdown_table(headers: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    used = [i for i, _ in enumerate(headers) if i == 0 or any(line[i] for line in lines)]
    align = ["---" if i == 0 else "---:" for i in used]
    body = [[headers[i] for i in used], align, *([line[i] for i in used] for line in lines)]
    return [f"| {' | '.join(parts)} |" for parts in body]


def markdown(document: dict[str, Any]) -> str:
    """Every table as Markdown, headed by what it was measured on."""
    lines = [f"- {line}" for line in header_lines(document)]
    for table, own in _by_table(rows(document)):
        lines += ["", f"### {table.title}"]
        for name, part in _sections(own):
            lines += ["", f"**{name}**", "", *_markdown_table(_headers(table), [cells(row) for row in part])]
    lines += [f"- {line}" for line in problems(document)]
    return "\n".join(lines) + "\n"


def ratios_markdown(document: dict[str, Any]) -> str:
    """The one table for the README: contenders against cases, ratios of the training step."""
    own = [r for r in rows(document) if r.case.table == "step" and r.baseline == "dense"]
    suffix = {"default": "", "thp": ", huge pages"}
    columns = {(r.case.name, r.memory): r.case.title + suffix[r.memory] for r in own if r.memory in suffix}
    found = {(r.name, r.case.name, r.memory): r for r in own}

    def cell(row: Row | None) -> str:
        if row is None or row.ms is None:
            return "-"
        return duration(row.ms.median) if row.ratio is None else _number(row.ratio.median)

    lines = [
        [label, *(cell(found.get((name, *column))) for column in columns)]
        for name, label in {r.name: r.label for r in own}.items()
    ]
    return "\n".join(_markdown_table(["times the dense step", *columns.values()], lines)) + "\n"
