"""The disassemblers, which say what machine code really is: from pip's packages, Triton, CUDA or PATH."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import stat
import subprocess
from pathlib import Path

HINT = "pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm"


class ToolMissingError(RuntimeError):
    """A program is needed that is not here; the message says where to get it."""


def _folders() -> list[Path]:
    found = []
    for package, inside in (
        ("nvidia", ("cu13/bin", "cuda_nvdisasm/bin")),
        ("triton", ("backends/nvidia/bin",)),
    ):
        spec = importlib.util.find_spec(package)
        roots = list(spec.submodule_search_locations or ()) if spec else []
        found += [Path(root, folder) for root in roots for folder in inside]
    return [*found, Path("/usr/local/cuda/bin")]


@functools.cache
def find(name: str) -> str:
    """Path of ``cuobjdump`` or ``nvdisasm``; pip's come first, they know the newest architectures.

    Raises:
        ToolMissingError: it is nowhere.
    """
    for folder in _folders():
        path = folder / name
        if path.exists():
            if not os.access(path, os.X_OK):
                path.chmod(path.stat().st_mode | stat.S_IXUSR)
            return str(path)
    if (found := shutil.which(name)) is not None:
        return found
    raise ToolMissingError(f"{name} was not found: {HINT}")


def run(name: str, *arguments: object, cwd: Path | None = None) -> str:
    """Output of a tool; raises with what it said if it fails."""
    command = [find(name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{name} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def demangle(names: list[str]) -> list[str]:
    """C++ names as they are written; unchanged where there is no c++filt."""
    if not names or shutil.which("c++filt") is None:
        return names
    done = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    return done.stdout.splitlines()
