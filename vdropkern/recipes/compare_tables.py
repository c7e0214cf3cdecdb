"""The tables of a comparison of runs, as text: the page and Markdown show the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .checkpoint import FILE_NAME
from .compare import Comparison, Group, comparisons
from .published import Published
from .results import MODEL_NAME
from .text import clock


@dataclass(frozen=True)
class Row:
    """kind: better, within, worse, other or published, for its colour."""

    cells: tuple[str, ...]
    kind: str = ""


@dataclass(frozen=True)
class Table:
    title: str
    head: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str = ""

    def without_empty(self) -> Table:
        """The table without columns in which nothing stands."""
        kept = [i for i in range(len(self.head)) if any(row.cells[i] for row in self.rows)]
        rows = tuple(replace(row, cells=tuple(row.cells[i] for i in kept)) for row in self.rows)
        return replace(self, head=tuple(self.head[i] for i in kept), rows=rows)

    def markdown(self) -> str:
        """The table in Markdown, without its title."""
        lines = [self.head, ("---",) * len(self.head), *(row.cells for row in self.rows)]
        return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def _with_spread(own: Group, name: str, form: str = ".2f") -> str:
    mean, spread = own.mean(name), own.spread(name)
    if mean is None:
        return ""
    return f"{mean:{form}}" if spread is None else f"{mean:{form}} ± {spread:{form}}"


def _sparsities(own: Group) -> str:
    layers = own.first.results.get("layers") or []
    shown = [f"{100 * layer['sparsity']:.1f}" for layer in layers]
    return " ".join(shown) if 0 < len(shown) <= 4 and own.first.results["total"]["sparsity"] > 0 else ""


def cells_table(groups: Sequence[Group]) -> Table:
    """Error, sparsity and compression of every group."""
    rows = tuple(
        Row((
            own.label, str(len(own.runs)), _with_spread(own, "error"), _with_spread(own, "best_error"),
            _sparsities(own), _with_spread(own, "compression", ".1f"), clock(own.mean("seconds") or 0),
        ))
        for own in groups
    )  # fmt: skip
    if all(row.cells[4] == "" for row in rows):
        layers = ""
    else:
        layers = " Sparsity is that of the first seed's layers, in order, in percent."
    return Table(
        "Runs",
        ("settings", "seeds", "error, %", "best, %", "sparsity", "compression", "time"),
        rows,
        "Error is that of the pruned net of the last epoch on the test set, mean ± standard deviation "
        "over seeds. Best is the least of all epochs: picked by the test set itself, so it flatters. "
        f"Compression is all weights over nonzero ones.{layers}",
    ).without_empty()


def published_table(recipe: str, groups: Sequence[Group]) -> Table | None:
    """Every published row with the runs that repeat it; None where there is nothing to show."""
    found, others = comparisons(recipe, groups)
    # rows that nothing here repeats are context where a table is short, and noise where it is a whole grid
    shown = others if len(others) <= 12 else []
    rows = (*map(_compared, found), *map(_only_published, shown))
    if not rows:
        return None
    left_out = len(others) - len(shown)
    note = (
        "Differences are ours less theirs, in points. Within: less than two standard errors of the "
        "difference of two tests on that many examples. In brackets: our compression over theirs."
    )
    if left_out:
        note += f" {left_out} published rows that no run here repeats are left out."
    head = (
        "published", "error, %", "best, %", "compression", "here", "error, %", "difference", "best",
        "verdict",
    )  # fmt: skip
    sources = dict.fromkeys(row.source for row in (*(c.published for c in found), *shown))
    table = Table("Beside published numbers", head, rows, f"{note} Sources: {'; '.join(sources)}.")
    return table.without_empty()


def _theirs(row: Published) -> tuple[str, str, str]:
    best = "" if row.best is None else f"{row.best:.2f}"
    return f"{row.error:.2f}", best, "" if row.compression is None else f"{row.compression:g}"


def _compared(found: Comparison) -> Row:
    error, best, compression = _theirs(found.published)
    if (ratio := found.compression_ratio) is not None and found.published.compression != 1:
        compression += f" ({ratio:.2f})"
    verdict = found.verdict
    kind = verdict if verdict in ("better", "within", "worse") else "other"
    best_difference = "" if found.best_difference is None else f"{found.best_difference:+.2f}"
    ours = _with_spread(found.group, "error")
    if found.error is not None:
        ours = f"{found.error:.2f} ({found.published.measured})"
    return Row(
        (found.published.label, error, best, compression, found.group.label, ours, f"{found.difference:+.2f}",
         best_difference, verdict), kind,
    )  # fmt: skip


def _only_published(row: Published) -> Row:
    return Row((row.label, *_theirs(row), "", "", "", "", ""), "published")


def costs_table(groups: Sequence[Group]) -> Table:
    """Time, memory, bytes and the speed of inference."""
    return Table(
        "Time and memory",
        ("settings", "training", "an epoch", "threads", "peak memory", "checkpoint", "pruned net",
         "inference, times dense"),
        tuple(Row(_costs(own)) for own in groups),
        "Means over seeds; files, threads and inference are the first seed's. What else ran on the machine "
        "is in the times. Peak memory is that of the whole process, which only a sweep notes.",
    ).without_empty()  # fmt: skip


def _costs(own: Group) -> tuple[str, ...]:
    results, seconds = own.first.results, own.mean("seconds") or 0.0
    epochs = own.first.config.get("epochs") or 0
    speeds = [f"{row['speed_up']:.2f}x at {row['batch']}" for row in results.get("inference") or []]
    return (
        own.label, clock(seconds), f"{seconds / epochs:.2f} s" if epochs else "",
        str((results.get("machine") or {}).get("threads", "")), size(own.mean("peak_memory")),
        size(own.first.bytes_of(FILE_NAME)), size(own.first.bytes_of(MODEL_NAME)), ", ".join(speeds),
    )  # fmt: skip


def size(count: float | None) -> str:
    """Bytes as people read them."""
    if count is None:
        return ""
    for unit in ("B", "KB", "MB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
