"""What this installation is and can do here: facts for `vdropkern info` and for reports, from torch alone."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from . import _backend, _devices
from ._version import __version__

ENVIRONMENT = {
    _backend.ENV_BACKEND: f"backend of every op: {', '.join(_backend.BACKENDS)}",
    _backend.ENV_CPU_ISA: f"instruction set of the CPU kernels: {', '.join(_backend.CPU_ISAS)}",
    "VDROPKERN_CACHE": "folder of downloads and decoded images; off: no decoded images",
    "VDROPKERN_DATA": "folder of IDX files, or a .tgz that holds them, for the recipes",
    "VDROPKERN_IMAGES": "CIFAR-10, a folder or archive of image files, or an .npz, for the recipes on images",
}


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
    return {op: lines[0].partition(": ")[2] for op, lines in _explained(device).items()}


def reasons(device: torch.device | str = "cpu") -> dict[str, list[str]]:
    """Why others are not taken on `device`: ``not cuda: ...``, and the ops of which it is said."""
    said: dict[str, list[str]] = {}
    for op, lines in _explained(device).items():
        for line in lines[1:]:
            said.setdefault(line.strip(), []).append(op)
    return said


def _explained(device: torch.device | str) -> dict[str, list[str]]:
    place = torch.device(device)
    return {op: _backend.explain_on(op, place.type, place.index).splitlines() for op in _backend.KERNEL_OPS}


def gpus() -> list[str]:
    """Name, compute capability and memory of each GPU; asks the driver only where there is one."""
    if _devices.why_no_gpu() is not None:
        return []
    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [f"{p.name}, sm_{p.major}{p.minor}, {p.total_memory / 2**30:.0f} GiB" for p in found]


def build() -> dict[str, Any] | None:
    """What setup.py noted of the build: torch and compiler, or why without kernels; None without a note."""
    note = Path(__file__).with_name("_build.json")
    if not note.exists():
        return None
    facts: dict[str, Any] = json.loads(note.read_text(encoding="utf-8"))
    return facts


def gather() -> dict[str, Any]:
    """Everything `info` prints, as plain data. A GPU that is there is asked what it is."""
    error = _backend.library_error()
    version, architectures = _devices.cuda_build()
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
            "cuda": version or None,
            "cuda_architectures": list(architectures),
            "build": build(),
        },
        "backend": _backend.get_backend(),
        "gpu": {
            "why_not": _devices.why_no_gpu(),
            "found": gpus(),
            "torch_cuda": torch.version.cuda,
            "triton": _devices.triton_version(),
        },
        "ops": backends(),
        "ops_on_cuda": backends("cuda"),
        "reasons": reasons(),
        "reasons_on_cuda": reasons("cuda"),
        "environment": {name: os.environ.get(name) for name in ENVIRONMENT},
        "executable": sys.executable,
    }
