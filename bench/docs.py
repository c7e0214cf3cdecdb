"""Put a run's numbers into docs/benchmarks.md, between the marks, so that none is copied by hand."""

from __future__ import annotations

from typing import Any

from . import report
from .run import ROOT, write_whole

PAGE = ROOT / "docs" / "benchmarks.md"
PICTURE = ROOT / "docs" / "images" / "speed.png"


def _between(text: str, mark: str, content: str) -> str:
    begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"{PAGE.name} must have one {begin!r} before one {end!r}")
    head, rest = text.split(begin)
    return f"{head}{begin}\n{content}{end}{rest.split(end)[1]}"


def update(document: dict[str, Any], picture: bytes | None) -> None:
    """Write the tables and the picture of `document` into the docs.

    Raises:
        ValueError: the page lost its marks.
    """
    text = PAGE.read_text()
    text = _between(text, "ratios", report.ratios_markdown(document))
    text = _between(text, "tables", report.markdown(document))
    write_whole(PAGE, text.encode())
    if picture is not None:
        write_whole(PICTURE, picture)
