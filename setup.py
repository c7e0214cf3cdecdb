"""Builds the compiled kernels with CMake. Everything else about the package is in pyproject.toml.

Without torch, CMake, Ninja or a C++ compiler the package is built in pure Python, says so, and runs on its
reference; ``VDROPKERN_REQUIRE_KERNELS=1`` makes that an error, ``=0`` asks for it. torch is never imported.

CUDA kernels are built where torch has CUDA and nvcc is found; ``VDROPKERN_CUDA=13.0`` asks for them whatever
torch is there (no GPU is needed), ``VDROPKERN_CUDA=0`` does without.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
LIBRARY = "_C.abi3.so"
REQUIRE = os.environ.get("VDROPKERN_REQUIRE_KERNELS", "")
CUDA = os.environ.get("VDROPKERN_CUDA", "")
CUDA_ARCHS = os.environ.get("VDROPKERN_CUDA_ARCHS") or "80 86 89 90 100 120"
NO_KERNELS = """
********************************************************************************
 vdropkern is being built WITHOUT its compiled kernels: {reason}.
 It will work, on the slow pure-PyTorch reference. To get the kernels, install
 torch >= 2.10 and a C++ compiler, then build where torch can be seen:

   pip install "setuptools>=77" cmake ninja
   pip install --no-build-isolation --force-reinstall --no-deps .
"""
OTHER_MAJOR = """vdropkern: {nvcc[0]} is of CUDA {nvcc[1]}, torch {torch} of CUDA {wanted}: majors must agree.
The CPU kernels alone, GPUs served by Triton:  VDROPKERN_CUDA=0 pip install ...
The CUDA kernels too, by a fitting toolkit:    CUDA_HOME=/usr/local/cuda-{wanted} pip install ..."""


def find_torch() -> tuple[Path | None, str]:
    """(torch's folder, its version), or (None, why not). Does not import torch.

    pip's isolated build hides the site-packages it will install to; torch's headers there are what counts.
    """
    spec = importlib.util.find_spec("torch")
    found = [Path(p) for p in (spec and spec.submodule_search_locations) or ()]
    for folder in (*found, Path(sysconfig.get_path("platlib"), "torch")):
        if not (folder / "include/torch/csrc").is_dir():
            continue
        match = re.search(r"__version__ = '((\d+)\.(\d+)[^']*)'", (folder / "version.py").read_text())
        if match and (int(match[2]), int(match[3])) >= (2, 10):
            return folder, match[1]
        return None, f"torch {match[1] if match else ''} in {folder} is too old, 2.10 is needed"
    return None, "torch was not found"


def find_tool(*names: str) -> str | None:
    """A program on PATH, or beside this Python (a virtual environment that was not activated)."""
    paths = (os.environ.get("PATH", ""), sysconfig.get_path("scripts"))
    return next((t for path in paths for name in names if (t := shutil.which(name, path=path))), None)


def find_nvcc(of_torch: str | None) -> tuple[str, str] | None:
    """(nvcc, its version as 13.0): of the version asked for, else of torch's major if there is one.

    Looked for in CUDA_HOME, which decides where it is set, on PATH, in /usr/local.
    """
    named = [f"{os.environ[home]}/bin/nvcc" for home in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(home)]
    homes = [f"/usr/local/cuda-{CUDA or of_torch}", "/usr/local/cuda"]
    others = [str(shutil.which("nvcc")), *(f"{home}/bin/nvcc" for home in homes)]
    for nvccs in (named, others):
        usable = []
        for nvcc in filter(os.path.exists, nvccs):
            said = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False).stdout
            if (match := re.search(r"release (\d+\.\d+)", said)) and CUDA in ("", match[1]):
                usable.append((nvcc, match[1]))
        if usable:
            fitting = [found for found in usable if major(found[1]) == major(of_torch or found[1])]
            return (fitting or usable)[0]
    return None


def major(version: str) -> str:
    return version.split(".")[0]


def find_cuda() -> tuple[str, str] | None:
    """nvcc and its version where CUDA kernels are to be built, else None; leaves where that cannot be."""
    match = re.search(r"^cuda\b.*'(\d+\.\d+)", (TORCH / "version.py").read_text(), re.M) if TORCH else None
    of_torch = match[1] if match else None
    if TORCH is None or CUDA == "0" or not (CUDA or of_torch):
        return None
    nvcc = find_nvcc(of_torch)
    if nvcc is None:
        if CUDA:
            sys.exit(
                f"vdropkern: VDROPKERN_CUDA={CUDA} asks for nvcc {CUDA}, which was not found; set CUDA_HOME"
            )
        return None
    if of_torch is not None and of_torch != nvcc[1]:
        if major(of_torch) != major(nvcc[1]):
            sys.exit(OTHER_MAJOR.format(nvcc=nvcc, torch=TORCH_VERSION, wanted=of_torch))
        said = f"vdropkern: nvcc is of CUDA {nvcc[1]}, torch {TORCH_VERSION} of CUDA {of_torch}"
        print(f"{said}: good, within one major", file=sys.stderr, flush=True)
    return nvcc


def why_no_kernels() -> str | None:
    if REQUIRE == "0":
        return "VDROPKERN_REQUIRE_KERNELS=0 asks for it"
    if os.name != "posix":
        return f"the kernels do not build on {sys.platform} yet"
    if TORCH is None:
        return TORCH_VERSION
    if not os.environ.get("CXX") and find_tool("c++", "g++", "clang++") is None:
        return "no C++ compiler was found (set CXX to name one)"
    return next((f"{tool} was not found" for tool in ("cmake", "ninja") if find_tool(tool) is None), None)


def jobs() -> int:
    """Parallel compilations: one a core and a GB of free memory. MAX_JOBS wins."""
    if asked := os.environ.get("MAX_JOBS"):
        return max(1, int(asked))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    gb = [float("inf")]  # free on the machine, and a container's limit
    for path, pattern, unit in (
        (Path("/proc/meminfo"), r"MemAvailable:\s+(\d+)", 2**20),
        (Path("/sys/fs/cgroup/memory.max"), r"(\d+)", 2**30),
    ):
        gb += [int(n) / unit for n in re.findall(pattern, path.read_text())] if path.exists() else []
    return int(max(1, min(cores, min(gb) * 0.85)))


def replace_file(path: Path, data: bytes) -> None:
    """Write a file whole; a process that has the old one mapped keeps it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".tmp").write_bytes(data)
    os.replace(path.with_suffix(".tmp"), path)


