"""Rungs 1 to 6 on any machine, and a table of every kernel (docs/gpu.md says what each rung shows)."""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
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
# a process for each CPU, of one thread: emulated and interpreted kernels are Python and fibers
SPREAD = (*PYTEST, "-n", "auto", "--dist", "worksteal")
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@dataclass
class Rung:
    """A step of the ladder: commands, each of which must succeed, run from the root of the sources."""

    number: str
    title: str
    commands: tuple[tuple[str, ...], ...]
    environment: dict[str, str] = field(default_factory=dict)
    needs_triton: bool = False


RUNGS = (
    Rung("1", "shared host and device math, on the host", ((*PYTEST, "tests/test_host_math.py"),)),
    Rung(
        "2",
        "CUDA kernels emulated: values on odd shapes, several schedules; the emulator's own tests",
        ((*SPREAD, "tests/emulator", *sorted(map(str, (ROOT / "tests/ops").glob("test_*_cuda.py")))),),
        ONE_THREAD,
    ),
    Rung("2s", "CUDA kernels emulated under sanitizers", ((sys.executable, "-m", "tests.emulator.run"),)),
    Rung(
        "3",
        "Triton kernels interpreted: bf16 and tf32 modelled, bounds, races",
        ((*SPREAD, "tests/triton", "--ignore=tests/triton/test_parity.py"),),
        {"TRITON_INTERPRET": "1", **ONE_THREAD},
        needs_triton=True,
    ),
    Rung(
        "4",
        "reference, C++ on the CPU, CUDA emulated and Triton interpreted agree",
        ((*PYTEST, "tests/triton/test_parity.py"),),
        {"TRITON_INTERPRET": "1"},
        needs_triton=True,
    ),
)

# What they ask for is counted and shown, and held to nothing here: of sparse products it depends on the
# pattern, and their tests hold it to the byte. So they do of convolutions in C++; of those the few columns of
# tiles suit bands whose height is a formula less well than the model's best.
UNHELD = (
    "spmm_product<",
    "spmm_vector<",
    "spmm_sampled<",
    "spmm_column_",
    "sparse_conv_product<",
    "lrt_product<ConvProduct<",
)
COVERED = {"nvcc": ("1", "2", "2s", "4"), "triton": ("1", "3", "4")}  # rungs that run a compiler's kernels


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
    """Rung 5: gates and budgets of nvcc's kernels and of Triton's."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # a process each, of one thread
        compiling = [pool.submit(machine_code.triton, a) for a in architectures if with_triton]
        tools = machine_code.toolchain()
        results = machine_code.nvcc(library, architectures) if tools["cuda"] else []
        for future in compiling:
            results += future.result()
    machine_code.hold_to_budgets(results, tools, update)
    return results


def hold_traffic(results: list[Result], counted: Mapping[tuple[str, str], float], complete: bool) -> bool:
    """Rung 6: note what is heavy; `complete`: the tests of every kernel have run, so none may be missing."""
    for r in results:
        found = counted.get((r.compiler, r.function))
        if r.traffic is None:
            r.traffic = found
        held = r.traffic is not None and not r.kernel.startswith(UNHELD)
        if held and round(r.traffic or 0.0, 2) > traffic.LIMIT:
            r.heavy = f"moves {r.traffic:.2f} times the least"
        elif complete and found is None and r.function:
            r.heavy = "was not run by any test"
    return not any(r.heavy for r in results)


def table(results: list[Result], passed: Mapping[str, bool]) -> str:
    """One line a kernel; architectures where its numbers are the same are folded into one."""
    folded: dict[tuple[Any, ...], list[Result]] = {}
    for r in results:
        verdicts = ("; ".join(r.wrong), r.heavy, r.traffic is not None)
        folded.setdefault((r.kernel, r.compiler, *r.row.as_json(), *verdicts), []).append(r)
    line = "{:<66} {:<6} {:<20} {:>4} {:>5} {:>6} {:>6} {:>14} {:>7}  {}".format
    titles = ("kernel", "by", "sm", "regs", "stack", "shared", "occup.", "instructions", "traffic", "rungs")
    lines = [line(*titles)]
    for key, same in sorted(folded.items(), key=lambda item: str(item[0])):
        kernel, compiler, registers, stack, shared, held, instructions, unit, wrong, heavy, _ = key
        moved = [r.traffic for r in same if r.traffic is not None]
        rungs = [n if passed[n] else f"{n}:FAIL" for n in COVERED[compiler] if n in passed]
        rungs.append(f"5:FAIL {wrong}" if wrong else "5")
        rungs += [f"6:FAIL {heavy}"] if heavy else ["6"] if moved else []
        where = " ".join(r.architecture.removeprefix("sm_") for r in same)
        lines.append(
            line(
                kernel[:66], compiler, where, registers, stack, shared, f"{held:.0%}",
                f"{instructions:g}/{unit}", f"{max(moved):.2f}" if moved else "-",
                " ".join(rungs),
            )
        )  # fmt: skip
    return "\n".join(lines)


def main(
    architectures: tuple[str, ...] = ARCHITECTURES,
    library: Path = LIBRARY,
    update: bool = False,
    with_triton: bool = True,
    only: tuple[str, ...] = (),
    where_possible: bool = False,
) -> int:
    """Run the ladder, or the rungs in `only`; 0 if all of it holds.

    `where_possible` leaves out what cannot run here: Triton's kernels without Triton, nvcc's where the
    library was built without CUDA.
    """
    no_triton = where_possible and importlib.util.find_spec("triton") is None
    if no_triton:
        print("== Triton is not installed: its kernels are not checked (rungs 3 to 6)", flush=True)
        with_triton = False
    passed: dict[str, bool] = {}
    summary: list[str] = []

    def note(number: str, title: str, work: Callable[[], tuple[bool, str]]) -> None:
        print(f"== rung {number}: {title}", flush=True)
        start = time.monotonic()
        passed[number], said = work()
        verdict = "pass" if passed[number] else "FAIL"
        took = time.monotonic() - start
        summary.append(f"rung {number:<2} {verdict} {took:5.0f} s  {title}: {said}")
        print(f"   {verdict}: {said}", flush=True)

    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        reported = Path(folder, "traffic.jsonl")
        os.environ["VDROPKERN_TRAFFIC_REPORT"] = str(reported)
        for rung in RUNGS:
            if (not only or rung.number in only) and not (rung.needs_triton and no_triton):
                note(rung.number, rung.title, functools.partial(run_rung, rung))
        counted = traffic.counted(reported)
    if not only or "5" in only:
        results: list[Result] = []

        def gates() -> tuple[bool, str]:
            results.extend(run_machine_code(architectures, library, update, with_triton))
            wrong = sum(bool(r.wrong) for r in results)
            by = Counter(r.compiler for r in results)
            kernels = " and ".join(f"{by[name]} by {name}" for name in COVERED)
            return not wrong and (where_possible or bool(by["nvcc"])), f"{kernels}, {wrong} wrong"

        def bytes_moved() -> tuple[bool, str]:
            good = hold_traffic(results, counted, complete=not only)
            print(table(results, passed))
            held = [r for r in results if not r.kernel.startswith(UNHELD)]
            worst = max((r.traffic for r in held if r.traffic is not None), default=0.0)
            return good, f"at most {worst:.2f} times the least"

        note("5", "machine code: gates and budgets", gates)
        note("6", "bytes moved, counted", bytes_moved)
    print("\n" + "\n".join(summary) + f"\nall in {time.monotonic() - begin:.0f} s")
    return 0 if all(passed.values()) else 1
