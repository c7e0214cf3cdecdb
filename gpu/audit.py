"""What a wheel with CUDA kernels must be: `python -m gpu audit dist/*.whl`."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from . import sass

LIBRARY = "vdropkern/_C.abi3.so"
WEAK = {"aoti_torch_get_current_cuda_stream"}  # of libtorch_cuda: undefined where torch has no CUDA
_UNSTABLE = r"_ZNK?(3c10|2at|5torch)|_?Py"  # torch's C++ and Python's own names change with their releases
_FORBIDDEN_LIBRARIES = ("libpython", "libc10", "libtorch_python", "libtorch_cuda", "libcuda", "libcudart")


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def problems(wheel: Path) -> list[str]:
    """What is wrong with a wheel; empty if nothing is."""
    wrong = []
    if (
        auditor := shutil.which("abi3audit")
        or shutil.which("abi3audit", path=str(Path(sys.executable).parent))
    ) is None:
        wrong.append("abi3audit was not found: pip install abi3audit")
    elif (
        done := subprocess.run([auditor, "--strict", wheel], capture_output=True, text=True, check=False)
    ).returncode:
        wrong.append(f"abi3audit: {done.stdout}{done.stderr}")
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        library = Path(archive.extract(LIBRARY, folder))
        facts = json.loads(archive.read("vdropkern/_build.json"))
        wrong += _names(wheel, facts)
        wrong += _binding(library)
        wrong += _architectures(library, facts.get("cuda_architectures", []))
    return wrong


def _names(wheel: Path, facts: dict[str, Any]) -> list[str]:
    tag = "+cu" + facts.get("cuda", "").replace(".", "")
    return (
        []
        if f"{tag}-cp310-abi3-" in wheel.name
        else [f"the name does not say {tag}-cp310-abi3: {wheel.name}"]
    )


def _binding(library: Path) -> list[str]:
    """Nothing of torch's C++, of CUDA's libraries or of Python, and no place on the build machine."""
    wrong = []
    dynamic = _output("readelf", "--wide", "--dynamic", str(library))
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic)
    wrong += [f"needs {name}" for name in needed if name.startswith(_FORBIDDEN_LIBRARIES)]
    wrong += ["does not need libtorch.so"] if "libtorch.so" not in needed else []
    wrong += ["has a run path"] if re.search("R(UN)?PATH", dynamic) else []
    sources = set(re.findall(rb"\0(/[ -~]+\.(?:h|cuh|cu|cpp))\0", library.read_bytes()))
    wrong += [f"names {path.decode()}, a file of the build machine" for path in sorted(sources)]
    undefined = re.findall(
        r"(GLOBAL|WEAK)\s+DEFAULT\s+UND\s+(\S+)", _output("readelf", "--wide", "--dyn-syms", str(library))
    )
    wrong += [f"binds to {name}" for _, name in undefined if re.match(_UNSTABLE, name)]
    strong = {name for kind, name in undefined if kind == "GLOBAL"}
    wrong += [
        f"{name} must be weak, or CPU builds of torch cannot load the library" for name in WEAK & strong
    ]
    wrong += [f"binds to {name}" for name in strong if re.match(r"(cuda|__cuda|cu)[A-Z]", name)]
    return wrong


def _architectures(library: Path, said: list[str]) -> list[str]:
    """Machine code of all that the build noted, and PTX of the newest."""
    code, ptx = sass.contents(library)
    expected = sorted(name for name in said if name.startswith("sm_"))
    wrong = [] if expected == code else [f"says {' '.join(expected)}, holds {' '.join(code)}"]
    newest = [name.replace("compute_", "sm_") for name in said if name.startswith("compute_")]
    return wrong + ([] if ptx == newest else [f"must hold PTX of {newest}, holds {ptx}"])


def main(wheels: list[Path]) -> int:
    """Print what is wrong; 0 if nothing is."""
    bad = 0
    for wheel in wheels:
        wrong = problems(wheel) if wheel.is_file() else ["no such file"]
        bad += bool(wrong)
        print(f"{wheel.name}: " + ("good" if not wrong else "".join(f"\n  {line}" for line in wrong)))
    return 1 if bad or not wheels else 0
