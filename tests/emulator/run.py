"""Run every CUDA kernel on the emulated GPU under the sanitizers, and see that known mistakes are caught.

    python tests/emulator/run.py [--schedules N] [--jobs N] [--only TEXT]

Builds one executable with the address and undefined-behaviour sanitizers and one with the thread sanitizer
(in build/emulator, with ninja: only what changed), then runs every check of check_*.cpp and every kernel of
mutants.cuh in three modes:

    address     out of bounds, use of memory that is gone, undefined behaviour
    thread      races between the threads of a block
    unordered   the same, with races between blocks too

Prints one JSON object a line, a kernel or mutant each. Exit code 1 if a right kernel was blamed, a value was
wrong, or a mistake passed unnoticed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILD = ROOT / "build" / "emulator"
SANITIZERS = {
    "address": "-fsanitize=address,undefined -fno-sanitize-recover=all",
    "thread": "-fsanitize=thread",
}
MODES = {"address": "address", "thread": "thread", "unordered": "thread"}  # mode -> executable
# the modes that must notice a mistake; all of them where nothing is said
CAUGHT_BY = {
    "product": set(),
    "sum": set(),
    "gather": set(),
    "select": set(),
    "masked": set(),
    "rows": set(),
    "patches": set(),
    # a race, which values show only under some schedules
    "no barrier after wait": {"thread", "unordered"},
    "no barrier at loop end": {"thread", "unordered"},
    "no barrier before read": {"thread", "unordered"},
    "no sync before write": {"thread", "unordered"},
    "no barrier before count": {"thread", "unordered"},
    "no barrier after count": {"thread", "unordered"},
    "plain count": {"thread", "unordered"},
    "one buffer of sums": {"thread", "unordered"},
    "no barrier after conversion": {"thread", "unordered"},
    # by no means but that blocks are not ordered
    "lost atomic, uncounted": {"unordered"},
}
TIMEOUT = 600


def build_file(compiler: str) -> str:
    """Ninja's rules. The machine itself is not instrumented: the sanitizers are to see the kernels alone."""
    lines = [  # DWARF 4, of which addr2line finds lines in headers
        "flags = -std=c++17 -O1 -gdwarf-4 -Wno-unknown-pragmas -DVDK_EMULATED "
        f"-I{ROOT / 'tests'} -I{ROOT / 'csrc'}",
        "rule compile",
        f"  command = {compiler} $flags $extra -MD -MF $out.d -x c++ -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        f"  command = {compiler} $extra $in -o $out",
    ]
    machine = [HERE / "machine.cpp", HERE / "memory.cpp"]
    sources = [
        HERE / "main.cpp",
        *sorted(HERE.glob("check_*.cpp")),
        *sorted((ROOT / "csrc").glob("*/cuda*.cu")),
    ]
    for name, flags in SANITIZERS.items():
        objects = []
        for source in [*sources, *machine]:
            out = f"{name}/{source.parent.name}-{source.stem}.o"
            plain = source in machine
            objects.append(out)
            lines += [f"build {out}: compile {source}"]
            lines += [f"  extra = {f'-DVDK_{name[0].upper()}SAN' if plain else flags}"]
        lines += [f"build {name}/checks: link {' '.join(objects)}", f"  extra = {flags}"]
    return "\n".join(lines) + "\n"


def build(jobs: int) -> None:
    ninja = shutil.which("ninja") or str(Path(sysconfig.get_path("scripts"), "ninja"))
    BUILD.mkdir(parents=True, exist_ok=True)
    (BUILD / "build.ninja").write_text(build_file(os.environ.get("CXX", "g++")))
    subprocess.run([ninja, "-C", str(BUILD), "-j", str(jobs)], check=True, stdout=sys.stderr)


def run(mode: str, name: str, schedules: int) -> str:
    """'' if nothing was noticed, else what was, in a line."""
    options = {
        "ASAN_OPTIONS": "detect_stack_use_after_return=0:detect_leaks=0",
        "TSAN_OPTIONS": "halt_on_error=1",
        "UBSAN_OPTIONS": "print_stacktrace=0",
    }
    # the sanitizer takes long to make new threads for every block, and needs no luck to see a race
    command = [str(BUILD / MODES[mode] / "checks"), name, "1" if mode == "unordered" else str(schedules)]
    try:
        done = subprocess.run(
            command + ["unordered"] * (mode == "unordered"),
            env={**os.environ, **options},
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        return f"did not end in {TIMEOUT} s"
    if done.returncode == 0:
        return ""
    report = (done.stdout + done.stderr).replace(f"{ROOT}/", "")
    if race := re.search(r"data race.*?#0 .*?\(checks\+(0x\w+)\)", report, re.DOTALL):
        return f"data race at {source_line(Path(command[0]), race[1])}"
    lines = report.splitlines()
    told = [line for line in lines if line.startswith("SUMMARY") or "runtime error" in line]
    return (told or lines or [f"exit code {done.returncode}"])[0]


def source_line(executable: Path, address: str) -> str:
    """File and line, which the sanitizer itself does not find for templates."""
    if shutil.which("addr2line") is None:
        return address
    line = subprocess.run(["addr2line", "-e", executable, address], capture_output=True, text=True).stdout
    return line.split(" ")[0].strip().replace(f"{ROOT}/", "")


def judge(kind: str, name: str, schedules: int, pool: ThreadPoolExecutor) -> dict[str, object]:
    start = time.monotonic()
    noticed = dict(zip(MODES, pool.map(lambda mode: run(mode, name, schedules), MODES), strict=True))
    expected = CAUGHT_BY.get(name, set(MODES)) if kind == "mutant" else set()
    strict = not expected
    caught = {mode for mode, what in noticed.items() if what}
    return {
        "rung": "sanitizers" if kind == "check" else "mutants",
        "kernel": name,
        "ok": not caught if strict else expected <= caught,
        **{mode: what or ("ok" if strict else "not caught") for mode, what in noticed.items()},
        "seconds": round(time.monotonic() - start, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--schedules", type=int, default=2, help="random orders each kernel is run under")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", default="", help="names that hold this text")
    args = parser.parse_args()
    build(args.jobs)
    listed = subprocess.run([BUILD / "address" / "checks"], check=True, capture_output=True, text=True).stdout
    ok = True
    with ThreadPoolExecutor(args.jobs) as pool:
        for line in listed.splitlines():
            kind, _, name = line.partition(" ")
            if args.only in name:
                row = judge(kind, name, args.schedules, pool)
                ok &= bool(row["ok"])
                print(json.dumps(row), flush=True)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
