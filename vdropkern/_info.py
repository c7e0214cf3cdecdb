"""What this installation is and can do here: facts for `vdropkern info` and for reports, from torch alone."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from . import _backend
from ._version import __version__

ENVIRONMENT = {
    _backend.ENV_BACKEND: f"backend of every op: {', '.join(_backend.BACKENDS)}",
    _backend.ENV_CPU_ISA: f"instruction set of the CPU kernels: {', '.join(_backend.CPU_ISAS)}",
    "VDROPKERN_DATA": "folder of IDX files, or a .tgz that holds them, for the recipes",
}
OPS = (*_backend.KERNEL_OPS, *(op for op in ("spmm",) if op not in _backend.KERNEL_OPS))


def cpu_name() -> str:
    """The processor's name as the system gives it, or its architecture."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Versions of what decides a result."""
    return {
        "vdropkern": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "os": platform.platform(),
    }


def backends(device: torch.device | str = "cpu") -> dict[str, str]:
    """For each op the backend that it takes for a tensor on `device`, with the reason."""
    like = torch.empty(0, device=device)
    return {op: _backend.explain(op, like).splitlines()[0].partition(": ")[2] for op in OPS}


def build() -> dict[str, Any] | None:
    """What setup.py noted of the build: torch and compiler, or why without kernels; None without a note."""
    note = Path(__file__).with_name("_build.json")
    if not note.exists():
        return None
    facts: dict[str, Any] = json.loads(note.read_text(encoding="utf-8"))
    return facts


def gather() -> dict[str, Any]:
    """Everything `info` prints, as plain data; initialises no device."""
    error = _backend.library_error()
    return {
        "versions": versions(),
        "cpu": {"name": cpu_name(), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "compiled_library": {
            "loaded": error is None,
            "why_not": error,
            "instruction_sets": {
                "built": list(_backend.cpu_isas("built")),
                "supported": list(_backend.cpu_isas("supported")),
                "running": _backend.cpu_isa(),
            },
            "cuda_architectures": [],
            "build": build(),
        },
        "backend": _backend.get_backend(),
        "ops": backends(),
        "environment": {name: os.environ.get(name) for name in ENVIRONMENT},
        "executable": sys.executable,
    }