def go_without_kernels(package: Path) -> None:
    if REQUIRE == "1":
        sys.exit(f"vdropkern: VDROPKERN_REQUIRE_KERNELS=1, but no kernels can be built: {REASON}")
    (package / LIBRARY).unlink(missing_ok=True)
    replace_file(package / "_build.json", json.dumps({"kernels": False, "reason": REASON}).encode())
    print(NO_KERNELS.format(reason=REASON), file=sys.stderr, flush=True)


class BuildPython(build_py):
    def run(self) -> None:
        package = ROOT / "vdropkern" if self.editable_mode else Path(self.build_lib) / "vdropkern"
        if not self.editable_mode:
            shutil.rmtree(package, ignore_errors=True)  # it may hold modules deleted since
        super().run()
        if REASON is not None:
            go_without_kernels(package)


class BuildKernels(build_ext):
    def run(self) -> None:
        package = ROOT / "vdropkern" if self.inplace else Path(self.build_lib) / "vdropkern"
        if REASON is not None:
            go_without_kernels(package)
            return
        # the same for wheels and in place: what one compiled the other need not
        build = ROOT / "build" / f"cmake-{sysconfig.get_platform()}"
        (build / "CMakeCache.txt").unlink(missing_ok=True)  # it may name tools of an isolated build
        options = [f"-DVDROPKERN_TORCH_{name.upper()}={TORCH}/{name}" for name in ("include", "lib")]
        if self.inplace and importlib.util.find_spec("pybind11"):
            options += ["-DVDROPKERN_HOST_MATH=ON", f"-DPython_EXECUTABLE={sys.executable}"]
        if NVCC is not None:
            archs = re.findall(r"\d+[a-z]?", CUDA_ARCHS)
            options += [f"-DVDROPKERN_NVCC={NVCC[0]}", f"-DVDROPKERN_CUDA_ARCHS={';'.join(archs)}"]
            options += [f"-DVDROPKERN_NVCC_THREADS={max(1, min(jobs() // 4, len(archs)))}"]
        options += [f"-DCMAKE_MAKE_PROGRAM={find_tool('ninja')}", *shlex.split(os.getenv("CMAKE_ARGS", ""))]
        cmake = str(find_tool("cmake"))
        try:
            subprocess.run([cmake, "-S", str(ROOT), "-B", str(build), "-GNinja", *options], check=True)
            subprocess.run([cmake, "--build", str(build), "--parallel", str(jobs())], check=True)
        except subprocess.CalledProcessError:
            sys.exit("vdropkern: the kernels did not build; VDROPKERN_REQUIRE_KERNELS=0 does without them")
        facts = {"kernels": True, "torch": TORCH_VERSION, "compiler": (build / "compiler.txt").read_text()}
        if NVCC is not None:
            newest = max(archs, key=lambda arch: int(arch.rstrip("abcdef")))
            architectures = [*(f"sm_{arch}" for arch in archs), f"compute_{newest}"]
            facts |= {"cuda": NVCC[1], "cuda_architectures": architectures}
        replace_file(package / LIBRARY, (build / LIBRARY).read_bytes())
        replace_file(package / "_build.json", json.dumps(facts).encode())


class Wheel(bdist_wheel):
    def get_tag(self) -> tuple[str, str, str]:
        # the library calls no Python API at all, so one wheel serves every Python
        return super().get_tag() if REASON is not None else ("cp310", "abi3", super().get_tag()[2])


TORCH, TORCH_VERSION = find_torch()
REASON = why_no_kernels()
NVCC = None if REASON is not None else find_cuda()

setup(
    ext_modules=[] if REASON is not None else [Extension("vdropkern._C", sources=[], py_limited_api=True)],
    # wheels with CUDA kernels say of which CUDA: vdropkern-1.2.3+cu130-...
    options={} if NVCC is None else {"egg_info": {"tag_build": "+cu" + NVCC[1].replace(".", "")}},
    cmdclass={"build_py": BuildPython, "build_ext": BuildKernels, "bdist_wheel": Wheel},
)
