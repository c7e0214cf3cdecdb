"""Rung 8, `make gpu-check`: all that needs a GPU, in one command that asks nothing and fetches nothing.

Needs torch with CUDA, Triton, pytest and Ninja, and for the C++ kernels a wheel in dist/ or nvcc and a C++
compiler. Writes gpu-check-<device>.json and .md; ends with 0 only if every test passed.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
import traceback
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
TESTS = ("tests/gpu", "tests/test_import.py")  # others import packages a bare machine has not
_QUERY = (
    "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.draw,power.limit,temperature.gpu,pstate"
)


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired) as err:
        return f"failed: {err}"
    return (done.stdout or done.stderr).strip()


def clocks() -> dict[str, str]:
    """What nvidia-smi says of the first GPU now."""
    said = _run("nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader", "--id=0")
    values = [v.strip() for v in said.split(",")]
    return (
        dict(zip(_QUERY.split(","), values, strict=True))
        if len(values) == len(_QUERY.split(","))
        else {"said": said}
    )


def prepare_library(stand_in: bool) -> str:
    """Have a compiled library with kernels for this GPU; says where it comes from, or why there is none.

    In this order: the one that is there, a wheel in dist/, a build with nvcc. vdropkern is not imported yet.
    """
    if stand_in:
        return "the one that is there (stand-in)"
    number = "".join(map(str, torch.cuda.get_device_capability()))
    probe = (
        "from vdropkern import _devices as d;"
        f"print(d.serves(d.cuda_build()[1], {torch.cuda.get_device_capability()!r}))"
    )
    if _run(sys.executable, "-c", probe).endswith("True"):
        return "the one that is there"
    for wheel in sorted(ROOT.glob("dist/*+cu*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            data = archive.read("vdropkern/_C.abi3.so")
        target = ROOT / "vdropkern" / "_C.abi3.so"
        target.with_suffix(".tmp").write_bytes(data)
        os.replace(target.with_suffix(".tmp"), target)
        if _run(sys.executable, "-c", probe).endswith("True"):
            return f"from {wheel.name}"
    nvcc = _find_nvcc()
    if nvcc is None:
        return "none: no wheel in dist/ and no nvcc; Triton's kernels alone are checked"
    from .build import build

    try:
        build(*nvcc, f"sm_{number}")
    except RuntimeError as err:
        return f"none: {err}"
    return f"built by {nvcc[0]} {nvcc[1]} for sm_{number}"


def _find_nvcc() -> tuple[str, str] | None:
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    paths = [*(f"{home}/bin/nvcc" for home in homes), "nvcc", "/usr/local/cuda/bin/nvcc"]
    for path in paths:
        if match := re.search(r"release (\d+\.\d+)", _run(path, "--version")):
            return path, match[1]
    return None


def run_tests(stand_in: bool, arguments: list[str]) -> dict[str, Any]:
    """Every test marked `gpu`, each file in the one process; counts and the failures' texts."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "junit.xml")
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-m",
            "gpu",
            *TESTS,
            f"--junitxml={report}",
            "-W",  # a warning of some torch or Triton is no failure of a kernel
            "default",
            "-p",
            "no:cacheprovider",
        ]
        command += ["--gpu-stand-in"] if stand_in else []
        done = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        if not report.exists():
            return {"exit": done.returncode, "said": (done.stdout + done.stderr)[-8000:]}
        suite = ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None
    counts = {k: int(suite.get(k, 0)) for k in ("tests", "failures", "errors", "skipped")}
    failures = [
        {"test": f"{case.get('classname')}::{case.get('name')}", "said": (problem.text or "")[-1500:]}
        for case in suite.iter("testcase")
        for problem in (*case.findall("failure"), *case.findall("error"))
    ]
    skips = sorted({s.get("message", "") for case in suite.iter("testcase") for s in case.findall("skipped")})
    return {"exit": done.returncode, **counts, "failed": failures, "reasons_to_skip": skips}


def run_benchmarks(stand_in: bool, quick: bool) -> list[dict[str, Any]]:
    from . import bench_table

    device = torch.device("cpu") if stand_in else torch.device("cuda", 0)
    rows = []
    for case in bench_table.TINY if stand_in else bench_table.CASES:
        try:
            rows.append(bench_table.measure(case, device, 0.1 if quick else 5.0))
        except Exception:  # say so in the report and go on
            rows.append(
                {
                    "case": case.name,
                    "ms": {},
                    "peak_bytes": {},
                    "failed": {"all": traceback.format_exc()[-800:]},
                }
            )
        print(f"  {case.name}", flush=True)
    return rows


def main(
    stand_in: bool = False, quick: bool = False, out: Path = ROOT, pytest_arguments: list[str] | None = None
) -> int:
    """Run all, write the two files, return the exit code."""
    if not stand_in and not torch.cuda.is_available():
        print("gpu-check: torch sees no CUDA device here; see docs/gpu.md", file=sys.stderr)
        return 2
    print("== library", flush=True)
    library = prepare_library(stand_in)
    print(f"  {library}\n== tests", flush=True)
    sys.path.insert(0, str(ROOT))
    from vdropkern import _info

    before = clocks()
    tests = run_tests(stand_in, pytest_arguments or [])
    print(
        "  " + ", ".join(f"{k} {v}" for k, v in tests.items() if isinstance(v, int)) + "\n== benchmarks",
        flush=True,
    )
    results = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "library": library,
        "commit": _run("git", "rev-parse", "--short", "HEAD"),
        "info": _info.gather(),
        "nvidia_smi_before": before,
        "tests": tests,
        "benchmarks": run_benchmarks(stand_in, quick),
        "nvidia_smi_after": clocks(),
    }
    device = "stand-in" if stand_in else re.sub(r"\W+", "-", torch.cuda.get_device_name(0)).lower()
    path = out / f"gpu-check-{device}"
    path.with_suffix(".json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    path.with_suffix(".md").write_text(report(results), encoding="utf-8")
    print(f"== wrote {path}.json and .md", flush=True)
    return 0 if tests["exit"] == 0 else 1


def report(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    from . import bench_table

    info, tests = results["info"], results["tests"]
    versions = ", ".join(f"{k} {v}" for k, v in info["versions"].items())
    gpu, built = info["gpu"], info["compiled_library"]["cuda_architectures"]
    lines = [
        f"# GPU check, {results['date']}",
        "",
        f"- GPU: {'; '.join(gpu['found']) or gpu['why_not']}",
        f"- torch's CUDA {gpu['torch_cuda']}, Triton {gpu['triton']}",
        f"- Versions: {versions}; commit {results['commit']}",
        f"- Library: {results['library']}; architectures {', '.join(built)}",
        f"- nvidia-smi before: {results['nvidia_smi_before']}",
        f"- nvidia-smi after: {results['nvidia_smi_after']}",
        "",
        "## Tests",
        "",
        ", ".join(f"{k} {v}" for k, v in tests.items() if isinstance(v, int)),
        "",
    ]
    lines += [f"- FAILED {f['test']}\n\n```\n{f['said']}\n```" for f in tests.get("failed", ())]
    lines += [f"- skipped: {reason}" for reason in tests.get("reasons_to_skip", ())]
    lines += [f"```\n{tests['said']}\n```"] if "said" in tests else []
    lines += ["", "## Benchmarks", "", "Medians of single calls, caches cold, launches included.", ""]
    return (
        "\n".join(lines) + "\n" + bench_table.markdown([r for r in results["benchmarks"] if r["ms"]]) + "\n"
    )
