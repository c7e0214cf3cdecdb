"""The compiled library by Ninja alone, for a machine that has no CMake: this GPU's kernels, no CPU dispatch.

What is built here is for checking on that machine; wheels come from CMake (docs/building.md).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
_CXX = "-O3 -std=c++17 -fPIC -fvisibility=hidden -DTORCH_TARGET_VERSION=0x020a000000000000"
_CPU = "-DVDK_ISA=portable -fno-math-errno -fno-trapping-math -ffp-contract=fast"


def ninja_file(nvcc: str, version: str, architecture: str, cxx: str = "c++") -> str:
    """build.ninja for `architecture`, as sm_90."""
    torch_root = Path(torch.__file__).parent
    number = architecture.removeprefix("sm_")
    code = f"-gencode arch=compute_{number},code=[sm_{number},compute_{number}]"
    cudart = Path(nvcc).resolve().parent.parent / "lib64"
    define = f'-DVDK_CUDA_BUILD=\\"{version}\\ {architecture}\\ compute_{number}\\"'
    libraries = (
        f"-L{torch_root}/lib -Wl,--no-as-needed -ltorch -ltorch_cpu -Wl,--as-needed"
        f" -L{cudart} -lcudart_static -Wl,--exclude-libs,libcudart_static.a -lrt -ldl -lpthread"
    )
    lines = [
        f"cxx = {cxx} {_CXX} -I{ROOT}/csrc -isystem {torch_root}/include",
        f"nvcc = {nvcc} -O3 -std=c++17 -Xcompiler -fPIC,-fvisibility=hidden -I{ROOT}/csrc {code}",
        "rule cxx\n  command = $cxx $flags -c $in -o $out",
        "rule cuda\n  command = $nvcc -c $in -o $out",
        f"rule link\n  command = {cxx} -shared $in -o $out {libraries}",
    ]
    objects = []
    sources = [
        *(ROOT / "csrc").glob("*.cpp"),
        *(ROOT / "csrc").glob("*/*.cpp"),
        *(ROOT / "csrc").glob("*/*.cu"),
    ]
    for source in sorted(sources):
        if source.parent.name == "host_math":
            continue
        name = "_".join(source.relative_to(ROOT / "csrc").parts) + ".o"
        objects.append(name)
        lines.append(f"build {name}: {'cuda' if source.suffix == '.cu' else 'cxx'} {source}")
        if source.name.startswith(("cpu", "winograd")):  # compiled once per instruction set
            lines.append(f"  flags = {_CPU}")
        if source.name == "registration.cpp":
            lines.append(f"  flags = {define}")
    lines += [f"build _C.abi3.so: link {' '.join(objects)}", "default _C.abi3.so"]
    return "\n".join(lines) + "\n"


def build(nvcc: str, version: str, architecture: str) -> Path:
    """Build into build/ninja-<architecture> and put the library into the package; returns its path.

    Raises:
        RuntimeError: it did not build, with what the compilers said.
    """
    folder = ROOT / "build" / f"ninja-{architecture}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "build.ninja").write_text(ninja_file(nvcc, version, architecture), encoding="utf-8")
    scripts = sysconfig.get_path("scripts")
    ninja = shutil.which("ninja") or shutil.which("ninja", path=scripts)
    command = [ninja] if ninja else [sys.executable, "-m", "ninja"]
    done = subprocess.run([*command, "-C", str(folder)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the library did not build:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    target = ROOT / "vdropkern" / "_C.abi3.so"
    shutil.copy(folder / "_C.abi3.so", target.with_suffix(".tmp"))
    target.with_suffix(".tmp").replace(target)
    return target
