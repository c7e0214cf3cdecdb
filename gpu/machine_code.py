"""Rung 5: what nvcc and Triton made of the kernels, held to the rules of `gates` and to the budgets."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from . import budgets, gates, occupancy, sass, traffic
from .budgets import Row

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Result:
    """One kernel on one architecture."""

    compiler: str
    architecture: str
    kernel: str
    row: Row
    wrong: list[str] = field(default_factory=list)
    function: str = ""  # whose build this is, as tests name it
    traffic: float | None = None  # bytes moved over the least
    heavy: str = ""  # what is wrong with them


def dynamic_shared() -> dict[str, int]:
    """Dynamic shared memory by kernel: the launchers' own constants, compiled for the host."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "shared_bytes")
        emulator = ROOT / "tests/emulator"
        sources = [ROOT / "gpu/shared_bytes.cpp", emulator / "machine.cpp", emulator / "memory.cpp"]
        includes = [f"-I{ROOT}/tests", f"-I{ROOT}/csrc"]
        command = [
            os.environ.get("CXX", "c++"),
            "-std=c++17",
            "-DVDK_EMULATED",
            "-w",
            *includes,
            *map(str, sources),
        ]
        subprocess.run([*command, "-o", str(program)], check=True)
        printed = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    return {sass.short(name): int(n) for name, n in re.findall(r"(.*)\t(\d+)", printed)}


def nvcc(library: Path, architectures: tuple[str, ...] = ()) -> list[Result]:
    """Every kernel in a compiled library."""
    dynamic = dynamic_shared()
    results = []
    for kernel in sass.read_library(library):
        if architectures and kernel.architecture not in architectures:
            continue
        unit, instructions = gates.cost(kernel)
        takes_dynamic = kernel.name.startswith("lrt_") and "Product<" in kernel.name
        takes_dynamic |= "<HeadProduct<" in kernel.name or kernel.name.startswith("head_losses<")
        if (takes_dynamic or kernel.name.startswith("xnor_product")) and kernel.name not in dynamic:
            raise RuntimeError(f"gpu/shared_bytes.cpp does not list {kernel.name}")
        shared = kernel.shared + dynamic.get(kernel.name, 0)
        held = occupancy.share(kernel.architecture, kernel.threads, kernel.registers, shared)
        row = Row(kernel.registers, kernel.stack, shared, round(held, 3), round(instructions, 2), unit)
        wrong = [*gates.problems(kernel)]
        if held == 0 and not too_large(kernel.architecture, shared):
            wrong.append("cannot be launched")
        blocks = occupancy.blocks(kernel.architecture, kernel.threads, kernel.registers, shared)
        product = kernel.name.startswith(("lrt_product", "xnor_product")) or "<HeadProduct<" in kernel.name
        moved = traffic.of_product(kernel.architecture, kernel.name, blocks) if product else None
        results.append(Result("nvcc", kernel.architecture, kernel.name, row, wrong, kernel.name, moved))
    return results


def too_large(architecture: str, shared: int) -> bool:
    return shared > occupancy.LIMITS[architecture].shared_block * 1024


def triton(architecture: str) -> list[Result]:
    """Every Triton kernel with every tile shipped for an architecture, in a process of its own."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.triton.aot", architecture],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode not in (0, 1) or not lines:  # 1: a kernel has problems, which its line tells
        raise RuntimeError(f"tests.triton.aot ended with {done.returncode}: {done.stderr[-2000:]}")
    results = []
    for line in lines:
        held = occupancy.share(architecture, 32 * line["warps"], line["registers"], line["shared"])
        row = Row(
            line["registers"], line["stack"] + line["local"], line["shared"], round(held, 3),
            line["per_output"], "element",
        )  # fmt: skip
        function, moved = line["function"], line["traffic"]
        results.append(Result("triton", architecture, line["kernel"], row, line["problems"], function, moved))
    return results


def toolchain() -> dict[str, str]:
    """What made the numbers: of CUDA what the library was built with."""
    code = "from vdropkern import _devices; print(_devices.cuda_build()[0])"
    version = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found = {"cuda": version.stdout.strip()}
    with contextlib.suppress(metadata.PackageNotFoundError):
        found["triton"] = metadata.version("triton")
    return found


def hold_to_budgets(results: list[Result], tools: dict[str, str], update: bool) -> None:
    """Add to each result what is beyond its budget; or write what is as the new budgets."""
    for architecture in sorted({r.architecture for r in results}):
        mine = [r for r in results if r.architecture == architecture]
        rows: dict[str, dict[str, Row]] = {}
        for r in mine:
            rows.setdefault(r.compiler, {})[r.kernel] = r.row
        if update:
            before_tools, before = budgets.read(architecture)
            used = {name: version for name, version in tools.items() if version}
            budgets.write(architecture, {**before_tools, **used}, {**before, **rows})
            continue
        for compiler, kernels in rows.items():
            complaints = budgets.compare(compiler, architecture, kernels)
            for r in mine:
                if r.compiler == compiler:
                    r.wrong += complaints.pop(r.kernel, [])
            for name, wrong in complaints.items():
                mine.append(Result(compiler, architecture, name, Row(0, 0, 0, 0, 0, "-"), wrong))
                results.append(mine[-1])
