"""Rungs 1 to 6 on any machine, and a table of every kernel (docs/gpu.md says what each rung shows)."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import machine_code, traffic
from .machine_code import ROOT, Result

ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
LIBRARY = ROOT / "vdropkern" / "_C.abi3.so"
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")


@dataclass
class Rung:
    """A step of the ladder: commands, each of which must succeed, run from the root of the sources."""

    number: str
    title: str
    commands: tuple[tuple[str, ...], ...]
    environment: dict[str, str] = field(default_factory=dict)


RUNGS = (
    Rung("1", "shared host and device math, on the host", ((*PYTEST, "tests/test_host_math.py"),)),
    Rung(
        "2",
        "CUDA kernels emulated: values on odd shapes, several schedules; the emulator's own tests",
        ((*PYTEST, "tests/emulator", *sorted(map(str, (ROOT / "tests/ops").glob("test_*_cuda.py")))),),
    ),
    Rung("2s", "CUDA kernels emulated under sanitizers", ((sys.executable, "-m", "tests.emulator.run"),)),
    Rung(
        "3",
        "Triton kernels interpreted: bf16 and tf32 modelled, bounds, races; traffic (6)",
        ((*PYTEST, "tests/triton"),),
        {"TRITON_INTERPRET": "1"},
    ),
)

COVERED = {"nvcc": ("1", "2", "2s"), "triton": ("1", "3")}  # rungs that run a compiler's kernels


def run_rung(rung: Rung) -> tuple[bool, str]:
    """(passed, what it said last)."""
    for command in rung.commands:
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **rung.environment}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        said = done.stdout.strip().splitlines() or [""]
        if done.returncode != 0:
            print("\n".join(said[-40:]), flush=True)
            return False, said[-1]
    return True, said[-1]


def run_machine_code(
    architectures: tuple[str, ...], library: Path, update: bool, with_triton: bool, reported: Path
) -> list[Result]:
    """Rung 5: gates and budgets of nvcc's kernels and of Triton's, with the traffic that rung 6 counts."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # a process each, of one thread
        compiling = [pool.submit(machine_code.triton, a) for a in architectures if with_triton]
        results = machine_code.nvcc(library, architectures)
        for future in compiling:
            results += future.result()
    machine_code.hold_to_budgets(results, machine_code.toolchain(), update)
    of_triton = traffic.reported(reported)
    for r in results:
        if r.compiler == "nvcc":
            r.traffic = traffic.ratio(r.kernel, r.architecture, r.blocks)
        else:
            r.traffic = of_triton.get((r.architecture, *traffic.product_of(r.kernel)))
        if r.traffic is not None and round(r.traffic, 2) > traffic.LIMIT:
            r.wrong.append(f"moves {r.traffic:.2f} times the least")
    return results


def table(results: list[Result], passed: Mapping[str, bool]) -> str:
    """One line a kernel; architectures where its numbers are the same are folded into one."""
    folded: dict[tuple[Any, ...], list[Result]] = {}
    for r in results:
        folded.setdefault((r.kernel, r.compiler, *r.row.as_json(), "; ".join(r.wrong)), []).append(r)
    line = "{:<66} {:<6} {:<20} {:>4} {:>5} {:>6} {:>6} {:>14} {:>7}  {}".format
    titles = ("kernel", "by", "sm", "regs", "stack", "shared", "occup.", "instructions", "traffic", "rungs")
    lines = [line(*titles)]
    for key, same in sorted(folded.items(), key=lambda item: str(item[0])):
        kernel, compiler, registers, stack, shared, held, instructions, unit, wrong = key
        moved = [r.traffic for r in same if r.traffic is not None]
        # the rungs that checked it before this one
        rungs = " ".join(n if passed[n] else f"{n}:FAIL" for n in COVERED[compiler] if n in passed)
        where = " ".join(r.architecture.removeprefix("sm_") for r in same)
        lines.append(
            line(
                kernel[:66], compiler, where, registers, stack, shared, f"{held:.0%}",
                f"{instructions:g}/{unit}", f"{max(moved):.2f}" if moved else "-",
                f"{rungs} 5:FAIL {wrong}" if wrong else f"{rungs} 5".strip(),
            )
        )  # fmt: skip
    return "\n".join(lines)


def main(
    architectures: tuple[str, ...] = ARCHITECTURES,
    library: Path = LIBRARY,
    update: bool = False,
    with_triton: bool = True,
    only_machine_code: bool = False,
) -> int:
    """Run the ladder; 0 if all of it holds."""
    passed: dict[str, bool] = {}
    summary: list[str] = []

    def note(rung: Rung, work: Callable[[], tuple[bool, str]]) -> None:
        print(f"== rung {rung.number}: {rung.title}", flush=True)
        start = time.monotonic()
        passed[rung.number], said = work()
        verdict = "pass" if passed[rung.number] else "FAIL"
        took = time.monotonic() - start
        summary.append(f"rung {rung.number:<2} {verdict} {took:5.0f} s  {rung.title}: {said}")
        print(f"   {verdict}: {said}", flush=True)

    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        reported = Path(folder, "triton.jsonl")
        os.environ["VDROPKERN_TRITON_REPORT"] = str(reported)
        for rung in () if only_machine_code else RUNGS:
            note(rung, functools.partial(run_rung, rung))

        def machine() -> tuple[bool, str]:
            before = dict(passed)
            results = run_machine_code(architectures, library, update, with_triton, reported)
            print(table(results, before))
            wrong = sum(bool(r.wrong) for r in results)
            return not wrong, f"{len(results)} kernels, {wrong} wrong"

        note(Rung("5", "machine code: gates and budgets", ()), machine)
    print("\n" + "\n".join(summary) + f"\nall in {time.monotonic() - begin:.0f} s")
    return 0 if all(passed.values()) else 1
