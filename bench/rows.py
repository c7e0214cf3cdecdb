"""A run's JSON as rows: what the tables, the Markdown and the plot are made of."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any

from . import cases, specs
from .stats import Spread, paired_ratio, spread


@dataclass(frozen=True)
class Row:
    """One contender of one case under one allocator setting."""

    case: specs.Case
    memory: str
    name: str
    label: str
    ms: Spread | None  # None: not timed, `status` says why
    ratio: Spread | None  # time over the baseline's, of paired rounds; None for a baseline
    baseline: str
    faults: float = 0.0
    system_ms: float = 0.0
    saved_bytes: int | None = None
    peak_bytes: int | None = None
    status: str = "ok"  # or "missing", "failed", "wrong"

    @property
    def target(self) -> specs.Target | None:
        """The case's target, where it is this contender's and holds under this allocator setting."""
        target = self.case.target
        if target is None or target.contender != self.name or self.memory == "heap-kept":
            return None
        return target

    def measured(self) -> Spread | None:
        """The number that the table's `shows` asks for: ratio, speed-up or microseconds."""
        shows = cases.TABLES[self.case.table].shows
        if shows == "us":
            ms = self.ms
            return None if ms is None else Spread(1e3 * ms.median, 1e3 * ms.p20, 1e3 * ms.p80, ms.n)
        if self.ratio is None or shows == "ratio":
            return self.ratio
        return self.ratio.inverse()

    def verdict(self) -> str | None:
        """``aim``, ``must`` or ``missed``; None without a target or a measurement."""
        target, measured = self.target, self.measured()
        if target is None or measured is None:
            return None

        def reached(goal: float | None) -> bool:
            if goal is None:
                return False
            return measured.median >= goal if target.kind == "speedup" else measured.median <= goal

        return "aim" if reached(target.aim) else "must" if reached(target.must) else "missed"


def _row(case: specs.Case, result: dict[str, Any], name: str) -> Row:
    found, record = result["contenders"], result["contenders"][name]
    baseline = record.get("baseline") or cases.TABLES[case.table].baseline
    common: dict[str, Any] = {
        "case": case,
        "memory": result["memory"],
        "name": name,
        "label": record["label"],
        "baseline": baseline,
    }
    if record["status"] != "ok":
        return Row(**common, ms=None, ratio=None, status=record["status"])
    base = found.get(baseline, {"status": "absent"})
    comparable = base["status"] == "ok" and name != baseline
    return Row(
        **common,
        ms=spread(record["ms"]),
        ratio=paired_ratio(record, base) if comparable else None,
        faults=median(record["minor_faults"]),
        system_ms=median(record["system_ms"]),
        saved_bytes=record.get("saved_bytes"),
        peak_bytes=record.get("peak_bytes"),
    )


def rows(document: dict[str, Any]) -> list[Row]:
    """Rows of every case that passed its gate, in the order in which they were run."""
    made: list[Row] = []
    for result in document["results"]:
        if result["status"] == "ok":
            case = cases.by_name(result["case"])
            made += [_row(case, result, name) for name in result["contenders"]]
    return made


def problems(document: dict[str, Any]) -> list[str]:
    """A line for every case that has no times, with the reason; these make a run fail."""
    lines = []
    for result in document["results"]:
        where = f"{result['case']} ({result['memory']})"
        if result["status"] == "red":
            lines.append(f"{where}: RED GATE, no speed is told: {'; '.join(result['gate'])}")
        elif result["status"] == "failed":
            lines.append(f"{where}: failed: {result['why']}")
    return lines


def notes(document: dict[str, Any]) -> list[str]:
    """A line for every contender that was not timed, with the reason: said once, whatever the cases."""
    records = [r for result in document["results"] for r in result.get("contenders", {}).values()]
    lines = [f"{r['label']}: {r['status']}: {r['why']}" for r in records if r["status"] != "ok"]
    return list(dict.fromkeys(lines))
