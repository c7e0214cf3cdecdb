"""Write docs/methods.md and docs/methods/NAME.md from `vdropkern.methods`; `make docs-methods` runs it."""

from __future__ import annotations

import re
from pathlib import Path

from vdropkern.methods import METHODS
from vdropkern.methods._describe import Entry, describe

HERE = Path(__file__).parent
NOTE = "<!-- Written by docs/generate_methods.py (make docs-methods); edit vdropkern/methods instead. -->\n"
SECTION = re.compile(r"^(Args|Returns|Raises|Attributes):$")


def pages() -> dict[Path, str]:
    """Every generated page by its path."""
    entries = [describe(cls) for cls in METHODS.values()]
    found = {HERE / "methods" / f"{entry.name}.md": _page(entry) for entry in entries}
    return {HERE / "methods.md": _overview(entries), **found}


def _cell(words: str) -> str:
    return words.replace("|", "\\|")


def _overview(entries: list[Entry]) -> str:
    lines = [
        NOTE,
        "# Methods",
        "",
        "Every method is three choices: where noise enters, how its scale is parameterised, what the weights",
        "are pulled to. All go with `vdropkern.nn.Linear`, `Conv1d` and `Conv2d` ([layers.md](layers.md)).",
        "`vdropkern methods` prints this table.",
        "",
        "| method | noise enters | kernel | scale | prior or penalty | prunes | paper |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for e in entries:
        enters = "; or ".join((e.enters, *e.others))
        cells = (f"[`{e.cls}`](methods/{e.name}.md)", enters, e.kernel, e.scale, e.prior, e.prunes, e.paper)
        lines.append(f"| {' | '.join(map(_cell, cells))} |")
    return "\n".join(lines) + "\n"


def _page(entry: Entry) -> str:
    signature = ", ".join(f"{name}={default}" for name, default in entry.arguments)
    lines = [NOTE, f"# {entry.cls}", "", f"`vdropkern.methods.{entry.cls}({signature})`", ""]
    lines += ["| | |", "| --- | --- |"]
    lines += [f"| {what} | {_cell(words)} |" for what, words in entry.facts()]
    lines += ["", *_body(entry.text)]
    return "\n".join(lines).rstrip() + "\n"


def _body(text: str) -> list[str]:
    """The docstring as Markdown: its sections as headings, arguments as a list."""
    lines: list[str] = []
    section = ""
    for line in text.splitlines():
        if SECTION.match(line):
            section = line.removesuffix(":")
            lines += [f"## {'Arguments' if section == 'Args' else section}", ""]
        elif section and re.match(r"^ {4}\S", line):
            name, _, words = line.strip().partition(":")
            lines.append(f"- `{name}`:{words}")
        elif section and line.strip():
            lines.append(f"  {line.strip()}")
        else:
            lines.append(line)
    return [line.replace("``", "`") for line in lines]


def main() -> None:
    """Write the pages; remove those of methods that are gone."""
    wanted = pages()
    (HERE / "methods").mkdir(exist_ok=True)
    for path in (HERE / "methods").glob("*.md"):
        if path not in wanted:
            path.unlink()
    for path, text in wanted.items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
