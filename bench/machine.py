"""What a measurement was taken on: needed to read it, and to repeat it."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

import vdropkern as vdk
from vdropkern import _backend

from .run import ROOT

PEERS = ("cplxmodule", "bayesian-torch", "torchbnn")


def _read(path: str, default: str = "unknown") -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return default


def _field(path: str, name: str) -> str | None:
    for line in _read(path, "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The revision, with ``+`` where tracked files differ from it; None outside a checkout."""

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10)

    try:
        head, clean = git("rev-parse", "--short", "HEAD"), git("diff", "--quiet", "HEAD")
    except (OSError, subprocess.TimeoutExpired):
        return None
    return head.stdout.strip() + ("+" if clean.returncode else "") if head.returncode == 0 else None


def describe() -> dict[str, Any]:
    """Machine, kernel settings and versions as JSON."""
    huge_pages = _read("/sys/kernel/mm/transparent_hugepage/enabled")
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cpu": _field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "memory": _field("/proc/meminfo", "MemTotal"),
        "system": platform.platform(),
        "huge_pages": huge_pages.partition("[")[2].partition("]")[0] or huge_pages.strip(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "vdropkern": vdk.__version__,
        "commit": _commit(),
        "isas": list(_backend.cpu_isas()),
        "library_error": _backend.library_error(),
        "peers": {name: _version(name) for name in PEERS},
    }
