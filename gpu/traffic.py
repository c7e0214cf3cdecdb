"""Rung 6 in numbers: bytes that emulated kernels move, over the least they could move."""

from __future__ import annotations

import functools
import importlib
import re
import sys
from typing import Any

import torch

from .machine_code import ROOT

N = 1 << 16


@functools.cache
def _emulated() -> Any:
    """The module that runs CUDA kernels on the CPU, or None where it was not built."""
    sys.path.insert(0, str(ROOT / "build" / "host_math"))
    try:
        return importlib.import_module("emulated")
    except ImportError:
        return None
    finally:
        sys.path.pop(0)


def _moved(gpu: Any, name: str) -> int:
    """Bytes that kernels called `name` loaded and stored since the records were cleared."""
    return sum(r["loaded"] + r["stored"] for r in gpu.records() if r["kernel"].startswith(name))


class _Memory:
    """Tensors registered as global memory, as long as this lives."""

    def __init__(self, gpu: Any) -> None:
        self._gpu, self._held = gpu, list[Any]()

    def __call__(self, t: torch.Tensor) -> Any:
        buffer = self._gpu.Buffer("t", t.data_ptr(), t.numel() * t.element_size(), True)
        self._held.append((t, buffer))
        return buffer


@functools.cache
def _kl(grad: bool) -> float | None:
    gpu = _emulated()
    if gpu is None or not hasattr(gpu, "kl_float"):
        return None
    memory = _Memory(gpu)
    mu, log, dmu, dlog = (memory(torch.full((N,), -1.0)) for _ in range(4))
    one, value = memory(torch.ones(1)), memory(torch.ones(1))
    workspace = memory(torch.ones(gpu.kl_workspace(N)))
    outputs = (one, dmu, dlog) if grad else (None, None, None)
    gpu.clear_records()
    gpu.kl_float(mu, log, N, 0, *outputs, value, workspace)
    return _moved(gpu, "") / (4 * N * (4 if grad else 2))


@functools.cache
def _noise() -> float | None:
    gpu = _emulated()
    if gpu is None or not hasattr(gpu, "philox_normal_float32"):
        return None
    memory = _Memory(gpu)
    gpu.clear_records()
    gpu.philox_normal_float32(memory(torch.empty(N)), 1, N, memory(torch.ones(1, dtype=torch.int64)))
    return _moved(gpu, "") / (4 * N)


def ratio(kernel: str) -> float | None:
    """Of a kernel by the name `sass.short` gives it: its family's, which is the same for every instance."""
    if re.match(r"(ragged_)?noise_kernel<", kernel):
        return _noise()
    if kernel.startswith("kl_kernel<"):
        return _kl(kernel.endswith("true>"))
    return None
