"""Several runs beside each other and beside published numbers: read, grouped over seeds, judged."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ._study_report import WRITTEN as STUDY_FILES
from .checkpoint import FILE_NAME, CheckpointError
from .published import MEASURED, Published, published_for
from .results import FORMAT, MODEL_NAME, RESULTS_NAME, read_results
from .sweep import STAMP_NAME, SWEEP_NAME


@dataclass(frozen=True)
class RunRecord:
    """A finished run: what its results.json holds, and its folder where there is one."""

    results: Mapping[str, Any]
    folder: Path | None

    @property
    def recipe(self) -> str:
        return str(self.results["recipe"])

    @property
    def config(self) -> Mapping[str, Any]:
        return dict(self.results["config"])

    @property
    def history(self) -> Sequence[Mapping[str, float]]:
        return list(self.results.get("history") or [])

    @property
    def error(self) -> float:
        """Of the net of the last epoch, pruned, in percent."""
        test = self.results["test"]
        return float(test.get("pruned_error", test["error"]))

    @property
    def best_error(self) -> float | None:
        """The least of all epochs, which the test set itself has picked."""
        if "best_error" in self.results:
            return float(self.results["best_error"])
        errors = [record["test_error"] for record in self.history if "test_error" in record]
        return min(errors) if errors else None

    def errors(self, measured: str) -> tuple[float, float | None] | None:
        """Last and best error as `Published.measured` has it; None if the run has none such."""
        if measured == "test":
            return self.error, self.best_error
        accuracy = self.results.get("accuracy") or {}
        if measured == "last ten":
            found = accuracy.get("test")
            return (100 - found["mean_of_last_ten"], self.best_error) if found else None
        found = accuracy.get(measured)
        return (100 - found["last"], 100 - found["best"]) if found else None

    @property
    def compression(self) -> float | None:
        """All weights over nonzero ones; None where none is left, or they are not counted."""
        total = self.results.get("total") or {}
        return total["weights"] / total["nonzero"] if total.get("nonzero") else None

    @property
    def seconds(self) -> float:
        return float(self.results["seconds"]["training"])

    @property
    def peak_memory(self) -> int | None:
        """Bytes its process held at most, where a sweep has noted that."""
        return self._noted("peak_memory")

    def bytes_of(self, name: str) -> int | None:
        """The size of one of its files, where it is there."""
        if self.folder is not None and (self.folder / name).is_file():
            return (self.folder / name).stat().st_size
        return (self.results.get("bytes") or {}).get(name)

    def _noted(self, name: str) -> Any:
        if name in self.results:
            return self.results[name]
        try:
            assert self.folder is not None
            return json.loads((self.folder / STAMP_NAME).read_text(encoding="utf-8"))[name]
        except (AssertionError, OSError, ValueError, KeyError):
            return None

    def slim(self) -> dict[str, Any]:
        """results.json without what is bulky or of its machine's folders, with what its own folder tells."""
        kept = {name: value for name, value in self.results.items() if name != "history"}
        for name, dropped in (("data", "source"), ("versions", "os")):
            kept[name] = {key: value for key, value in kept.get(name, {}).items() if key != dropped}
        sizes = {name: self.bytes_of(name) for name in (FILE_NAME, MODEL_NAME)}
        return {**kept, "best_error": self.best_error, "peak_memory": self.peak_memory, "bytes": sizes}


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seeds alone. label: the settings in which it differs from other groups."""

    label: str
    runs: tuple[RunRecord, ...]

    @property
    def first(self) -> RunRecord:
        return self.runs[0]

    def values(self, name: str) -> list[float]:
        """An attribute of `RunRecord`, of every run that has it."""
        found = [getattr(run, name) for run in self.runs]
        return [value for value in found if value is not None]

    def mean(self, name: str) -> float | None:
        values = self.values(name)
        return statistics.fmean(values) if values else None

    def spread(self, name: str) -> float | None:
        """Standard deviation over seeds, from two runs on."""
        values = self.values(name)
        return statistics.stdev(values) if len(values) > 1 else None


def collect(paths: Iterable[Path]) -> tuple[list[RunRecord], list[str]]:
    """The finished runs in folders of runs and sweeps (or files of slim ones), and unfinished cells.

    Raises:
        CheckpointError: there is no run, or one whose results cannot be read.
    """
    records: dict[str, RunRecord] = {}
    missing: list[str] = []
    for path in paths:
        if path.is_file():
            runs = [RunRecord(_check(path, run), None) for run in _stored(path)]
            records |= {f"{path}: {i}": run for i, run in enumerate(runs)}
            continue
        found = [path] if (path / RESULTS_NAME).exists() else _inside(path, missing)
        if not found:
            raise CheckpointError(f"{path}: no finished run or sweep there; has the run finished?")
        for folder in found:
            records[str(folder.resolve())] = RunRecord(_check(folder, read_results(folder)), folder)
    return list(records.values()), missing


def _stored(path: Path) -> list[Any]:
    """What a file holds under "runs"."""
    try:
        return list(json.loads(path.read_text(encoding="utf-8"))["runs"])
    except (ValueError, KeyError, TypeError) as err:
        raise CheckpointError(f"{path}: a file of stored runs expected ({err})") from err


def _inside(folder: Path, missing: list[str]) -> list[Path]:
    """The run folders of a sweep, or those that lie in any folder; estimator studies compare to nothing."""
    if (folder / SWEEP_NAME).exists():
        cells = [folder / name for name in _cells(folder / SWEEP_NAME)]
        done = [cell for cell in cells if (cell / RESULTS_NAME).exists()]
        missing += [cell.name for cell in cells if cell not in done]
        return done
    found = sorted(path.parent for path in folder.glob(f"*/{RESULTS_NAME}"))
    return [run for run in found if not all((run / name).exists() for name in STUDY_FILES)]


def _cells(path: Path) -> list[str]:
    """The names of a sweep's cells."""
    try:
        return [str(cell["name"]) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    except (ValueError, KeyError, TypeError) as err:
        raise CheckpointError(
            f"{path}: damaged ({err!r}); without it, the sweep's command writes it anew"
        ) from err


def _check(where: Path, results: Any) -> Mapping[str, Any]:
    needed = ("recipe", "config", "data", "test", "seconds")
    if not isinstance(results, dict) or results.get("format") != FORMAT:
        raise CheckpointError(f"{where}: results of a training in format {FORMAT} expected")
    if absent := [name for name in needed if name not in results]:
        raise CheckpointError(f"{where}: results without {', '.join(absent)} compare to nothing")
    return results


def group(records: Iterable[RunRecord]) -> dict[str, list[Group]]:
    """The groups of each recipe, in the order in which their first runs were given."""
    by_recipe: dict[str, dict[str, list[RunRecord]]] = {}
    for record in records:
        key = json.dumps([_settings(record), record.results["data"].get("sha256")], sort_keys=True)
        by_recipe.setdefault(record.recipe, {}).setdefault(key, []).append(record)
    return {recipe: _labelled(list(groups.values())) for recipe, groups in by_recipe.items()}


def _settings(record: RunRecord) -> dict[str, Any]:
    return {name: value for name, value in record.config.items() if name not in ("recipe", "seed")}


def _labelled(groups: list[list[RunRecord]]) -> list[Group]:
    settings = [_settings(runs[0]) for runs in groups]
    names = dict.fromkeys(name for one in settings for name in one)
    varied = [n for n in names if n != "method" and len({repr(one.get(n)) for one in settings}) > 1]
    data = [runs[0].results["data"] for runs in groups]
    labels = []
    for one, source in zip(settings, data, strict=True):
        words = [str(one["method"])] if "method" in one else []
        words += [f"{name} {_word(one.get(name))}" for name in varied]
        if len({other.get("sha256") for other in data}) > 1:
            words.append(str(source.get("name", "")))
        labels.append(", ".join(words) or "all")
    return [Group(label, tuple(runs)) for label, runs in zip(labels, groups, strict=True)]


def _word(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Comparison:
    """A group beside a published row. Differences are ours less theirs, in points of percent.

    error: ours, measured as theirs was, if it is not that of the mean weights; else None.
    verdict: better, within or worse by the error; "not comparable: ..." where the run is of another scale.
    """

    group: Group
    published: Published
    difference: float
    best_difference: float | None
    verdict: str
    error: float | None = None

    @property
    def compression_ratio(self) -> float | None:
        """Our compression over theirs."""
        ours, theirs = self.group.mean("compression"), self.published.compression
        return ours / theirs if ours and theirs else None


def margin(error: float, test_size: int) -> float:
    """Two standard errors of the difference of two test errors (percent) on `test_size` examples each."""
    p = min(max(error / 100, 0.5 / test_size), 1 - 0.5 / test_size)
    return 200 * math.sqrt(2 * p * (1 - p) / test_size)


def compare(own: Group, published: Published) -> Comparison:
    """Judge a group by a published row."""
    reasons = _other_scale(own.first, published)
    pairs = [pair for run in own.runs if (pair := run.errors(published.measured))]
    if not pairs:
        reasons.append(f"{MEASURED[published.measured]} not measured")
        pairs = [(run.error, run.best_error) for run in own.runs]
    error = statistics.fmean(last for last, _ in pairs)
    bests = [best for _, best in pairs if best is not None]
    best = statistics.fmean(bests) if bests else None
    difference = error - published.error
    within = margin(published.error, published.protocol.test_size)
    if reasons:
        verdict = f"not comparable: {', '.join(reasons)}"
    elif abs(difference) <= within:
        verdict = "within"
    else:
        verdict = "better" if difference < 0 else "worse"
    best_difference = best - published.best if best is not None and published.best is not None else None
    otherwise = error if published.measured != "test" else None
    return Comparison(own, published, difference, best_difference, verdict, otherwise)


def _other_scale(record: RunRecord, published: Published) -> list[str]:
    """In what a run falls short of the published protocol."""
    protocol, data, reasons = published.protocol, record.results["data"], []
    epochs = record.config.get("epochs")
    if protocol.epochs and epochs is not None and epochs < protocol.epochs:
        reasons.append(f"{epochs} of {protocol.epochs} epochs")
    if (size := data.get("train_size", protocol.train_size)) < protocol.train_size:
        reasons.append(f"{size:,} of {protocol.train_size:,} training examples")
    elif data.get("note"):
        reasons.append(str(data["note"]))
    return reasons


def comparisons(recipe: str, groups: Sequence[Group]) -> tuple[list[Comparison], list[Published]]:
    """Each group beside every row it repeats, and the recipe's rows that no run here repeats."""
    rows = published_for(recipe)
    found = [
        compare(own, row) for row in rows for own in groups if row.fits(recipe, own.first.config)
    ]  # fmt: skip
    taken = {id(comparison.published) for comparison in found}
    return found, [row for row in rows if id(row) not in taken]
