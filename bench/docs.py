"""A run as Markdown, and into README.md and docs/benchmarks.md between marks: no number is copied by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import cases, tables
from .rows import Row, notes, problems, rows
from .run import ROOT, write_whole

README = ROOT / "README.md"
PAGE = ROOT / "docs" / "benchmarks.md"
PICTURE = ROOT / "docs" / "images" / "speed.png"
_SUFFIX = {"default": "", "thp": ", huge pages"}


def table(headers: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table without the columns that are empty throughout."""
    used = [i for i, _ in enumerate(headers) if i == 0 or any(line[i] for line in body)]
    align = ["---:" if i else "---" for i in used]
    lines = [[headers[i] for i in used], align, *([line[i] for i in used] for line in body)]
    return [f"| {' | '.join(line)} |" for line in lines]


def markdown(document: dict[str, Any]) -> str:
    """Every table, headed by what it was measured on."""
    lines = [f"- {line}" for line in tables.taken_on(document)]
    for shown, sections in tables.by_table(rows(document)):
        lines += ["", f"### {shown.title}"]
        for name, part in sections:
            lines += ["", f"**{name}**", ""]
            lines += table(tables.headers(shown), [tables.cells(row) for row in part])
    lines += ["", *(f"- {line}" for line in [*notes(document), *problems(document)])]
    return "\n".join(lines).rstrip("\n") + "\n"


def ratios(document: dict[str, Any]) -> str:
    """The one table that fits a first screen: training steps, contenders against cases."""
    own = [r for r in rows(document) if r.case.table == "step" and not r.name.endswith("-zeroed")]
    columns = {(r.case.name, r.memory): r.case.title + _SUFFIX[r.memory] for r in own if r.memory in _SUFFIX}
    found = {(r.name, r.case.name, r.memory): r for r in own}

    def cell(row: Row | None) -> str:
        if row is None or row.ms is None:
            return "-"
        return tables.duration(row.ms.median) if row.ratio is None else tables.number(row.ratio.median)

    body = [
        [label, *(cell(found.get((name, *column))) for column in columns)]
        for name, label in {r.name: r.label for r in own}.items()
    ]
    return "\n".join(table(["times the dense step", *columns.values()], body)) + "\n"


def _pages(document: dict[str, Any]) -> set[str]:
    """The parts of the docs a run has results for."""
    return {cases.page(cases.by_name(result["case"])) for result in document["results"]}


def _part(document: dict[str, Any], page: str) -> dict[str, Any]:
    own = [r for r in document["results"] if cases.page(cases.by_name(r["case"])) == page]
    return document | {"results": own}


def _unfit(document: dict[str, Any]) -> str | None:
    """Why `document` is not to be published, or None."""
    if any(document.get(name) for name in ("quick", "part", "interrupted")):
        return "a run that is quick, interrupted or of chosen contenders or rounds is no claim"
    lost = problems(document)
    if lost:
        return f"the run has red or failed cases: {'; '.join(lost)}"
    pages = _pages(document)
    wanted = {(c.name, memory) for c in cases.CASES for memory in c.memory if cases.page(c) in pages}
    missing = wanted - {(result["case"], result["memory"]) for result in document["results"]}
    if missing:
        case, memory = min(missing)
        return f"the run lacks {len(missing)} of {len(wanted)} results, such as {case} under {memory}"
    return None


def between(path: Path, text: str, mark: str, content: str) -> str:
    """`text` with `content` between its marks; ValueError names `path` where they are missing."""
    begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"{path.name} must have one {begin!r} before one {end!r}")
    head, rest = text.split(begin)
    return f"{head}{begin}\n{content}{end}{rest.split(end)[1]}"


def update(document: dict[str, Any], picture: bytes | None) -> None:
    """Write the tables and the picture of `document` into the docs.

    Raises:
        ValueError: the run is not whole, or a page lost its marks; nothing is written then.
    """
    unfit = _unfit(document)
    if unfit is not None:
        raise ValueError(unfit)
    readme, page = README.read_text(), PAGE.read_text()
    for name in sorted(_pages(document)):
        page = between(PAGE, page, name, markdown(_part(document, name)))
    whole = "tables" in _pages(document)
    if whole:
        short = ratios(document)
        readme = between(README, readme, "ratios", short)
        page = between(PAGE, page, "ratios", short)
        write_whole(README, readme.encode())
    write_whole(PAGE, page.encode())
    if whole and picture is not None:
        write_whole(PICTURE, picture)
