"""Rungs 1 to 6 on any machine, and a table of every kernel (docs/gpu.md says what each rung shows)."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import time
from collections.abc import Callable
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
    architectures: tuple[str, ...], library: Path, update: bool, with_triton: bool
) -> list[Result]:
    """Rung 5: gates and budgets of nvcc's kernels, then of Triton's."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # a process each, of one thread
        compiling = [pool.submit(machine_code.triton, a) for a in architectures if with_triton]
        results = machine_code.nvcc(library, architectures)
        for future in compiling:
            results += future.result()
    machine_code.hold_to_budgets(results, machine_code.toolchain(), update)
    return results


def table(results: list[Result]) -> str:
    """One line a kernel; architectures where its numbers are the same are folded into one."""
    folded: dict[tuple[Any, ...], list[str]] = {}
    for r in results:
        key = (r.kernel, r.compiler, tuple(r.row.as_json()), "; ".join(r.wrong))
        folded.setdefault(key, []).append(r.architecture.removeprefix("sm_"))
    line = "{:<64} {:<6} {:<22} {:>4} {:>5} {:>7} {:>6} {:>15} {:>8}  {}".format
    lines = [
        line("kernel", "by", "sm", "regs", "stack", "shared", "occup.", "instructions", "traffic", "rung 5")
    ]
    for key, architectures in sorted(folded.items(), key=lambda item: str(item[0])):
        kernel, compiler, (registers, stack, shared, held, instructions, unit), wrong = key
        moved = traffic.ratio(kernel)
        lines.append(
            line(
                kernel[:64], compiler, " ".join(architectures), registers, stack, shared, f"{held:.0%}",
                f"{instructions:g}/{unit}", "-" if moved is None else f"{moved:.2f}",
                f"FAIL: {wrong}" if wrong else "pass",
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
    outcome: list[tuple[str, str, bool, float, str]] = []

    def note(number: str, title: str, work: Callable[[], tuple[bool, str]]) -> None:
        print(f"== rung {number}: {title}", flush=True)
        start = time.monotonic()
        passed, said = work()
        outcome.append((number, title, passed, time.monotonic() - start, said))
        print(f"   {'pass' if passed else 'FAIL'} in {outcome[-1][3]:.0f} s: {said}", flush=True)

    for rung in () if only_machine_code else RUNGS:
        note(rung.number, rung.title, functools.partial(run_rung, rung))

    def machine() -> tuple[bool, str]:
        results = run_machine_code(architectures, library, update, with_triton)
        print(table(results))
        wrong = sum(bool(r.wrong) for r in results)
        return not wrong, f"{len(results)} kernels, {wrong} wrong"

    note("5", "machine code: gates and budgets", machine)
    print()
    for number, title, passed, seconds, said in outcome:
        print(f"rung {number:<3} {'pass' if passed else 'FAIL'} {seconds:6.0f} s  {title}: {said}")
    print(f"all in {sum(o[3] for o in outcome):.0f} s")
    return 0 if all(o[2] for o in outcome) else 1
