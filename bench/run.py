"""Run cases, each in a process of its own per allocator setting, and gather what they measured."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import cases, specs

ROOT = Path(__file__).resolve().parent.parent

# Read once, when a process starts: hence the processes. "thp" asks torch's CPU allocator for huge pages;
# "heap-kept" asks glibc to give no memory back, so that nothing is faulted in twice.
MEMORY = {
    "default": {},
    "thp": {"THP_MEM_ALLOC_ENABLE": "1"},
    "heap-kept": {
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
        "MALLOC_TOP_PAD_": str(1 << 28),
    },
}
_ALL_VARIABLES = {name for setting in MEMORY.values() for name in setting}
_SAME = ("cpu", "cpus", "system", "python", "torch", "vdropkern", "commit", "huge_pages")  # to be merged
_TIMEOUT_S = 1200  # a process that hangs is stopped, and reported


@dataclass(frozen=True)
class Options:
    """What is run. Empty `contenders`: the default ones; `rounds` None: the table's own minimum."""

    chosen: Sequence[specs.Case]
    contenders: list[str] = field(default_factory=list)
    memory: Sequence[str] = tuple(MEMORY)
    rounds: int | None = None
    quick: bool = False  # a tenth of the time budgets, 5 rounds at least, no peers
    threads: int = 2
    isa: str | None = None

    def jobs(self) -> list[tuple[specs.Case, str]]:
        """(case, allocator setting) in the order in which they are run."""
        return [(case, m) for case in self.chosen for m in MEMORY if m in self.memory and m in case.memory]


def _environment(memory: str, threads: int) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name not in _ALL_VARIABLES}
    return inherited | {"OMP_NUM_THREADS": str(threads)} | MEMORY[memory]


def run_one(case: specs.Case, memory: str, options: Options, gated: bool = False) -> dict[str, Any]:
    """Time `case` in a fresh process; a process that dies becomes a result of status "failed".

    `gated`: the case's gate was green just now, under another allocator setting.
    """
    failed = {"case": case.name, "memory": memory, "status": "failed"}
    with tempfile.TemporaryDirectory(prefix="vdropkern-bench-") as folder:
        result = Path(folder, "result.json")
        request = {
            "case": case.name,
            "memory": memory,
            "contenders": options.contenders,
            "quick": options.quick,
            "gated": gated,
            "rounds": options.rounds or (5 if options.quick else cases.TABLES[case.table].rounds),
            # with the heap kept only the core contenders are timed
            "budget_s": case.budget_s
            * (0.1 if options.quick else 1.0)
            * (0.4 if memory == "heap-kept" else 1.0),
            "threads": options.threads,
            "isa": options.isa,
            "result": str(result),
        }
        command = [sys.executable, "-m", "bench.worker", json.dumps(request)]
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=_environment(memory, options.threads),
                stderr=subprocess.PIPE,
                text=True,
                timeout=_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired:
            return failed | {"why": f"no end in {_TIMEOUT_S} s"}
        if done.returncode == 0:
            found: dict[str, Any] = json.loads(result.read_text())
            return found
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return failed | {"why": lines[-1], "stderr": done.stderr}


def run(options: Options, started: Callable[[specs.Case, str], None]) -> Iterator[dict[str, Any]]:
    """Results one by one; `started` is called before each."""
    status: dict[str, str] = {}
    for case, memory in options.jobs():
        if status.get(case.name) == "red":
            continue
        started(case, memory)
        result = run_one(case, memory, options, gated=status.get(case.name) == "ok")
        status[case.name] = result["status"]
        yield result


def gather(results: Sequence[dict[str, Any]], options: Options) -> dict[str, Any]:
    """The JSON document of a whole run; the machine is that of the results, which must agree on it."""
    machine = next((r["machine"] for r in results if "machine" in r), None)
    return {
        "format": 1,
        "quick": options.quick,
        "part": bool(options.contenders) or options.rounds is not None,
        "machine": machine,
        "threads": options.threads,
        "held_to_isa": options.isa,
        "isa": next((r["isa"] for r in results if r.get("isa")), None),
        "backend": next((r["backend"] for r in results if "backend" in r), None),
        "results": [{k: v for k, v in r.items() if k not in ("machine", "backend")} for r in results],
    }


def merge(documents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One document of several runs; of a case that was run twice under one setting the later result counts.

    Raises:
        ValueError: the runs differ in machine, versions, threads or instruction set.
    """
    merged, *others = documents
    results = {(r["case"], r["memory"]): r for document in documents for r in document["results"]}
    for other in others:
        for name in ("threads", "held_to_isa", "isa"):
            if merged[name] != other[name]:
                raise ValueError(f"the runs differ in {name}: {merged[name]} and {other[name]}")
        for name in _SAME:
            if merged["machine"][name] != other["machine"][name]:
                there = f"{merged['machine'][name]} and {other['machine'][name]}"
                raise ValueError(f"the runs differ in {name}: {there}")
    flags = {name: any(d.get(name) for d in documents) for name in ("quick", "part", "interrupted")}
    order = {case.name: index for index, case in enumerate(cases.CASES)}
    ordered = sorted(results.values(), key=lambda r: (order[r["case"]], [*MEMORY].index(r["memory"])))
    return merged | flags | {"results": ordered}


MAX_THREADS = 1024


def whole_number(most: int) -> Callable[[str], int]:
    """A type for argparse: a whole number from 1 to `most`."""

    def parse(text: str) -> int:
        if not text.isdecimal() or not 1 <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} given, 1 to {most:,} accepted")
        return int(text)

    return parse


def write_whole(path: Path, data: bytes) -> None:
    """Write `path` whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
